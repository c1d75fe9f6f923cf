"""The contract of every search engine: named indexes, what stays when it is opened again, and what URLs mean."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine

from facemargin.errors import ConfigError, DuplicateIdError, IndexDroppedError, IndexingError, IndexUnavailableError
from facemargin.index import ENGINES, INDEXES, Index, NumpyIndex, SearchEngine, checksum, open_engine

URLS = (*(f"faiss:{kind}" for kind in INDEXES), "pgvector:", "milvus:")

Reopen = Callable[[], SearchEngine]


def clustered(count: int, dim: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors around a centre for every eight of them, as faces of people are."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count // 8 + 1, dim))
    vectors = np.repeat(centres, 8, axis=0)[:count] + 0.7 * rng.standard_normal((count, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def ids(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, dtype=np.int64)


@pytest.fixture(params=URLS)
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Opens an engine of each kind, and again what it held, as a process would that is started anew."""
    database: Engine | None = request.getfixturevalue("database") if request.param == "pgvector:" else None
    url = f"milvus:{tmp_path / 'lite.db'}" if request.param == "milvus:" else request.param
    opened: list[SearchEngine] = []

    def open_again() -> SearchEngine:
        for engine in opened:
            engine.close()
        opened.append(open_engine(url, database=database))
        return opened[-1]

    yield open_again
    for name in opened[-1].names():
        opened[-1].drop(name)
    opened[-1].close()


@pytest.fixture
def engine(reopen: Reopen) -> SearchEngine:
    return reopen()


def test_packages_of_engines_are_imported_by_their_urls_only() -> None:
    code = """if True:
        import sys
        from facemargin.index import open_engine
        open_engine("faiss:exact").index("a", 8)
        print({"sqlalchemy", "psycopg", "pymilvus", "grpc"} & set(sys.modules))
    """
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_every_scheme_is_tested() -> None:
    assert {url.partition(":")[0] for url in URLS} == set(ENGINES) - {"milvus+tls"}


def test_named_indexes_never_leak_into_each_other(engine: SearchEngine) -> None:
    vectors = clustered(60, 16)
    left, right = engine.index("left", 16), engine.index("right", 16)
    left.add(np.arange(0, 40), vectors[:40])
    right.add(np.arange(20, 60), vectors[20:][::-1].copy())  # the same ids for other vectors
    assert engine.names() == {"left", "right"}
    assert set(left.search(vectors, 60).ids.ravel().tolist()) == {*range(40), -1}
    assert set(right.search(vectors, 60).ids.ravel().tolist()) == {*range(20, 60), -1}
    left.remove(ids(20, 21))
    assert right.search(vectors[-1:], 1).ids.tolist() == [[20]]
    engine.drop("left")
    engine.drop("left")
    assert (engine.names(), len(right)) == ({"right"}, 40)
    assert len(engine.index("left", 16)) == 0


def test_finds_what_an_exact_search_finds(engine: SearchEngine) -> None:
    """Recall@5 of 2000 clustered vectors against numpy, and similarities within what float16 loses."""
    vectors, oracle, index = clustered(2000, 64), NumpyIndex(64), engine.index("recall", 64)
    for some in (oracle, index):
        some.add(np.arange(2000) * 3, vectors)
        some.remove(np.arange(0, 2000, 5) * 3)
    queries = clustered(100, 64, seed=1)
    expected, result = oracle.search(queries, 5), index.search(queries, 5)
    found = [len(set(a) & set(b)) for a, b in zip(expected.ids.tolist(), result.ids.tolist(), strict=True)]
    assert sum(found) / 500 >= 0.99
    assert np.abs(result.similarities - expected.similarities)[expected.ids == result.ids].max() < 1e-3
    assert not np.isin(result.ids, np.arange(0, 2000, 5) * 3).any()


def test_asked_for_more_than_it_holds_it_gives_all(engine: SearchEngine) -> None:
    index = engine.index("large_k", 8)
    vectors = clustered(300, 8)
    index.add(np.arange(300), vectors)
    index.remove(np.arange(0, 300, 2))
    similarities, found = index.search(vectors[:2], 20_000)
    assert np.sort(found[:, :150], axis=1).tolist() == [list(range(1, 300, 2))] * 2
    assert (found[:, 150:] == -1).all()
    assert (np.diff(similarities[:, :150]) <= 0).all()


