"""API keys as rows, and the view of them that every request is checked against.

What a key is made of is `service.security`'s business.
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from service.errors import NotFoundError, StoreError
from service.store.tables import ApiKeyRow, now

_BUSY_SECONDS = 0.25


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


class KeyRing:
    """The keys of a store in memory, read again whenever the database has changed.

    A connection of its own asks SQLite's ``data_version`` before each look-up: it changes with every commit of any
    other connection, in this process or another. That takes microseconds and no thread, and what `facemargin keys`
    does counts from the next request. All keys are read at once, so that an id that exists takes no longer than one
    that does not.

    Args:
        database: the file of an open store.

    Raises:
        StoreError: it cannot be read.
    """

    def __init__(self, database: Path) -> None:
        self._turn = threading.Lock()
        self._version = -1
        self._rows: list[tuple[Any, ...]] = []
        self._keys: dict[str, StoredKey] = {}
        with _answering():
            self._connection = sqlite3.connect(
                f"{database.resolve().as_uri()}?mode=ro",
                uri=True,
                isolation_level=None,
                timeout=_BUSY_SECONDS,
                check_same_thread=False,
            )

    def find(self, key_id: str) -> StoredKey | None:
        """The key of that id, valid or not.

        Raises:
            StoreError: the database does not answer.
        """
        return self._present().get(key_id)

    def empty(self) -> bool:
        """Whether there never was a key: revoking the last one must not open the service.

        Raises:
            StoreError: the database does not answer.
        """
        return not self._present()

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()

    def _present(self) -> dict[str, StoredKey]:
        with self._turn, _answering():
            # The version first: a commit between the two reads is then seen by the next look-up, not lost.
            ((version,),) = self._connection.execute("PRAGMA data_version").fetchall()
            if version != self._version:
                rows = self._connection.execute(_EVERY_KEY).fetchall()
                if rows != self._rows:  # most commits are about people
                    self._rows, self._keys = rows, {row[0]: _stored(*row) for row in rows}
                self._version = version
            return self._keys


_EVERY_KEY = "SELECT id, digest, scopes, collections, expires_at, requests_per_minute, revoked_at FROM api_keys"
"""As text, because a session would take a hundred times as long as the answer."""


def _stored(
    key_id: str,
    digest: bytes,
    scopes: str,
    collections: str | None,
    expires_at: str | None,
    requests_per_minute: int | None,
    revoked_at: str | None,
) -> StoredKey:
    limits = KeyLimits(
        None if collections is None else tuple(json.loads(collections)),
        None if expires_at is None else datetime.fromisoformat(expires_at).replace(tzinfo=UTC),
        requests_per_minute,
    )
    return StoredKey(key_id, digest, frozenset(json.loads(scopes)), limits, revoked_at is not None)


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError("the database of the API keys does not answer; try again later") from error


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
