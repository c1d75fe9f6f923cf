"""API keys as rows; what a key is made of is `service.security`'s business."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.store.tables import ApiKeyRow, now


def add_key(session: Session, *, key_id: str, digest: bytes, label: str, scopes: Sequence[str]) -> ApiKeyRow:
    """Store a new key."""
    row = ApiKeyRow(id=key_id, digest=digest, label=label, scopes=list(scopes))
    session.add(row)
    session.flush()
    return row


def find_key(session: Session, key_id: str) -> ApiKeyRow | None:
    """The key of that id, revoked or not."""
    return session.get(ApiKeyRow, key_id)


def keys(session: Session) -> Sequence[ApiKeyRow]:
    """All keys, the oldest first."""
    return session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.created_at, ApiKeyRow.id)).all()


def any_key(session: Session) -> bool:
    """Whether there is a key, or ever was: revoking the last one must not open the service."""
    return bool(session.scalar(select(exists().select_from(ApiKeyRow))))


class KeyState(NamedTuple):
    """How many keys there ever were, and how many of them are valid."""

    total: int
    active: int


def key_state(session: Session) -> KeyState:
    """Count the keys."""
    total = session.scalar(select(func.count()).select_from(ApiKeyRow)) or 0
    active = session.scalar(select(func.count()).where(ApiKeyRow.revoked_at.is_(None))) or 0
    return KeyState(total, active)


def revoke_key(session: Session, key_id: str) -> ApiKeyRow:
    """Make a key invalid from now on; one that already is stays as it is.

    Raises:
        NotFoundError: there is no such key.
    """
    row = find_key(session, key_id)
    if row is None:
        raise NotFoundError(f"there is no key '{key_id}'", key=key_id)
    row.revoked_at = row.revoked_at or now()
    return row
