"""One index of each kind and engine, all behind one call, so that one contract runs over all of them."""

import os
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from sqlalchemy import URL, Engine, create_engine, text

from facemargin.index import INDEXES, Index, SearchEngine, SegmentedIndex, make_index, open_engine

IN_MEMORY: dict[str, Callable[[int], Index]] = {name: partial(make_index, name) for name in sorted(INDEXES)} | {
    # small enough that every test seals segments and wears them out
    "segmented by 3": partial(SegmentedIndex, threads=2, segment_rows=3),
    "segmented by 16": partial(SegmentedIndex, threads=3, segment_rows=16),
}
DURABLE = ("pgvector", "milvus")


@pytest.fixture(scope="session")
def database(postgres_server: URL) -> Iterator[Engine]:
    """A database that the tests of a session share; each uses index names of its own."""
    url = postgres_server.set(drivername="postgresql+psycopg")
    name = f"engines{os.getpid()}"
    server = create_engine(url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine = create_engine(url.set(database=name), pool_size=8)
    yield engine
    engine.dispose()
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


OpenDurable = Callable[[str], SearchEngine]


@pytest.fixture(scope="session")
def durable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenDurable]:
    """The engine of a scheme outside of the process, one for the session, started when it is first asked for."""
    engines: dict[str, SearchEngine] = {}

    def opened(scheme: str) -> SearchEngine:
        if scheme not in engines:
            rest = str(tmp_path_factory.mktemp("milvus") / "shared.db") if scheme == "milvus" else ""
            database = request.getfixturevalue("database") if scheme == "pgvector" else None
            engines[scheme] = open_engine(f"{scheme}:{rest}", database=database)
        return engines[scheme]

    yield opened
    for engine in engines.values():
        engine.close()


MakeEmpty = Callable[[str, int], Index]


@pytest.fixture(scope="session")
def make_empty(durable: OpenDurable) -> MakeEmpty:
    """Makes an empty index of a kind in `IN_MEMORY` or an engine in `DURABLE`; one of an engine was used before."""

    def make(kind: str, dim: int) -> Index:
        if kind in IN_MEMORY:
            return IN_MEMORY[kind](dim)
        index = durable(kind).index(f"contract_{dim}", dim)
        index.remove(index.ids())
        return index

    return make
