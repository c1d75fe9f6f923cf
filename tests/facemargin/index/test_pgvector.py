"""pgvector beyond the contract of every engine: transactions, other writers, the planner, and a server that is away."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy import URL, Connection, Engine, create_engine, text

from facemargin.errors import ConfigError, DuplicateIdError, IndexUnavailableError, UnknownIdError
from facemargin.index.half import halved
from facemargin.index.hnsw import Hnsw
from facemargin.index.pgvector import PgvectorEngine, PgvectorIndex
from facemargin.index.pgvector.rows import packed, unpacked
from facemargin.index.pgvector.schema import lock

DIM = 16
_NUMBERS = itertools.count()


def unit(count: int, *, seed: int = 0, dim: int = DIM) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def ids(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, dtype=np.int64)


@pytest.fixture
def engine(database: Engine) -> PgvectorEngine:
    return PgvectorEngine(database)


@pytest.fixture
def index(engine: PgvectorEngine) -> Iterator[PgvectorIndex]:
    name = f"pg{next(_NUMBERS)}"
    yield engine.index(name, DIM)
    engine.drop(name)


def engine_at(url: URL, **options: object) -> Engine:
    return create_engine(url.set(drivername="postgresql+psycopg"), **options)


def test_the_server_rounds_to_float16_as_numpy_does(database: Engine, index: PgvectorIndex) -> None:
    """Random numbers, ties between two float16 numbers, and those below the smallest normal one."""
    rng = np.random.default_rng(0)
    ties = (np.arange(1024, 1536, dtype=np.float32) + 0.5) / 2048
    numbers = np.concatenate([rng.uniform(-1, 1, 1500), ties, rng.uniform(-1, 1, 1000) * 2.0**-14]).astype(np.float32)
    literal = "[" + ",".join(map(repr, numbers.tolist())) + "]"
    with database.connect() as connection:
        stored = connection.scalar(text("SELECT CAST(:v AS halfvec)::text"), {"v": literal})
    assert np.array(stored[1:-1].split(","), dtype=np.float16).tolist() == halved(numbers[None])[0].tolist()
    assert (numbers.astype(np.float16) != numbers).mean() > 0.9


def test_rows_in_copy_format_are_those_of_the_documentation() -> None:
    data = packed(ids(258), np.array([[1.0, -2.0]], dtype=np.float16))
    row = "0002 00000008 0000000000000102 00000008 0002 0000 3c00 c000"
    assert data == b"PGCOPY\n\xff\r\n\x00" + bytes(8) + bytes.fromhex(row) + b"\xff\xff"
    found, vectors = unpacked(data, 2)
    assert (found.tolist(), vectors.tolist()) == ([258], [[1.0, -2.0]])


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 64))
def test_rounding_moves_an_inner_product_by_less_than_its_bound(seed: int, dim: int) -> None:
    left, right = unit(2, seed=seed, dim=dim).astype(np.float64)
    rounded = [halved(one[None].astype(np.float32))[0].astype(np.float64) for one in (left, right)]
    assert abs(rounded[0] @ rounded[1] - left @ right) <= 2.0**-10 + 2.0**-22 + 2.0**-24 * dim**0.5


def test_a_change_within_a_transaction_is_seen_with_its_commit_and_not_before(
    database: Engine, index: PgvectorIndex
) -> None:
    with database.connect() as connection:
        inside = index.within(connection)
        inside.add(ids(1, 2), unit(2))
        assert (len(inside), len(index)) == (2, 0)
        assert inside.search(unit(1), 2).ids.tolist() == [[1, 2]]
        assert index.search(unit(1), 2).ids.tolist() == [[-1, -1]]
        connection.rollback()
        assert (len(inside), index.ids().tolist()) == (0, [])
        connection.rollback()
        inside.add(ids(1, 2), unit(2))
        connection.commit()
        assert (len(index), index.ids().tolist()) == (2, [1, 2])


def test_a_refused_change_leaves_the_transaction_as_it_was(database: Engine, index: PgvectorIndex) -> None:
    index.add(ids(1), unit(1))
    with database.begin() as connection:
        inside = index.within(connection)
        connection.execute(text("CREATE TEMPORARY TABLE mine (x integer) ON COMMIT DROP"))
        with pytest.raises(DuplicateIdError):
            inside.add(ids(5, 1), unit(2))
        with pytest.raises(UnknownIdError):
            inside.remove(ids(1, 9))
        connection.execute(text("INSERT INTO mine VALUES (1)"))
        inside.add(ids(5), unit(1))
    assert (len(index), index.ids().tolist()) == (2, [1, 5])


def test_what_a_savepoint_takes_back_is_neither_there_nor_counted(database: Engine, index: PgvectorIndex) -> None:
    index.add(ids(1, 2), unit(2))
    with database.begin() as connection:
        inside = index.within(connection)
        with connection.begin_nested() as savepoint:
            inside.remove(ids(1))
            inside.add(ids(3, 4), unit(2))
            savepoint.rollback()
        assert (len(inside), inside.ids().tolist()) == (2, [1, 2])
        inside.add(ids(5), unit(1))
    assert (len(index), index.ids().tolist()) == (3, [1, 2, 5])


def test_one_of_two_who_add_the_same_id_is_refused_and_the_count_stays_right(
    database: Engine, index: PgvectorIndex
) -> None:
    """Twice the threads of as many engines, as replicas would be; every id is taken exactly once."""
    refused, vectors = list[int](), unit(1)

    def write(mine: PgvectorIndex) -> None:
        for number in range(20):
            try:
                mine.add(ids(number), vectors)
            except DuplicateIdError:
                refused.append(number)

    threads = [threading.Thread(target=write, args=(PgvectorEngine(database).index(index.name, DIM),)) for _ in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(refused) == sorted([*range(20)] * 2)
    assert (len(index), index.ids().tolist()) == (20, list(range(20)))


def test_writers_in_other_processes_take_turns_too(database: Engine, index: PgvectorIndex) -> None:
    """Two processes add overlapping ids one by one and remove some of their own."""
    code = """if True:
        import sys, numpy as np
        from sqlalchemy import create_engine
        from facemargin.errors import DuplicateIdError
        from facemargin.index import open_engine
        url, name, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
        index = open_engine("pgvector:", database=create_engine(url)).index(name, 16)
        for number in range(first, first + 40):
            try:
                index.add(np.array([number]), np.eye(16, dtype=np.float32)[:1])
                if number % 4 == 0:
                    index.remove(np.array([number]))
            except DuplicateIdError:
                print(number)
    """
    url = database.url.render_as_string(hide_password=False)
    commands = [[sys.executable, "-c", code, url, index.name, first] for first in ("0", "20")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    refused = [int(line) for process in processes for line in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(number for number in refused if number % 4) == [n for n in range(20, 40) if n % 4]
    assert index.ids().tolist() == [number for number in range(60) if number % 4]
    assert len(index) == 45


def test_the_same_index_is_made_once_however_many_ask(database: Engine) -> None:
    made, name = list[PgvectorIndex](), f"pg{next(_NUMBERS)}"
    threads = [
        threading.Thread(target=lambda: made.append(PgvectorEngine(database).index(name, DIM))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made[0].add(ids(1), unit(1))
    assert [len(one) for one in made] == [1] * 4
    PgvectorEngine(database).drop(name)


def scans(connection: Connection, index: PgvectorIndex) -> int:
    """How often the graph has been used."""
    connection.execute(text("SELECT pg_stat_force_next_flush()"))
    connection.commit()
    statement = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = :name"
    return int(connection.scalar(text(statement), {"name": f"{index.name}_hnsw"}) or 0)


def test_a_large_index_is_searched_by_its_graph_and_a_small_one_is_not(database: Engine) -> None:
    engine, dim = PgvectorEngine(database, Hnsw(m=8, ef_construction=32, ef_search=100)), 128
    for rows, by_graph in ((200, False), (20_000, True)):
        index, vectors = engine.index(f"plan_{rows}", dim), unit(rows, dim=dim)
        with index.loading():
            index.add(np.arange(rows), vectors)
        with database.connect() as connection:
            before = scans(connection, index)
            for start in range(0, 20, 10):
                found = index.within(connection).search(vectors[start : start + 10], 5).ids
                assert found[:, 0].tolist() == list(range(start, start + 10))
            assert (scans(connection, index) - before) == (20 if by_graph else 0)
        engine.drop(index.name)


def test_all_that_is_there_is_found_when_the_graph_leads_to_too_little(
    database: Engine, index: PgvectorIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = unit(400)
    index.add(np.arange(400), vectors)
    index.remove(np.arange(0, 390))  # the graph keeps them until VACUUM
    few = "SET LOCAL enable_seqscan = off; SET LOCAL hnsw.ef_search = 5; SET LOCAL hnsw.iterative_scan = off"
    monkeypatch.setattr("facemargin.index.pgvector.graph.Graph.settings", lambda self, k: few)
    for k in (1, 10, 50):
        found = index.search(vectors[:2], k).ids
        expected = np.argsort(-(vectors[:2] @ vectors[390:].T), axis=1)[:, :k] + 390
        assert found[:, :10].tolist() == expected.tolist()
        assert (found[:, 10:] == -1).all()


def test_loading_builds_the_graph_once_at_the_end(database: Engine, index: PgvectorIndex) -> None:
    def has_graph() -> bool:
        with database.connect() as connection:
            name = {"name": f'facemargin_vectors."{index.name}_hnsw"'}
            return connection.scalar(text("SELECT to_regclass(:name)"), name) is not None

    assert has_graph()
    with index.loading():
        assert not has_graph()
        index.add(ids(1), unit(1))
    assert has_graph()
    with index.loading():  # not empty any more, so it stays
        assert has_graph()


def test_vectors_longer_than_a_graph_takes_are_refused(engine: PgvectorEngine) -> None:
    with pytest.raises(ValueError, match="dim is 4001; pgvector searches vectors of at most 4000 numbers"):
        engine.index("long", 4001)
    index = engine.index("longest", 4000)
    index.add(ids(1, 2), unit(2, dim=4000))
    assert index.search(unit(2, dim=4000), 1).ids.tolist() == [[1], [2]]
    engine.drop("longest")


def test_a_server_without_a_new_pgvector_says_what_to_do(postgres_url: URL) -> None:
    database = engine_at(postgres_url)
    with database.begin() as connection:
        connection.execute(text("CREATE EXTENSION vector"))
        connection.execute(text("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'"))
    with pytest.raises(ConfigError, match=r"pgvector 0\.7\.4; 0\.8 or newer is needed.*ALTER EXTENSION vector UPDATE"):
        PgvectorEngine(database).check()
    database.dispose()


def test_a_role_that_may_not_make_the_extension_is_told_who_may(postgres_url: URL) -> None:
    owner = engine_at(postgres_url)
    role = f"plain_{postgres_url.database}"
    with owner.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
    database = engine_at(postgres_url.set(username=role))
    with pytest.raises(ConfigError, match=r"may not make the extension vector.*CREATE EXTENSION vector"):
        PgvectorEngine(database).index("a", DIM)
    with owner.begin() as connection:
        connection.execute(text("CREATE EXTENSION vector"))
    with pytest.raises(ConfigError, match="role of the store lacks a right: permission denied for database"):
        PgvectorEngine(database).index("a", DIM)
    database.dispose()
    with owner.begin() as connection:
        connection.execute(text(f"DROP ROLE {role}"))
    owner.dispose()


def test_a_server_that_is_away_is_named_without_the_password() -> None:
    database = engine_at(URL.create("postgresql", "me", "hidden", "127.0.0.1", 1, "faces"))
    for call in (PgvectorEngine(database).check, PgvectorEngine(database).names):
        with pytest.raises(IndexUnavailableError, match=r"pgvector does not answer.*refused") as caught:
            call()
        assert "hidden" not in str(caught.value)
    database.dispose()


@pytest.mark.parametrize("call", ["search", "add", "ids", "len"])
def test_a_lost_connection_is_an_error_once_and_then_a_new_one(postgres_url: URL, call: str) -> None:
    database, other = engine_at(postgres_url, pool_size=1, max_overflow=0), engine_at(postgres_url)
    index = PgvectorEngine(database).index("lost", DIM)
    index.add(ids(1), unit(1))
    calls = {
        "search": lambda: index.search(unit(1), 1).ids.tolist() == [[1]],
        "add": lambda: index.add(ids(2), unit(1, seed=2)) is None,
        "ids": lambda: index.ids().tolist() == [1],
        "len": lambda: len(index) == 1,
    }
    with other.connect() as connection:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
    with pytest.raises(IndexUnavailableError, match="pgvector does not answer"):
        calls[call]()
    assert calls[call]()
    database.dispose()
    other.dispose()


def test_no_free_connection_is_an_error_that_says_so(database: Engine) -> None:
    small = create_engine(database.url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    index = PgvectorEngine(small).index("narrow", DIM)
    with small.connect(), pytest.raises(IndexUnavailableError, match="no connection is free"):
        len(index)
    assert len(index) == 0
    PgvectorEngine(small).drop("narrow")
    small.dispose()


@pytest.fixture
def impatient(database: Engine) -> Iterator[Engine]:
    """One connection to the same database, which waits a fifth of a second for a lock."""
    options = {"options": "-c lock_timeout=200ms"}
    engine = create_engine(database.url, pool_size=1, max_overflow=0, connect_args=options)
    yield engine
    engine.dispose()


def test_a_sign_of_life_does_not_wait_for_an_index_that_is_being_made_or_dropped(
    database: Engine, impatient: Engine, index: PgvectorIndex
) -> None:
    with database.begin() as connection:
        lock(connection)
        PgvectorEngine(impatient).check()
        assert index.name in PgvectorEngine(impatient).names()


def test_tidying_does_not_wait_for_writers_nor_they_for_it(
    database: Engine, impatient: Engine, index: PgvectorIndex
) -> None:
    index.add(ids(1, 2), unit(2))
    with database.begin() as connection:
        index.within(connection).remove(ids(1))
        PgvectorEngine(impatient).index(index.name, DIM).tidy()
    assert index.ids().tolist() == [2]


def test_a_connection_whose_tidying_failed_has_no_more_memory_than_before(
    database: Engine, impatient: Engine, index: PgvectorIndex
) -> None:
    def memory() -> str:
        with impatient.connect() as connection:
            return str(connection.scalar(text("SHOW maintenance_work_mem")))

    mine, before = PgvectorEngine(impatient).index(index.name, DIM), memory()
    with database.begin() as connection:
        index.within(connection).search(unit(1), 1)
        with pytest.raises(IndexUnavailableError, match="lock timeout"):
            mine.tidy(thorough=True)
    assert memory() == before
    mine.tidy(thorough=True)


def pages(connection: Connection, relation: str) -> bytes:
    """The file of a table or graph, as the server has written it."""
    statement = "SELECT pg_read_binary_file(pg_relation_filepath(CAST(:name AS regclass)))"
    return bytes(connection.scalar(text(statement), {"name": relation}))


@pytest.mark.parametrize(("rows", "step"), [(300, 3), (12_000, 12_000)], ids=["many", "one of many"])
def test_tidying_overwrites_what_was_removed_in_the_graph_and_when_thorough_in_the_table(
    database: Engine, rows: int, step: int
) -> None:
    """PostgreSQL by itself leaves the graph alone where fewer than one in fifty pages of the table has a dead row."""
    engine, vectors, gone = PgvectorEngine(database, Hnsw(m=4, ef_construction=8)), unit(rows), range(0, rows, step)
    index = engine.index(f"tidied_{rows}", DIM)
    with index.loading():
        index.add(np.arange(rows), vectors)
    relations = (f'facemargin_vectors."{index.name}"', f'facemargin_vectors."{index.name}_hnsw"')

    def left() -> list[int]:
        """How many of the removed vectors are in either file."""
        with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CHECKPOINT"))
            files = [pages(connection, relation) for relation in relations]
        return [sum(halved(vectors[row : row + 1]).tobytes() in file for row in gone) for file in files]

    index.remove(np.array(gone))
    assert left() == [len(gone), len(gone)]
    index.tidy()
    assert left()[1] == 0
    index.tidy(thorough=True)
    assert left() == [0, 0]
    engine.drop(index.name)
