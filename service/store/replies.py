"""Replies to writes that carried an Idempotency-Key."""

from datetime import datetime

from sqlalchemy import String, cast, delete, or_, update
from sqlalchemy.orm import Session

from service.store.tables import ReplyRow


def find_reply(session: Session, *, caller: str, key: str) -> ReplyRow | None:
    """The reply to this caller's key, if it is still there."""
    return session.get(ReplyRow, (caller, key))


def keep_reply(session: Session, row: ReplyRow) -> None:
    """Keep a reply, in the transaction of the write it answers."""
    session.add(row)


def forget_person(session: Session, person: str) -> None:
    """Empty the replies that speak of a person, also those to others' enrolments that warned of a resemblance."""
    mentions = or_(ReplyRow.person == person, cast(ReplyRow.body, String).contains(person))
    session.execute(update(ReplyRow).where(mentions).values(body=None))


def forget_face(session: Session, face: str) -> None:
    """Empty the reply that speaks of a face."""
    mentions = cast(ReplyRow.body, String).contains(face)
    session.execute(update(ReplyRow).where(mentions).values(body=None))


def forget_collection(session: Session, collection: str) -> None:
    """Empty the replies that speak of a collection or somebody in it."""
    session.execute(update(ReplyRow).where(ReplyRow.collection == collection).values(body=None))


def drop_old_replies(session: Session, *, before: datetime) -> None:
    """Delete replies older than this."""
    session.execute(delete(ReplyRow).where(ReplyRow.created_at < before))
