"""The segmented index: the same answers as the exact one in any order of changes, no rest of what was removed."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from facemargin.index import NumpyIndex, SegmentedIndex, contents, segmented
from facemargin.index.scan import Candidates
from facemargin.index.segment import Segment

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]


def unit(count: int, dim: int, *, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def numbers(*values: int) -> Ids:
    return np.array(values, dtype=np.int64)


def filled(count: int, dim: int = 16, **options: Any) -> tuple[SegmentedIndex, Vectors]:
    index, vectors = SegmentedIndex(dim, **options), unit(count, dim)
    index.add(np.arange(count, dtype=np.int64), vectors)
    return index, vectors


class AgreesWithTheExactIndex(RuleBasedStateMachine):
    """Everything is ranked in float32 here, so that results must be equal, however the vectors are spread."""

    def __init__(self) -> None:
        super().__init__()
        self.index = SegmentedIndex(12, threads=2, segment_rows=5, rerank_more=200)
        self.exact = NumpyIndex(12)
        self.held: list[int] = []
        self.next = 0

    @rule(seed=st.integers(0, 2**20), count=st.integers(1, 14), kind=st.sampled_from(["any", "axis", "alike"]))
    def add(self, seed: int, count: int, kind: str) -> None:
        vectors = unit(count, 12, seed=seed)
        if kind == "axis":
            vectors = np.eye(12, dtype=np.float32)[np.arange(seed, seed + count) % 12] * np.float32(-1) ** seed
        elif kind == "alike":
            vectors = np.repeat(vectors[:1], count, axis=0)
        ids = np.arange(self.next, self.next + count, dtype=np.int64)
        for index in (self.index, self.exact):
            index.add(ids, vectors)
        self.held += ids.tolist()
        self.next += count

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from(self.held), min_size=1, max_size=12, unique=True))
        for index in (self.index, self.exact):
            index.remove(numbers(*gone))
        self.held = [number for number in self.held if number not in gone]

    @rule(seed=st.integers(0, 2**20), k=st.integers(1, 30))
    def search(self, seed: int, k: int) -> None:
        queries = unit(2, 12, seed=seed)
        found, exact = self.index.search(queries, k), self.exact.search(queries, k)
        np.testing.assert_allclose(found.similarities, exact.similarities, atol=1e-6)
        for query, similarities, ids, ids_exact in zip(queries, found.similarities, found.ids, exact.ids, strict=True):
            real = ids[ids >= 0]
            assert len(set(real.tolist())) == len(real) == min(k, len(self.held))
            np.testing.assert_allclose(self.exact.vectors(real) @ query, similarities[: len(real)], atol=1e-6)
            if np.diff(np.append(similarities[: len(real)], -2)).max(initial=-1) < -1e-5:
                np.testing.assert_array_equal(ids[:-1], ids_exact[:-1])  # without ties the order is defined

    @invariant()
    def holds_the_same(self) -> None:
        assert len(self.index) == len(self.held)
        found = {number: row for ids, rows in self.index.export() for number, row in zip(ids, rows, strict=True)}
        assert sorted(found) == self.held
        ids = numbers(*self.held)
        np.testing.assert_array_equal(self.index.vectors(ids), self.exact.vectors(ids))

    @invariant()
    def no_segment_is_worn_out(self) -> None:
        segments = self.index._contents.segments.values()
        assert all(segment.live == (segment.ids >= 0).sum() >= 0.75 * 5 for segment in segments)
        assert self.index._contents.delta.used < 5


TestAnySequenceAgreesWithTheExactIndex = AgreesWithTheExactIndex.TestCase
TestAnySequenceAgreesWithTheExactIndex.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("kind", ["random", "one side", "few components"])
def test_the_default_number_of_candidates_loses_nobody(kind: str) -> None:
    vectors, queries = unit(4000, 96), unit(100, 96, seed=5)
    if kind == "one side":  # a common direction, as of a network whose embeddings are not centred
        vectors, queries = vectors + unit(1, 96, seed=6), queries + unit(1, 96, seed=6)
    elif kind == "few components":
        vectors[:, 8:] *= 0.1
        queries[:, 8:] *= 0.1
    vectors, queries = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (vectors, queries))
    index, ids = SegmentedIndex(96, segment_rows=512), np.arange(4000, dtype=np.int64)
    for start in range(0, 4000, 700):
        index.add(ids[start : start + 700], vectors[start : start + 700])
    assert len(index._contents.segments) == 7
    best = np.sort(queries @ vectors.T, axis=1)[:, ::-1][:, :5]
    found = index.search(queries, 5)
    assert (found.similarities >= best[:, -1:] - 1e-6).mean() >= 0.998
    np.testing.assert_allclose(found.similarities, np.einsum("qkd,qd->qk", vectors[found.ids], queries), atol=1e-6)


def test_fewer_candidates_lose_somebody() -> None:
    index, vectors = filled(4000, 96, segment_rows=512, rerank_factor=1, rerank_more=0)
    queries = unit(100, 96, seed=5)
    best = np.sort(queries @ vectors.T, axis=1)[:, ::-1][:, :5]
    assert (index.search(queries, 5).similarities >= best[:, -1:] - 1e-6).mean() < 0.998


@pytest.mark.parametrize("name", ["threads", "segment_rows", "rerank_factor", "rerank_more"])
def test_options_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is -1; it must be at least"):
        SegmentedIndex(8, **{name: -1})


# Erasure


def arrays_of(thing: object) -> Iterator[NDArray[Any]]:
    """Every array that can be reached from an object of the index."""
    if isinstance(thing, np.ndarray):
        yield thing if thing.base is None or not isinstance(thing.base, np.ndarray) else thing.base
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from arrays_of(value)
    elif type(thing).__module__.startswith("facemargin.index"):
        yield from arrays_of(vars(thing))


def traces(arrays: list[NDArray[Any]], patterns: list[bytes]) -> int:
    """How many of the patterns are in the memory of any array."""
    memory = [array.tobytes() for array in arrays]
    return sum(any(pattern in block for block in memory) for pattern in patterns)


@pytest.mark.parametrize("segment_rows", [8, 150])
def test_nothing_is_left_of_what_was_removed_in_any_array_that_the_index_ever_had(
    segment_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks at the arrays after each removal, and at the end at all that were ever there and are garbage now."""
    survivors, copies = contents.Contents.survivors, list[NDArray[Any]]()

    def remembered(self: contents.Contents, worn: list[int]) -> Any:
        found = survivors(self, worn)
        copies.append(found[1])
        return found

    monkeypatch.setattr(contents.Contents, "survivors", remembered)
    index, rng, vectors = SegmentedIndex(16, segment_rows=segment_rows), np.random.default_rng(3), unit(600, 16)
    floats = [row.tobytes() for row in vectors]
    ever: dict[int, NDArray[Any]] = {}
    owners: set[Segment] = set()  # FAISS frees the memory of codes with them, and uses it again
    held: set[int] = set()
    for start in range(0, 600, 6):
        index.add(np.arange(start, start + 6, dtype=np.int64), vectors[start : start + 6])
        held |= set(range(start, start + 6))
        ever |= {id(array): array for array in arrays_of(index)}
        owners |= set(index._contents.segments.values())
        gone = rng.permutation(sorted(held))[:4].astype(np.int64)
        index.remove(gone)
        held -= set(gone.tolist())
        ever |= {id(array): array for array in arrays_of(index)}
        owners |= set(index._contents.segments.values())
        assert traces([*arrays_of(index), *copies], [floats[n] for n in gone]) == 0
    quantiser = index._contents.quantiser
    assert quantiser is not None
    codes = [row.tobytes() for row in quantiser.encode(vectors)]
    removed = sorted(set(range(600)) - held)
    assert copies, "no segment was worn out"
    memory = [*ever.values(), *copies]
    assert traces(memory, [floats[n] for n in removed]) == traces(memory, [codes[n] for n in removed]) == 0
    now = list(arrays_of(index))
    assert traces(now, [floats[n] for n in held]) == len(held) > 100  # the search for traces does find what is there
    assert traces(now, [codes[n] for n in held]) == sum(s.live for s in index._contents.segments.values()) > 0


