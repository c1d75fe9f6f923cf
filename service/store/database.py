"""The store: one database, how it is opened, and its transactions.

What SQLite and PostgreSQL do differently is in `service.store.sqlite` and `service.store.postgresql`, behind the one
protocol here. A kind of database more is a file beside them and a line in `_database_at`.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self

from sqlalchemy import Engine, delete, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from service.errors import StoreError, in_one_line
from service.store.location import Location, described, parse_location
from service.store.meta import ask_for_compaction, compaction_is_done, compaction_is_due, opened_vault
from service.store.migration import migrate
from service.store.tables import MetaRow
from service.store.vault import Vault

_PROBE = "probe"
_PROBE_BYTES = 256 * 1024
_FORGET_MS = 100


class Database(Protocol):
    """What a store asks of a kind of database.

    Attributes:
        name: as errors call it.
        folder: where it is; None where it is elsewhere.
        shared: whether several services may be on it at a time.
    """

    name: str
    folder: Path | None
    shared: bool

    @property
    def reading(self) -> Engine:
        """Connections that begin a transaction which sees one state."""
        ...

    @property
    def writing(self) -> Engine:
        """Connections that begin one that no other writer, of any process, is in at the same time."""
        ...

    def outage(self, error: OperationalError) -> str | None:
        """Why no write at all can succeed; None where the error is about one statement."""
        ...

    def forget(self, patience_ms: int) -> bool:
        """Let what was deleted leave the files, as far as that is done at once; whether it is done."""
        ...

    def compact(self) -> None:
        """Write everything anew, so that nothing of rows that were changed or deleted is left.

        Raises:
            StoreError: it cannot be done now.
        """
        ...

    def copy_to(self, target: Path) -> None:
        """Write a copy of its rows, as they are now, to a new SQLite file.

        Raises:
            StoreError: it cannot be written.
        """
        ...

    def claim(self, *, alone: bool) -> None:
        """Be its service until it is closed, or its only user.

        Raises:
            StoreError: somebody else is on it.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Store:
    """One open database.

    Readers run beside each other and beside one writer. A write holds `Store.write` alone in this process, and other
    processes wait for it for some seconds.

    Args:
        location: a folder, made with access for its owner only, or the URL of a PostgreSQL database, which must be
            there and empty, or a store.
        create: whether to make what is missing.

    Attributes:
        location: as given.
        name: as errors and commands call it; without a password.
        folder: of an SQLite store; None of one elsewhere.
        shared: whether several services may be on it at a time.
        outage: why the last write could not reach the disk; None when it did.

    Raises:
        ConfigError: a location that can be none.
        StoreError: it cannot be used, holds something that is no store of a version that can be brought up to this
            one, or holds none although none may be made.
    """

    def __init__(self, location: str | Location, *, create: bool = True) -> None:
        self.location = parse_location(location)
        self._database = _database_at(self.location, create)
        self.name, self.folder, self.shared = self._database.name, self._database.folder, self._database.shared
        self._writing = threading.Lock()
        self.outage: str | None = None
        self._vault: Vault | None = None
        try:
            with self._database.writing.begin() as connection:
                migrate(connection, name=self.name, create=create)
        except DBAPIError as error:
            self.close()
            raise StoreError(f"{self.name} cannot be used as a store: {in_one_line(error)}") from error
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        """Its location, without a password."""
        return described(self.location)

    @property
    def engine(self) -> Engine:
        """Connections of it, for an index that is in the same database."""
        return self._database.writing

    @property
    def vault(self) -> Vault:
        """The keys of the store.

        Raises:
            StoreError: it was not unlocked.
        """
        if self._vault is None:
            raise StoreError(f"the store {self} is not unlocked")
        return self._vault

    def unlock(self, master: bytes | None, *, called: str | None = None) -> None:
        """Make people's data readable and writable; the first time, decide whether the store is encrypted.

        Args:
            master: the master key; None leaves, or expects, a store that is not encrypted.
            called: what errors call it; by default its location.

        Raises:
            StoreError: the store needs a master key, another one, or none.
        """
        with self.write() as session:
            self._vault = opened_vault(session, master, called or str(self))

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one consistent state and writes nothing."""
        with Session(self._database.reading, info={"vault": self._vault}) as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are on the disk when the block ends, or undone when it raises."""
        info = {"vault": self._vault}
        writing = self._database.writing
        try:
            with self._writing, Session(writing, expire_on_commit=False, info=info) as session, session.begin():
                session.connection()  # begins: a writer has its turn from here on, not from its first statement
                yield session
        except OperationalError as error:
            self.outage = self._database.outage(error) or self.outage
            raise
        self.outage = None

    def probe(self) -> None:
        """Write a little and take it back, to learn whether writes can be taken again.

        Raises:
            OperationalError: they cannot.
        """
        with self.write() as session:
            session.execute(delete(MetaRow).where(MetaRow.name == _PROBE))  # left by a probe that was killed here
            session.add(MetaRow(name=_PROBE, value=bytes(_PROBE_BYTES)))
        with self.write() as session:
            session.execute(delete(MetaRow).where(MetaRow.name == _PROBE))

    def forget(self, *, patience_ms: int = _FORGET_MS) -> bool:
        """Let what was deleted leave the files: in SQLite, move the log into the database and empty it.

        PostgreSQL does that by itself, later; docs/postgresql.md says when.

        Args:
            patience_ms: how long readers who still look at the old state are waited for.

        Returns:
            whether it is done; if not, call it again.
        """
        return self._database.forget(patience_ms)

    def prepare_compaction(self) -> None:
        """Note that a compaction is due, which outlives a kill, and that nobody reads who would keep it from its end.

        Raises:
            StoreError: somebody does, so what would make it due must not be done.
        """
        with self.write() as session:
            due = compaction_is_due(session)
            ask_for_compaction(session)
        if self.forget():  # the note itself is in the log that is emptied: any reader of before shows
            return
        if not due:
            with self.write() as session:
                compaction_is_done(session)
        raise StoreError(f"{self.name} is being read by somebody else; nothing was changed, try again")

    def compact(self) -> None:
        """Write the database anew, so that nothing of rows that were changed or deleted is left in any file.

        Needs the room of the database twice more, and nobody else on it. Then none is due (`prepare_compaction`).

        Raises:
            StoreError: the disk is full, or somebody else is reading or writing.
        """
        self._database.compact()
        if not self.forget():
            raise StoreError(f"{self.name} is being read, so its log cannot be emptied; try again")
        with self.write() as session:
            compaction_is_done(session)
        self.forget()

    def copy_to(self, target: Path) -> None:
        """Write a copy of the store as it is now to a new SQLite file, rows only, while others read and write.

        Raises:
            StoreError: the disk is full.
        """
        self._database.copy_to(target)

    def check(self) -> None:
        """Answer a trivial question.

        Raises:
            OperationalError: the database does not answer.
        """
        with self._database.reading.connect() as connection:
            connection.execute(text("SELECT 1 FROM collections LIMIT 1"))

    def claim(self, *, alone: bool = False) -> None:
        """Be a service of this store until it is closed, or, ``alone``, its only user.

        An SQLite store has one service: two would each search an index that knows nothing of the other's writes.

        Raises:
            StoreError: a service has it, or somebody who needs it alone.
        """
        self._database.claim(alone=alone)

    def __enter__(self) -> Self:
        """The store itself; it is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close every connection, and let another service have the store."""
        self._database.close()


def _database_at(location: Location, create: bool) -> Database:
    if isinstance(location, Path):
        from service.store.sqlite import SqliteDatabase

        return SqliteDatabase(location, create=create)
    from service.store.postgresql import PostgresDatabase

    return PostgresDatabase(location)
