"""The database file, how it is opened, and its transactions.

Durability: WAL with ``synchronous=FULL``, so a commit returns after the log was flushed to the disk. ``secure_delete``
overwrites deleted rows with zeros, and `Store.forget` empties the log they were copied to.
"""

import contextlib
import fcntl
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, TextIO

from sqlalchemy import Connection, create_engine, delete, event, text
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from service.errors import StoreError
from service.store.meta import ask_for_compaction, compaction_is_done, compaction_is_due, opened_vault
from service.store.tables import PAGE_BYTES, SCHEMA_VERSION, MetaRow, Table
from service.store.vault import Vault

DATABASE = "facemargin.sqlite3"
LOCK = "serve.lock"
RESTORING = ".restore"
"""Where a restore makes the database, in the folder of the store."""

_BUSY_MS = 5000
_FORGET_MS = 100
_PROBE = "probe"
_PROBE_BYTES = 256 * 1024

_OUTAGES = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another process has locked it",
    sqlite3.SQLITE_LOCKED: "it is locked",
    sqlite3.SQLITE_READONLY: "it is on a file system that cannot be written to",
    sqlite3.SQLITE_IOERR: "the disk fails",
    sqlite3.SQLITE_CANTOPEN: "its files cannot be opened",
}
"""Why no write at all can succeed, by SQLite's primary result code; other errors are about one statement."""

_PRAGMAS = (
    f"PRAGMA page_size={PAGE_BYTES}",  # of a database that is being made, before anything else
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",
    "PRAGMA temp_store=MEMORY",
    f"PRAGMA busy_timeout={_BUSY_MS}",
)


class Store:
    """One open database.

    Readers run beside each other and beside one writer. A write holds `Store.write` alone in this process, and other
    processes (``facemargin keys``) wait for it up to five seconds.

    Args:
        folder: where the database is, or will be; made with access for its owner only.
        create: whether to make what is missing.

    Attributes:
        outage: why the last write could not reach the disk; None when it did.

    Raises:
        StoreError: the folder cannot be used, holds a database that is no store of this version, or holds none
            although none may be made.
    """

    def __init__(self, folder: Path, *, create: bool = True) -> None:
        if not create and not (folder / DATABASE).is_file():
            raise StoreError(f"there is no store in {folder}")
        self.folder = folder
        self._writing = threading.Lock()
        self._served: TextIO | None = None
        self.outage: str | None = None
        self._vault: Vault | None = None
        _make_private(folder)
        self._engine = create_engine(f"sqlite+pysqlite:///{folder / DATABASE}", pool_size=8, max_overflow=56)
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        self._writer = self._engine.execution_options(immediate=True)
        try:
            self._prepare()
        except DatabaseError as error:
            self.close()
            raise StoreError(f"{folder / DATABASE} cannot be used as a store: {error.orig}") from error

    def _prepare(self) -> None:
        with self._writer.begin() as connection:
            version = connection.scalar(text("PRAGMA user_version"))
            if version == 0:
                Table.metadata.create_all(connection)
                connection.execute(text(f"PRAGMA user_version={SCHEMA_VERSION}"))
            elif version != SCHEMA_VERSION:
                raise StoreError(
                    f"{self.folder / DATABASE} has version {version}; "
                    f"this facemargin works with version {SCHEMA_VERSION}"
                )

    @property
    def vault(self) -> Vault:
        """The keys of the store.

        Raises:
            StoreError: it was not unlocked.
        """
        if self._vault is None:
            raise StoreError(f"the store {self.folder} is not unlocked")
        return self._vault

    def unlock(self, master: bytes | None, *, called: Path | None = None) -> None:
        """Make people's data readable and writable; the first time, decide whether the store is encrypted.

        Args:
            master: the master key; None leaves, or expects, a store that is not encrypted.
            called: the folder that errors name; by default its own.

        Raises:
            StoreError: the store needs a master key, another one, or none.
        """
        with self.write() as session:
            self._vault = opened_vault(session, master, called or self.folder)

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one consistent state and writes nothing."""
        with Session(self._engine, info={"vault": self._vault}) as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are on the disk when the block ends, or undone when it raises."""
        info = {"vault": self._vault}
        try:
            with self._writing, Session(self._writer, expire_on_commit=False, info=info) as session, session.begin():
                yield session
        except OperationalError as error:
            self.outage = _outage(error) or self.outage
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
        """Move the log into the database and empty it, so that deleted rows are in no file.

        Args:
            patience_ms: how long readers who still look at the old state are waited for.

        Returns:
            whether it is done; if not, call it again.
        """
        try:
            with contextlib.closing(self._engine.raw_connection()) as connection:  # a checkpoint is in no transaction
                return _emptied_log(connection.cursor(), patience_ms)
        except (sqlite3.OperationalError, SQLAlchemyError):  # the write itself is committed and must be answered
            return False

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
        raise StoreError(f"{self.folder / DATABASE} is being read by somebody else; nothing was changed, try again")

    def compact(self) -> None:
        """Write the database anew, so that nothing of rows that were changed or deleted is left in any file.

        Needs the room of the database twice more, and nobody else on it. Then none is due (`prepare_compaction`).

        Raises:
            StoreError: the disk is full, or somebody else is reading or writing.
        """
        try:
            with contextlib.closing(self._engine.raw_connection()) as connection:  # VACUUM is in no transaction
                cursor = connection.cursor()
                cursor.execute("PRAGMA temp_store=FILE")  # a copy of the database may not fit into the memory
                cursor.execute("VACUUM")
                cursor.execute("PRAGMA temp_store=MEMORY")
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.folder / DATABASE} cannot be compacted: {error}") from error
        if not self.forget():
            raise StoreError(f"{self.folder / DATABASE} is being read, so its log cannot be emptied; try again")
        with self.write() as session:
            compaction_is_done(session)
        self.forget()

    def copy_to(self, target: Path) -> None:
        """Write a copy of the database as it is now to a new file, rows only, while others read and write.

        Raises:
            StoreError: the disk is full.
        """
        try:
            with contextlib.closing(self._engine.raw_connection()) as connection:
                connection.cursor().execute("VACUUM INTO ?", (str(target),))
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.folder / DATABASE} cannot be copied to {target}: {error}") from error

    def check(self) -> None:
        """Answer a trivial question.

        Raises:
            OperationalError: the database does not answer.
        """
        with self._engine.connect() as connection:
            connection.execute(text("SELECT 1 FROM collections LIMIT 1"))

    def claim(self) -> None:
        """Be the one service of this store until it is closed.

        Two services would each search an index that knows nothing of the other's writes.

        Raises:
            StoreError: another service has it.
        """
        self._served = claim_folder(self.folder)

    def __enter__(self) -> Self:
        """The store itself; it is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close every connection, and let another service have the store."""
        self._engine.dispose()
        if self._served is not None:
            self._served.close()
            self._served = None


