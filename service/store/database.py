"""The database file, how it is opened, and its transactions.

Durability: WAL with ``synchronous=FULL``, so a commit returns after the log was flushed to the disk. ``secure_delete``
overwrites deleted rows with zeros, and `Store.forget` empties the log they were copied to.
"""

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, TextIO

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.orm import Session

from service.errors import StoreError
from service.store.meta import opened_vault
from service.store.tables import SCHEMA_VERSION, Table
from service.store.vault import Vault

DATABASE = "facemargin.sqlite3"
LOCK = "serve.lock"

_BUSY_MS = 5000
_FORGET_MS = 500

_PRAGMAS = (
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

    def unlock(self, master: bytes | None) -> None:
        """Make people's data readable and writable; the first time, decide whether the store is encrypted.

        Args:
            master: the master key; None leaves, or expects, a store that is not encrypted.

        Raises:
            StoreError: the store needs a master key, another one, or none.
        """
        with self.write() as session:
            self._vault = opened_vault(session, master, self.folder)

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one consistent state and writes nothing."""
        with Session(self._engine, info={"vault": self._vault}) as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are on the disk when the block ends, or undone when it raises."""
        info = {"vault": self._vault}
        with self._writing, Session(self._writer, expire_on_commit=False, info=info) as session, session.begin():
            yield session

    def forget(self) -> bool:
        """Move the log into the database and empty it, so that deleted rows are in no file.

        Readers who still look at the old state are waited for, half a second at most.

        Returns:
            whether it is done; if not, call it again.
        """
        try:
            with contextlib.closing(self._engine.raw_connection()) as connection:  # a checkpoint is in no transaction
                return _emptied_log(connection.cursor())
        except (sqlite3.OperationalError, SQLAlchemyError):  # the write itself is committed and must be answered
            return False

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
        lock = (self.folder / LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise StoreError(f"the store {self.folder} is being served by another process") from error
        self._served = lock

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


def _emptied_log(cursor: Any) -> bool:
    """Checkpoint; SQLite tries again for the busy timeout, and tells of failure in a row instead of an exception."""
    cursor.execute(f"PRAGMA busy_timeout={_FORGET_MS}")
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
