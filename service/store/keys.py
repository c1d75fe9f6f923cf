"""API keys as rows. The view of them that every request is checked against is `service.store.key_ring`'s.

What a key is made of is `service.security`'s business.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.store.tables import ApiKeyRow, now


@dataclass(frozen=True)
class KeyLimits:
    """What narrows a key.

    Attributes:
        collections: the names of those it may touch; None for all.
        expires_at: when it ends; None for never.
        requests_per_minute: how many requests it may make; None for as many as the service grants to every key.
    """

    collections: tuple[str, ...] | None = None
    expires_at: datetime | None = None
    requests_per_minute: int | None = None


NO_LIMITS = KeyLimits()


class StoredKey(NamedTuple):
    """A key as a request is checked against it."""

    id: str
    digest: bytes
    scopes: frozenset[str]
    limits: KeyLimits
    revoked: bool

    def valid(self, moment: datetime) -> bool:
        """Whether it is neither revoked nor at its end."""
        return not self.revoked and (self.limits.expires_at is None or moment < self.limits.expires_at)


def add_key(
    session: Session,
    *,
    key_id: str,
    digest: bytes,
    label: str,
    scopes: Sequence[str],
    limits: KeyLimits = NO_LIMITS,
) -> ApiKeyRow:
    """Store a new key."""
    row = ApiKeyRow(
        id=key_id,
        digest=digest,
        label=label,
        scopes=list(scopes),
        collections=None if limits.collections is None else list(limits.collections),
        expires_at=limits.expires_at,
        requests_per_minute=limits.requests_per_minute,
    )
    session.add(row)
    session.flush()
    return row


def keys(session: Session) -> Sequence[ApiKeyRow]:
    """All keys, the oldest first."""
    return session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.created_at, ApiKeyRow.id)).all()


class KeyState(NamedTuple):
    """How many keys there ever were, and how many of them are valid."""

    total: int
    active: int


def key_state(session: Session) -> KeyState:
    """Count the keys."""
    valid = (ApiKeyRow.revoked_at.is_(None), or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now()))
    total = session.scalar(select(func.count()).select_from(ApiKeyRow)) or 0
    return KeyState(total, session.scalar(select(func.count()).select_from(ApiKeyRow).where(*valid)) or 0)


def known_key(session: Session, key_id: str) -> ApiKeyRow:
    """The key of that id, valid or not.

    Raises:
        NotFoundError: there is none.
    """
    row = session.get(ApiKeyRow, key_id)
    if row is None:
        raise NotFoundError(f"there is no key '{key_id}'", key=key_id)
    return row


def revoke_key(session: Session, key_id: str) -> ApiKeyRow:
    """Make a key invalid from now on; one that already is stays as it is.

    Raises:
        NotFoundError: there is no such key.
    """
    row = known_key(session, key_id)
    row.revoked_at = row.revoked_at or now()
    return row


def end_key(row: ApiKeyRow, grace: timedelta) -> None:
    """Let a key end after a while, or when it would have ended anyway."""
    end = now() + grace
    row.expires_at = end if row.expires_at is None else min(end, row.expires_at)