def test_what_is_durable_stays_and_the_rest_is_empty(reopen: Reopen) -> None:
    engine, vectors = reopen(), clustered(50, 8)
    index = engine.index("kept", 8)
    index.add(np.arange(50), vectors)
    index.remove(ids(7))
    before, durable = checksum(index), engine.durable
    again = reopen()
    assert again.names() == ({"kept"} if durable else set())
    kept = again.index("kept", 8)
    assert len(kept) == (49 if durable else 0)
    if durable:
        assert checksum(kept) == before
        assert kept.ids().tolist() == [number for number in range(50) if number != 7]
        assert kept.search(vectors[3:4], 1).ids.tolist() == [[3]]
        with pytest.raises(DuplicateIdError, match="id 3 "):
            kept.add(ids(3), vectors[:1])


def test_durable_engines_are_the_ones_that_see_vectors(engine: SearchEngine) -> None:
    assert engine.durable == engine.plaintext == (not type(engine).__name__.startswith("Memory"))
    assert engine.transactional == hasattr(engine.index("kind", 8), "within")
    engine.check()


def test_a_name_has_one_length(engine: SearchEngine) -> None:
    engine.index("eight", 8)
    with pytest.raises(IndexingError, match="'eight' holds vectors of 8 numbers, not of 9"):
        engine.index("eight", 9)


@pytest.mark.parametrize("name", ["", "Upper", "1st", "a-b", 'a"b', "a b", "_a", "x" * 49, "ä"])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match="name of an index"):
        open_engine("faiss:exact").index(name, 8)


def test_the_longest_name_and_the_least_length_are_taken(engine: SearchEngine) -> None:
    least = 2 if "Milvus" in type(engine).__name__ else 1
    index = engine.index("n" * 48, least)
    index.add(ids(1, 2), np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)[:, :least])
    assert index.search(np.array([[-1.0, 0.0]], dtype=np.float32)[:, :least], 1).ids.tolist() == [[2]]
    with pytest.raises(ValueError, match="dim is 0"):
        engine.index("zero", 0)


def test_an_index_that_was_dropped_says_so_or_is_empty(engine: SearchEngine) -> None:
    index, vectors = engine.index("gone", 8), clustered(3, 8)
    index.add(ids(1, 2, 3), vectors)
    engine.drop("gone")
    if not engine.durable:
        assert len(index) == 0
        return
    for use in (
        lambda: len(index),
        lambda: index.search(vectors, 2),
        lambda: index.ids(),
        lambda: index.add(ids(1), vectors[:1]),
        lambda: index.remove(ids(1)),
        lambda: index.vectors(ids(1)),
    ):
        with pytest.raises(IndexDroppedError, match="dropped"):
            use()


@pytest.mark.parametrize("reopen", ["pgvector:", "milvus:"], indirect=True)
def test_a_load_can_be_cut_short_and_taken_up_again(reopen: Reopen) -> None:
    index, vectors = reopen().index("load", 16), clustered(400, 16)

    def load(start: int, *, cut: bool) -> None:
        with index.loading():  # type: ignore[attr-defined]
            index.add(np.arange(start, start + 200), vectors[start : start + 200])
            if cut:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        load(0, cut=True)
    assert index.search(vectors[5:6], 1).ids.tolist() == [[5]]
    load(200, cut=False)
    index.remove(np.arange(0, 400, 3))
    index.tidy()  # type: ignore[attr-defined]
    assert len(index) == 266
    assert index.search(vectors[[5, 301]], 1).ids.ravel().tolist() == [5, 301]


def test_contents_have_one_checksum_in_every_engine(engine: SearchEngine) -> None:
    oracle, index, vectors = NumpyIndex(32), engine.index("sums", 32), clustered(100, 32)
    oracle.add(np.arange(100), vectors)
    index.add(np.arange(100)[::-1].copy(), vectors[::-1].copy())
    assert checksum(index) == checksum(oracle)
    index.remove(ids(4))
    assert checksum(index) != checksum(oracle)