def claim_folder(folder: Path) -> TextIO:
    """Be the only one who serves or replaces the store in a folder, until the file returned is closed.

    What a restore that was killed left there is removed: it holds people who are erased.

    Raises:
        StoreError: another process is, or what is left cannot be removed.
    """
    lock = (folder / LOCK).open("w")
    os.fchmod(lock.fileno(), 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StoreError(f"the store {folder} is being served by another process") from error
    try:
        _remove_leftover(folder / RESTORING)
    except BaseException:
        lock.close()
        raise
    return lock


def _remove_leftover(path: Path) -> None:
    try:
        if path.exists():
            shutil.rmtree(path)
    except OSError as error:
        raise StoreError(f"{path} is left of a restore that was killed and cannot be removed: {error}") from error


def _make_private(folder: Path) -> None:
    """Make the folder and an empty database, and both readable by their owner only, also where they were there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(folder / DATABASE, os.O_CREAT | os.O_RDWR, 0o600))
        for path, mode in ((folder, 0o700), (folder / DATABASE, 0o600)):
            if path.stat().st_mode & 0o077:
                path.chmod(mode)
    except OSError as error:
        raise StoreError(f"the store folder {folder} cannot be used: {error.strerror}") from error


def _outage(error: OperationalError) -> str | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    return _OUTAGES.get(code & 0xFF) if code is not None else None  # the rest of an extended code says more exactly


def _emptied_log(cursor: Any, patience_ms: int) -> bool:
    """Checkpoint; SQLite tries again for the busy timeout, and tells of failure in a row instead of an exception."""
    cursor.execute(f"PRAGMA busy_timeout={patience_ms}")
    try:
        (busy, _, _) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    return not busy


def _configure(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver would begin transactions late, and never immediate ones
    for pragma in _PRAGMAS:
        connection.execute(pragma).close()


def _begin(connection: Connection) -> None:
    """Begin for real; a writer takes the write lock at once instead of failing when it first writes."""
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
