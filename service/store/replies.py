"""Replies to writes that carried an Idempotency-Key."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import ColumnElement, CursorResult, delete, func, select, update
from sqlalchemy.orm import Session

from service.store.tables import MentionRow, ReplyRow
from service.store.vault import vault_of


def find_reply(session: Session, key: bytes) -> ReplyRow | None:
    """The reply under the pseudonym of a caller's key, if it is still there."""
    return session.get(ReplyRow, key)


def keep_reply(session: Session, row: ReplyRow, mentions: Iterable[str]) -> None:
    """Keep a reply, in the transaction of the write it answers, with the public ids of whom it speaks of."""
    vault = vault_of(session)
    session.add(row)
    session.flush()
    session.add_all(MentionRow(pseudonym=vault.pseudonym("mention", one), key=row.key) for one in set(mentions))


def count_mentions(session: Session, public_id: str) -> int:
    """Number of replies, not emptied, that speak of a person or face."""
    speaking = select(func.count()).select_from(ReplyRow).where(_mentions(session, public_id))
    return session.scalar(speaking.where(ReplyRow.sealed.is_not(None))) or 0


def forget_mentions(session: Session, public_id: str) -> None:
    """Empty the replies that speak of a person or face, also the warnings that others resemble them."""
    _empty(session, _mentions(session, public_id))


def forget_collection(session: Session, collection: str) -> None:
    """Empty the replies that speak of a collection or somebody in it."""
    _empty(session, ReplyRow.collection == vault_of(session).pseudonym("collection", collection))


def has_old_replies(session: Session, *, before: datetime) -> bool:
    """Whether there are replies older than this."""
    return session.scalar(select(ReplyRow.key).where(ReplyRow.created_at < before).limit(1)) is not None


def drop_old_replies(session: Session, *, before: datetime) -> int:
    """Delete replies older than this; how many there were."""
    dropped = session.execute(delete(ReplyRow).where(ReplyRow.created_at < before))
    return dropped.rowcount if isinstance(dropped, CursorResult) else 0


def _mentions(session: Session, public_id: str) -> ColumnElement[bool]:
    pseudonym = vault_of(session).pseudonym("mention", public_id)
    return ReplyRow.key.in_(select(MentionRow.key).where(MentionRow.pseudonym == pseudonym))


def _empty(session: Session, which: ColumnElement[bool]) -> None:
    session.execute(update(ReplyRow).where(which).values(sealed=None))
