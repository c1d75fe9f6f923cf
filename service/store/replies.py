"""Replies to writes that carried an Idempotency-Key."""

from datetime import datetime

from sqlalchemy import ColumnElement, String, cast, delete, update
from sqlalchemy.orm import Session

from service.store.tables import ReplyRow
from service.store.vault import vault_of


def find_reply(session: Session, key: bytes) -> ReplyRow | None:
    """The reply under the pseudonym of a caller's key, if it is still there."""
    return session.get(ReplyRow, key)


def keep_reply(session: Session, row: ReplyRow) -> None:
    """Keep a reply, in the transaction of the write it answers."""
    session.add(row)


def forget_mentions(session: Session, public_id: str) -> None:
    """Empty the replies that speak of a person or face, also the warnings that others resemble them."""
    pseudonym = vault_of(session).pseudonym("mention", public_id)
    _empty(session, cast(ReplyRow.mentions, String).contains(pseudonym))


def forget_collection(session: Session, collection: str) -> None:
    """Empty the replies that speak of a collection or somebody in it."""
    _empty(session, ReplyRow.collection == vault_of(session).pseudonym("collection", collection))


def drop_old_replies(session: Session, *, before: datetime) -> None:
    """Delete replies older than this."""
    session.execute(delete(ReplyRow).where(ReplyRow.created_at < before))


def _empty(session: Session, which: ColumnElement[bool]) -> None:
    session.execute(update(ReplyRow).where(which).values(sealed=None))