def test_what_is_removed_during_a_scan_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    index, vectors = filled(100, segment_rows=16)
    interrupt(monkeypatch, lambda: index.remove(numbers(3, 40, 99)))
    found = index.search(vectors[[3, 40, 99]], 100)
    assert not np.isin(found.ids, [3, 40, 99]).any()
    assert sorted(found.ids[0][found.ids[0] >= 0].tolist()) == sorted(set(range(100)) - {3, 40, 99})


def interrupt(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> list[int]:
    """Make a change right after the first scan; the list tells how many scans there were."""
    scan, scans = segmented.scan, list[int]()

    def interrupted(*args: Any, **options: Any) -> Candidates:
        found = scan(*args, **options)
        scans.append(len(scans))
        if len(scans) == 1:
            change()
        return found

    monkeypatch.setattr(segmented, "scan", interrupted)
    return scans


def test_what_is_sealed_during_a_scan_is_found_unless_it_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = filled(40, segment_rows=16)
    later, queries = unit(60, 16, seed=8), unit(1, 16, seed=9)

    def change() -> None:
        index.add(np.arange(100, 160, dtype=np.int64), later)
        index.remove(numbers(120, 130))

    interrupt(monkeypatch, change)
    similarities, found = index.search(np.concatenate([later, queries]), 200)
    assert np.isneginf(similarities[found < 0]).all()
    alive = [*range(40), *(number for number in range(100, 160) if number not in (120, 130))]
    assert [int(row[0]) for row in found[[0, 1, 59]]] == [100, 101, 159]
    for row in found:
        assert sorted(row[row >= 0].tolist()) == alive


def test_what_moves_during_a_scan_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    index, vectors = filled(64, segment_rows=16)

    def wear() -> None:
        before = dict(index._contents.segments)
        index.remove(np.arange(5, dtype=np.int64))  # of 16, so the first segment is dropped, and another one sealed
        index.add(numbers(*range(100, 106)), unit(6, 16, seed=4))
        assert len(before) == len(index._contents.segments)
        assert before != index._contents.segments

    interrupt(monkeypatch, wear)
    found = index.search(vectors[5:16], 80).ids
    assert found[:, 0].tolist() == list(range(5, 16))
    for row in found:
        assert sorted(row[row >= 0].tolist()) == [*range(5, 64), *range(100, 106)]


def test_a_search_that_lost_its_candidates_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    index, vectors = filled(200, segment_rows=64, rerank_factor=1, rerank_more=2)
    order = np.argsort(-(vectors @ vectors[0]))
    scans = interrupt(monkeypatch, lambda: index.remove(order[:6].astype(np.int64)))
    left = order[6:]
    found = index.search(vectors[:1], 4)
    assert len(scans) == 2
    np.testing.assert_allclose(found.similarities[0], (vectors @ vectors[0])[left[:4]], atol=1e-2)
    assert (found.ids >= 0).all()
    assert np.isin(found.ids, left).all()


def test_searches_go_on_while_codes_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    index, vectors = filled(20, segment_rows=16)
    found: list[list[int]] = []

    def segment(*args: Any) -> Segment:
        searching = threading.Thread(target=lambda: found.append(index.search(vectors[:1], 1).ids[0].tolist()))
        searching.start()
        searching.join(10)
        return Segment(*args)

    monkeypatch.setattr(contents, "Segment", segment)
    index.add(np.arange(100, 130, dtype=np.int64), unit(30, 16, seed=2))
    assert found == [[0], [0]]


# Many threads


class Life:
    """Vectors that come and go, and the time of each."""

    def __init__(self, index: SegmentedIndex, dim: int) -> None:
        self.index, self.vectors = index, unit(4096, dim, seed=11)
        self.steady = self.next = 256  # ids below stay for good
        self.index.add(np.arange(self.steady, dtype=np.int64), self.vectors[: self.steady])
        self.born, self.died = dict.fromkeys(range(self.steady), 0.0), dict[int, float]()
        self.alive: list[int] = []
        self.wrong: list[str] = []
        self.done = threading.Event()

    def vector(self, ids: Ids) -> Vectors:
        return self.vectors[ids % 4096]

    def change(self, rng: np.random.Generator) -> None:
        """Add or remove a few."""
        if len(self.alive) < 300 or (len(self.alive) < 1000 and rng.random() < 0.5):
            ids = np.arange(self.next, self.next + rng.integers(1, 9), dtype=np.int64)
            self.next += len(ids)
            self.born |= dict.fromkeys(ids.tolist(), time.perf_counter())
            self.index.add(ids, self.vector(ids))
            self.alive += ids.tolist()
        else:
            rng.shuffle(self.alive)
            count = int(rng.integers(1, 9))
            gone, self.alive = self.alive[:count], self.alive[count:]
            self.index.remove(numbers(*gone))
            self.died |= dict.fromkeys(gone, time.perf_counter())

    def look(self, seed: int) -> None:
        """Search until told to stop, and note every answer that was true at no moment of the call."""
        rng = np.random.default_rng(seed)
        while not self.done.is_set():
            target = int(rng.integers(self.steady))
            query, start = self.vectors[target : target + 1], time.perf_counter()
            similarities, ids = (values[0] for values in self.index.search(query, 10))
            end = time.perf_counter()
            if ids[0] % 4096 != target or (ids < 0).any() or len(set(ids.tolist())) < 10:
                self.wrong.append(f"{ids.tolist()} for {target}")
            if np.abs(self.vector(ids) @ query[0] - similarities).max() > 1e-5:
                self.wrong.append(f"similarities of {ids.tolist()}")
            for number in ids.tolist():
                if not (self.born[number] <= end and self.died.get(number, end) >= start):
                    self.wrong.append(f"{number} was not there")


def live(seconds: float, changes_a_second: float, **options: Any) -> Life:
    life, rng = Life(SegmentedIndex(32, **options), 32), np.random.default_rng(0)
    lookers = [threading.Thread(target=life.look, args=(seed,)) for seed in range(4)]
    for thread in lookers:
        thread.start()
    end = time.perf_counter() + seconds
    try:
        while time.perf_counter() < end:
            life.change(rng)
            time.sleep(1 / changes_a_second)
    finally:
        life.done.set()
        for thread in lookers:
            thread.join()
    return life


def test_four_threads_find_only_what_is_there_while_vectors_come_and_go() -> None:
    life = live(2.0, 400.0, threads=2, segment_rows=64)
    assert not life.wrong, life.wrong[:3]
    assert len(life.died) > 100
    assert sorted(life.alive) == sorted(set(life.born) - set(life.died) - set(range(life.steady)))
    assert max(life.index._contents.segments) > len(life.index._contents.segments), "no segment was worn out"


@pytest.mark.slow
@pytest.mark.parametrize("changes_a_second", [50.0, 2000.0])
def test_four_threads_find_only_what_is_there_for_minutes(changes_a_second: float) -> None:
    life = live(90.0, changes_a_second, threads=2, segment_rows=128)
    assert not life.wrong, life.wrong[:3]
    assert len(life.index) == life.steady + len(life.alive)
