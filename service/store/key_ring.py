"""The API keys in memory, as every request is checked against them."""

import contextlib
import json
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from service.errors import StoreError
from service.store.aside import glance
from service.store.clock import elapsed
from service.store.database import Store
from service.store.keys import KeyLimits, StoredKey
from service.store.sqlite import DATABASE
from service.store.tables import ApiKeyRow

_BUSY_SECONDS: Final = 0.25
_FRESH_SECONDS: Final = 0.8
"""How old keys may be that a request is checked against, where the database is not asked each time."""


class KeyRing(Protocol):
    """The keys of a store."""

    @property
    def behind(self) -> bool:
        """Whether what it knows is too old to let anybody in."""
        ...

    def find(self, key_id: str) -> StoredKey | None:
        """The key of that id, valid or not.

        Raises:
            StoreError: the database does not answer.
        """
        ...

    def empty(self) -> bool:
        """Whether there never was a key: revoking the last one must not open the service.

        Raises:
            StoreError: the database does not answer.
        """
        ...

    def refresh(self) -> None:
        """Read the keys anew, where they are not looked at with every request.

        Raises:
            StoreError: the database does not answer.
        """
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...


def key_ring(store: Store) -> KeyRing:
    """The keys of an open store.

    Raises:
        StoreError: they cannot be read.
    """
    return SqliteKeyRing(store.folder / DATABASE) if store.folder is not None else SharedKeyRing(store)


class SharedKeyRing:
    """The keys of a store elsewhere; see `KeyRing`.

    Somebody calls `refresh` all the time (`service.replica`). Requests are checked against what was read last, and
    never wait for the database, which may hang; where that is older than 0.8 s nobody is let in. So what `facemargin
    keys` does counts within a second, whichever service is asked.

    Args:
        store: to read.
        clock: seconds that only grow.

    Raises:
        StoreError: it cannot be read.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = elapsed) -> None:
        self._store, self._clock = store, clock
        self._turn = threading.Lock()
        self._keys: dict[str, StoredKey] = {}
        self._rows: Sequence[tuple[Any, ...]] = ()
        self._read_at = -math.inf
        self.refresh()

    @property
    def behind(self) -> bool:
        """Whether the keys were read too long ago."""
        return self._clock() - self._read_at > _FRESH_SECONDS

    def find(self, key_id: str) -> StoredKey | None:
        """The key of that id, valid or not."""
        return self._present().get(key_id)

    def empty(self) -> bool:
        """Whether there never was a key."""
        return not self._present()

    def refresh(self) -> None:
        """Read the keys anew."""
        moment = self._clock()  # from before the reading: a key may be revoked while it goes on
        try:
            with glance(self._store) as session:
                rows: list[Any] = [tuple(row) for row in session.execute(select(*_COLUMNS).order_by(ApiKeyRow.id))]
        except SQLAlchemyError as error:
            raise StoreError(_SILENT) from error
        with self._turn:
            if moment >= self._read_at:
                if rows != self._rows:
                    self._rows, self._keys = rows, {row[0]: _read(*row) for row in rows}
                self._read_at = moment

    def close(self) -> None:
        """Nothing: the connections are the store's."""

    def _present(self) -> dict[str, StoredKey]:
        if self.behind:
            raise StoreError(_SILENT)
        return self._keys


class SqliteKeyRing:
    """The keys of an SQLite store, read again whenever the database has changed; see `KeyRing`.

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

    @property
    def behind(self) -> bool:
        """Never: every look-up asks the database."""
        return False

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

    def refresh(self) -> None:
        """Nothing: every request looks."""

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


_COLUMNS = (
    ApiKeyRow.id,
    ApiKeyRow.digest,
    ApiKeyRow.scopes,
    ApiKeyRow.collections,
    ApiKeyRow.expires_at,
    ApiKeyRow.requests_per_minute,
    ApiKeyRow.revoked_at,
)


def _read(
    key_id: str,
    digest: bytes,
    scopes: list[str],
    collections: list[str] | None,
    expires_at: datetime | None,
    requests_per_minute: int | None,
    revoked_at: datetime | None,
) -> StoredKey:
    limits = KeyLimits(None if collections is None else tuple(collections), expires_at, requests_per_minute)
    return StoredKey(key_id, digest, frozenset(scopes), limits, revoked_at is not None)


_SILENT: Final = "the database of the API keys does not answer; try again later"


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(_SILENT) from error
