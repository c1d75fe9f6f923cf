"""Where a whole store is put, by a restore or a move: a folder or a database, which nobody else has meanwhile.

Owns that what was there stays until everything that is to come is there: a file takes its place by one rename, rows by
one transaction.
"""

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import URL, Connection, create_engine, select
from sqlalchemy.orm import Session

from facemargin.flushing import flush, flush_path
from service.errors import StoreError
from service.since import Source
from service.snapshots import SNAPSHOTS
from service.store import Location
from service.store.copying import Progress, copy_rows, nobody
from service.store.location import described
from service.store.meta import SECRET
from service.store.migration import migrate
from service.store.postgresql import PostgresDatabase
from service.store.sqlite import DATABASE, LOCK, RESTORING, claim_folder, new_file
from service.store.tables import MetaRow

_LOGS: Final = ("-wal", "-shm", "-journal")
_PATIENCE_S: Final = 1.0


class Place(Protocol):
    """Somewhere to put a store.

    Attributes:
        name: as errors call it.
        replaced: the store that is there and is given up; None where there is none.
        work: a private folder to prepare it in, gone at the end.
    """

    name: str
    replaced: Source | None
    work: Path

    def take(self, database: Path) -> None:
        """Let the content of an SQLite file be the store's.

        Raises:
            StoreError: it cannot be; what was there is there still.
        """
        ...

    def fill(self, rows: Connection, progress: Progress = ...) -> dict[str, int]:
        """Let the rows of another store be this one's; how many there are by table.

        Raises:
            StoreError: they cannot be; what was there is there still.
        """
        ...


@contextlib.contextmanager
def place_for(location: Location, *, replace: bool = False) -> Iterator[Place]:
    """The place of a store, for this process alone until the block ends.

    Args:
        location: where.
        replace: whether a store that is there is given up.

    Raises:
        StoreError: somebody uses it, it holds a store that is not to be given up, or something else.
    """
    with _folder(location, replace) if isinstance(location, Path) else _database(location, replace) as place:
        yield place


class _Folder:
    def __init__(self, folder: Path, *, there: bool) -> None:
        self.name = str(folder)
        self.replaced = Source.at(folder) if there else None
        self.work = folder / RESTORING
        self._folder = folder

    def take(self, database: Path) -> None:
        """By one rename; logs of the old one must not be taken for its own."""
        old = self._folder / DATABASE
        if old.exists() and _in_use(old):
            raise StoreError(f"{old} is being read or written by another process; nothing was replaced, try again")
        for log in _LOGS:
            Path(f"{old}{log}").unlink(missing_ok=True)
        database.replace(old)
        flush_path(self._folder)
        shutil.rmtree(self._folder / SNAPSHOTS, ignore_errors=True)  # of the old one; nothing opens them any more

    def fill(self, rows: Connection, progress: Progress = nobody) -> dict[str, int]:
        """A new file, and then `take`."""
        made = self.work / DATABASE
        made.touch(mode=0o600)
        with new_file(made) as copy:
            counts = copy_rows(rows, copy, progress)
        with made.open("rb+") as file:
            flush(file)
        self.take(made)
        return counts


@contextlib.contextmanager
def _folder(folder: Path, replace: bool) -> Iterator[Place]:
    there = (folder / DATABASE).exists()
    if there and not replace:
        raise StoreError(f"there is a store in {folder} already; give it up with --replace, or name another folder")
    with contextlib.ExitStack() as ended:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if made:
            ended.callback(_remove_unless_used, folder)
        ended.enter_context(claim_folder(folder))
        place = _Folder(folder, there=there)
        place.work.mkdir(mode=0o700)
        ended.callback(shutil.rmtree, place.work)
        yield place


class _Database:
    def __init__(self, database: PostgresDatabase, work: Path, *, there: bool) -> None:
        self.name = database.name
        self.replaced = Source(database.name, lambda: Session(database.reading)) if there else None
        self.work = work
        self._database = database

    def take(self, database: Path) -> None:
        """Its rows."""
        engine = create_engine(f"sqlite+pysqlite:///{database}", hide_parameters=True)
        try:
            with engine.connect() as rows:
                self.fill(rows)
        finally:
            engine.dispose()

    def fill(self, rows: Connection, progress: Progress = nobody) -> dict[str, int]:
        """In one transaction."""
        return self._database.refill(rows, progress)


@contextlib.contextmanager
def _database(url: URL, replace: bool) -> Iterator[Place]:
    with contextlib.ExitStack() as ended:
        database = PostgresDatabase(url)
        ended.callback(database.close)
        database.claim(alone=True)
        there = _holds_something(database)
        if there and not replace:
            raise StoreError(
                f"there is a store in {described(url)} already; give it up with --replace, or name another"
            )
        work = ended.enter_context(tempfile.TemporaryDirectory(prefix="facemargin-"))
        yield _Database(database, Path(work), there=there)


def _holds_something(database: PostgresDatabase) -> bool:
    """Whether there is a store that was ever unlocked.

    Raises:
        StoreError: there are tables of something else.
    """
    if database.version() is None:
        with database.writing.connect() as connection:
            migrate(connection, name=database.name)  # in a transaction that is not kept
        return False
    with Session(database.reading) as session:
        return session.scalar(select(MetaRow.name).where(MetaRow.name == SECRET)) is not None


def _in_use(database: Path) -> bool:
    """Move its log into it, so that it is whole if the rename does not come about; a ruined one is left."""
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=_PATIENCE_S)) as connection:
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return bool(busy)
    except sqlite3.DatabaseError as error:
        return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _remove_unless_used(folder: Path) -> None:
    if not (folder / DATABASE).exists():
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
