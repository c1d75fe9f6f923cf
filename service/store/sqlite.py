"""A store in an SQLite file.

Durability: WAL with ``synchronous=FULL``, so a commit returns after the log was flushed to the disk. ``secure_delete``
overwrites deleted rows with zeros, and `SqliteDatabase.forget` empties the log they were copied to.
"""

import contextlib
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from service.errors import StoreError
from service.store.migration import migrate
from service.store.tables import PAGE_BYTES

DATABASE = "facemargin.sqlite3"
LOCK = "serve.lock"
RESTORING = ".restore"
"""Where a restore makes the database, in the folder of the store."""

_BUSY_MS = 5000
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


class SqliteDatabase:
    """The database file of a folder; see `service.store.database.Database`.

    Args:
        folder: where it is, or will be; made with access for its owner only.
        create: whether to make what is missing.

    Raises:
        StoreError: the folder cannot be used, or holds no store although none may be made.
    """

    shared = False

    def __init__(self, folder: Path, *, create: bool) -> None:
        if not create and not (folder / DATABASE).is_file():
            raise StoreError(f"there is no store in {folder}")
        self.folder: Path | None = folder
        self.name = str(folder / DATABASE)
        self._folder = folder
        self._served: TextIO | None = None
        _make_private(folder)
        self.reading = create_engine(
            f"sqlite+pysqlite:///{folder / DATABASE}", pool_size=8, max_overflow=56, hide_parameters=True
        )
        event.listen(self.reading, "connect", _configure)
        event.listen(self.reading, "begin", _begin)
        self.writing = self.reading.execution_options(immediate=True)

    def outage(self, error: OperationalError) -> str | None:
        """Why no write at all can succeed, if that is so."""
        code = getattr(error.orig, "sqlite_errorcode", None)
        return _OUTAGES.get(code & 0xFF) if code is not None else None  # the rest of an extended code says more exactly

    def forget(self, patience_ms: int) -> bool:
        """Move the log into the database and empty it, so that deleted rows are in no file; whether it is done."""
        try:
            with contextlib.closing(self.reading.raw_connection()) as connection:  # a checkpoint is in no transaction
                return _emptied_log(connection.cursor(), patience_ms)
        except (sqlite3.OperationalError, SQLAlchemyError):  # the write itself is committed and must be answered
            return False

    def compact(self) -> None:
        """Write the file anew.

        Raises:
            StoreError: the disk is full, or somebody else is reading or writing.
        """
        try:
            with contextlib.closing(self.reading.raw_connection()) as connection:  # VACUUM is in no transaction
                cursor = connection.cursor()
                cursor.execute("PRAGMA temp_store=FILE")  # a copy of the database may not fit into the memory
                cursor.execute("VACUUM")
                cursor.execute("PRAGMA temp_store=MEMORY")
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.name} cannot be compacted: {error}") from error

    def copy_to(self, target: Path) -> None:
        """Write its rows to a new file.

        Raises:
            StoreError: the disk is full.
        """
        try:
            with contextlib.closing(self.reading.raw_connection()) as connection:
                connection.cursor().execute("VACUUM INTO ?", (str(target),))
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.name} cannot be copied to {target}: {error}") from error

    def claim(self, *, alone: bool) -> None:
        """Be the one service, or the only user, which for a file is the same.

        Raises:
            StoreError: another process is.
        """
        self._served = claim_folder(self._folder)

    def close(self) -> None:
        """Close every connection, and let another service have the file."""
        self.reading.dispose()
        if self._served is not None:
            self._served.close()
            self._served = None


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Connection]:
    """A connection to a new file with the tables of a store, in one transaction that is done when the block ends.

    Nothing of it waits for the disk, and no log is left beside it: whoever wants it kept flushes it.

    Raises:
        OperationalError: it cannot be written.
    """
    engine = create_engine(f"sqlite+pysqlite:///{path}", hide_parameters=True)
    event.listen(engine, "connect", _configure_new)
    event.listen(engine, "begin", _begin)
    try:
        with engine.begin() as connection:
            migrate(connection, name=str(path))
            yield connection
    finally:
        engine.dispose()


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


def _configure_new(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in (_PRAGMAS[0], "PRAGMA journal_mode=MEMORY", "PRAGMA synchronous=OFF", "PRAGMA foreign_keys=ON"):
        connection.execute(pragma).close()


def _begin(connection: Connection) -> None:
    """Begin for real; a writer takes the write lock at once instead of failing when it first writes."""
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