def keep_busy(index: Index, rounds: int) -> None:
    """Two writers with ids of their own, and searches all the while: what `remove` has returned for is never seen."""
    vectors, steady = clustered(64, 16), set(range(10_000, 10_064))
    index.add(np.arange(10_000, 10_064), vectors)
    removed, errors = set[int](), list[str]()
    done = threading.Event()

    @contextmanager
    def noted() -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a thread meets must fail the test
            errors.append(repr(error))

    def write(first: int) -> None:
        with noted():
            for number in range(first, first + 2 * rounds, 2):
                index.add(ids(number, number + 1), vectors[[number % 64, (number + 1) % 64]])
                index.remove(ids(number))
                removed.add(number)

    def look() -> None:
        with noted():
            while not done.is_set():
                before = set(removed)
                seen = set(index.search(vectors[:2], 4 * rounds + 64).ids.ravel().tolist())
                if seen & before or not seen >= steady:
                    errors.append(f"{seen & before} after removal, {steady - seen} missing")

    lookers = [threading.Thread(target=look) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 5000)]
    for thread in (*lookers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in lookers:
        thread.join()
    assert not errors, errors[:3]
    assert len(index) == 64 + 2 * rounds
    assert sorted(removed) == [*range(0, 2 * rounds, 2), *range(5000, 5000 + 2 * rounds, 2)]


def test_writers_and_searchers_at_the_same_time_see_no_error_and_nothing_removed(engine: SearchEngine) -> None:
    keep_busy(engine.index("busy", 16), 12)


@pytest.mark.slow
def test_writers_and_searchers_see_neither_for_a_thousand_changes(engine: SearchEngine) -> None:
    keep_busy(engine.index("busy", 16), 500)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("segmented", "begin with one of faiss:, milvus:, milvus.tls:, pgvector:"),
        ("redis://secret@host", r"'redis://\*\*\*@host' names no engine"),
        ("faiss:annoy", "faiss:annoy.*faiss:exact"),
        ("pgvector:", "needs a store on PostgreSQL"),
        ("milvus:faces", "names no Milvus"),
        ("milvus:/nowhere/faces.db", "/nowhere of the Milvus file does not exist"),
        ("milvus://", "names no host"),
        ("milvus://host:port", "cannot be read"),
        ("milvus://host/a/b", "too much"),
        ("milvus://host?ef=3", "'ef' is unknown, or there twice; they may be m, ef_construction, ef_search"),
        ("milvus://host?m=8&m=9", "'m' is unknown, or there twice"),
        ("milvus://host?m=", "options cannot be used: invalid literal"),
        ("milvus://host?token=secret", "'token' is unknown"),
        ("milvus://host?m=1", "m is 1; it must be from 2 to 100"),
        ("milvus://me:secret@host", "put it into FACEMARGIN_MILVUS_TOKEN"),
    ],
)
def test_urls_that_cannot_be_are_refused_without_their_secrets(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        open_engine(url)
    assert "secret" not in str(caught.value)


def test_memory_of_a_dropped_index_is_zeros() -> None:
    engine = open_engine("faiss:flat")
    index: Index = engine.index("wiped", 4)
    index.add(ids(1, 2), clustered(2, 4))
    memory = index._matrix()  # type: ignore[attr-defined]
    assert memory.all()
    engine.drop("wiped")
    assert not memory.any()


def test_an_engine_that_is_away_is_an_error_of_its_own() -> None:
    engine = open_engine("milvus://127.0.0.1:1")
    with pytest.raises(IndexUnavailableError, match=r"Milvus at http://127.0.0.1:1 does not answer"):
        engine.check()


@pytest.mark.slow
@pytest.mark.parametrize("reopen", ["pgvector:", "milvus:"], indirect=True)
def test_a_large_gallery_is_searched_nearly_as_well_as_by_comparing_everything(reopen: Reopen) -> None:
    """Recall@5 of 20,000 clustered vectors of 512 numbers, also after a third was removed and new ones came."""
    index, oracle, vectors = reopen().index("large", 512), NumpyIndex(512), clustered(24_000, 512)
    with index.loading():  # type: ignore[attr-defined]
        for start in range(0, 20_000, 5000):
            index.add(np.arange(start, start + 5000), vectors[start : start + 5000])
    oracle.add(np.arange(20_000), vectors[:20_000])
    queries = vectors[:20_000:80] + 0.02 * clustered(250, 512, seed=3)  # of people who are in the index
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    for _ in range(2):
        expected, found = oracle.search(queries, 5), index.search(queries, 5)
        hits = [len(set(a) & set(b)) for a, b in zip(expected.ids.tolist(), found.ids.tolist(), strict=True)]
        assert sum(hits) / expected.ids.size >= 0.99
        if len(oracle) == 20_000:
            for some in (oracle, index):
                some.remove(np.arange(0, 20_000, 3))
                some.add(np.arange(20_000, 24_000), vectors[20_000:])
    assert checksum(index) == checksum(oracle)
