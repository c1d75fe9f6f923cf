"""What is measured beside an engine's answers: which processes it has, what it keeps on disk, and its versions."""

import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from facemargin.bench.machine import resident_bytes
from facemargin.bench.postgres_server import SETTINGS
from facemargin.bench.processes import cpu_seconds, family, parent, proportional_bytes
from facemargin.index.engine import SearchEngine
from facemargin.index.engines import open_engine

Pids = Callable[[], list[int]]
Size = Callable[[], int | None]


@dataclass(frozen=True)
class Subject:
    """An open engine, and how to look at it from outside.

    Attributes:
        engine: what is measured.
        servers: processes that work for it beside this one, as of now.
        disk_bytes: what it keeps on disk; None where nobody can tell.
        remote: whether it runs where its memory cannot be seen.
        notes: versions and settings, for the page.
    """

    engine: SearchEngine
    servers: Pids
    disk_bytes: Size
    remote: bool
    notes: dict[str, str]

    def memory_bytes(self) -> int:
        """Of this process and the servers."""
        return resident_bytes() + proportional_bytes(self.servers())

    def cpu_seconds(self, own: float) -> float:
        """Processor time of this process, which is given, and of the servers."""
        return own + cpu_seconds(self.servers())


@dataclass(frozen=True)
class Place:
    """Where an engine may keep something: a folder of this cell, and a database for those that need one."""

    folder: Path
    postgres: str | None


@contextmanager
def _embedded(url: str, place: Place) -> Iterator[Subject]:
    notes = {"faiss": _version("faiss-cpu")}
    yield Subject(open_engine(url), list, lambda: 0, False, notes)


@contextmanager
def _pgvector(url: str, place: Place) -> Iterator[Subject]:
    from sqlalchemy import create_engine, make_url, text

    from facemargin.index.pgvector.schema import SCHEMA

    location = make_url(place.postgres or "").set(drivername="postgresql+psycopg")
    database = create_engine(location)

    def asked(question: str) -> str:
        with database.connect() as connection:
            return str(connection.scalar(text(question)))

    def disk_bytes() -> int:
        return int(
            asked(
                "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c JOIN pg_namespace n"
                f" ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname = '{SCHEMA}'"
            )
        )

    postmaster = parent(int(asked("SELECT pg_backend_pid()")), "postgres")
    engine = open_engine(url, database=database)
    engine.check()
    notes = {
        "PostgreSQL": asked("SHOW server_version"),
        "pgvector": asked("SELECT extversion FROM pg_extension WHERE extname = 'vector'"),
    }
    notes |= {name: asked(f"SHOW {name}") for name in (*SETTINGS, "synchronous_commit")}
    try:
        yield Subject(
            engine, lambda: [] if postmaster is None else family(postmaster), disk_bytes, postmaster is None, notes
        )
    finally:
        engine.close()
        database.dispose()


@contextmanager
def _milvus(url: str, place: Place) -> Iterator[Subject]:
    lite = "://" not in url
    engine = open_engine(f"milvus:{place.folder / 'vectors.db'}" if lite else url)
    notes = {"pymilvus": _version("pymilvus")} | ({"milvus-lite": _version("milvus-lite")} if lite else {})
    try:
        yield Subject(engine, list, (lambda: _folder_bytes(place.folder)) if lite else lambda: None, not lite, notes)
    finally:
        engine.close()


SUBJECTS: dict[str, Callable[[str, Place], AbstractContextManager[Subject]]] = {
    "faiss": _embedded,
    "pgvector": _pgvector,
    "milvus": _milvus,
}
"""By the scheme of the engine's URL."""


def opened(url: str, place: Place) -> AbstractContextManager[Subject]:
    """Open an engine for measurement."""
    return SUBJECTS[kind_of(url)](url, place)


def kind_of(url: str) -> str:
    """Key of `SUBJECTS` for an engine's URL; empty where it is none.

    >>> kind_of("milvus+tls://host:19530"), kind_of("faiss:flat"), kind_of("faiss")
    ('milvus', 'faiss', '')
    """
    scheme, colon, _ = url.partition(":")
    kind = scheme.partition("+")[0]
    return kind if colon and kind in SUBJECTS else ""


def _folder_bytes(folder: Path) -> int:
    """Blocks of the files of a folder; those that vanish meanwhile do not count."""
    found = 0
    for path in folder.rglob("*"):
        try:
            found += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "?"
