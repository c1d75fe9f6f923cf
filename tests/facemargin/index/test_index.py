"""The contract of every index, against brute force."""

import threading
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facemargin import index as package
from facemargin.errors import DuplicateIdError, IndexingError, UnknownIdError
from facemargin.index import INDEXES, Index, make_index

from .conftest import DURABLE, IN_MEMORY, MakeEmpty

DIM = 8
KINDS = (*IN_MEMORY, *DURABLE)
InMemory = tuple(INDEXES.values())


def unit(count: int, *, seed: int = 0, dim: int = DIM) -> NDArray[np.float32]:
    """Random vectors of length 1 whose components are float16 numbers, so that every engine keeps them as they are."""
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16).astype(np.float32)


def ids(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, dtype=np.int64)


@pytest.fixture(params=KINDS)
def index(request: pytest.FixtureRequest, make_empty: MakeEmpty) -> Index:
    return make_empty(request.param, DIM)


def test_public_names_are_what_the_package_exposes() -> None:
    assert sorted(package.__all__) == sorted(
        [
            "ENGINES",
            "INDEXES",
            "Checksum",
            "DurableIndex",
            "FaissIndex",
            "Index",
            "NumpyIndex",
            "ReadersWriterLock",
            "SearchEngine",
            "SearchResult",
            "SegmentedIndex",
            "TransactionalIndex",
            "checksum",
            "make_index",
            "open_engine",
        ]
    )


def test_finds_the_nearest_first(index: Index) -> None:
    vectors = unit(50)
    index.add(np.arange(50, dtype=np.int64) * 7, vectors)
    similarities, found = index.search(vectors[3:5], 4)
    expected = np.sort(vectors[3:5] @ vectors.T, axis=1)[:, ::-1][:, :4]
    np.testing.assert_allclose(similarities, expected, atol=1e-5)
    assert found[:, 0].tolist() == [21, 28]
    assert (similarities.dtype, found.dtype, found.shape) == (np.float32, np.int64, (2, 4))
    assert (index.dim, len(index)) == (DIM, 50)


def test_pads_beyond_what_it_holds(index: Index) -> None:
    similarities, found = index.search(unit(2), 3)
    assert np.isneginf(similarities).all()
    assert (found == -1).all()
    index.add(ids(5), unit(1))
    similarities, found = index.search(unit(1), 3)
    assert found.tolist() == [[5, -1, -1]]
    assert similarities[0, 0] == pytest.approx(1.0, abs=1e-3)
    assert np.isneginf(similarities[0, 1:]).all()


def test_no_queries_give_no_rows(index: Index) -> None:
    index.add(ids(1), unit(1))
    assert index.search(unit(0), 3).ids.shape == (0, 3)


def test_gives_vectors_back_in_the_order_asked_for(index: Index) -> None:
    vectors = unit(4)
    index.add(ids(4, 3, 2, 1), vectors)
    np.testing.assert_array_equal(index.vectors(ids(1, 4, 1)), vectors[[3, 0, 3]])
    assert index.vectors(ids()).shape == (0, DIM)


def test_does_not_keep_the_callers_array(index: Index) -> None:
    vectors = unit(2)
    index.add(ids(0, 1), vectors)
    kept = vectors.copy()
    vectors[:] = 0
    np.testing.assert_array_equal(index.vectors(ids(0, 1)), kept)
    index.vectors(ids(0, 1))[:] = 0
    np.testing.assert_array_equal(index.vectors(ids(0, 1)), kept)


def test_a_removed_id_is_gone_and_may_come_back(index: Index) -> None:
    index.add(ids(1, 2, 3), unit(3))
    index.remove(ids(1, 3))
    assert index.search(unit(1), 3).ids.tolist() == [[2, -1, -1]]
    with pytest.raises(UnknownIdError, match="id 3 "):
        index.vectors(ids(3))
    index.add(ids(3), unit(1, seed=9))
    np.testing.assert_array_equal(index.vectors(ids(3)), unit(1, seed=9))


def test_everything_can_be_removed(index: Index) -> None:
    index.add(ids(1, 2), unit(2))
    index.remove(ids(2, 1))
    assert len(index) == 0
    assert index.search(unit(1), 2).ids.tolist() == [[-1, -1]]
    index.remove(ids())
    index.add(ids(1), unit(1))
    assert len(index) == 1


def exported(index: Index) -> dict[int, bytes]:
    return {number: row.tobytes() for found, rows in index.export() for number, row in zip(found, rows, strict=True)}


def test_exports_all_that_it_holds(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facemargin.index.export.PORTION_ROWS", 4)
    assert list(index.export()) == []
    vectors = unit(10)
    index.add(np.arange(10, dtype=np.int64), vectors)
    index.remove(ids(4, 9))
    portions = list(index.export())
    assert [len(found) for found, _ in portions] == [4, 4]
    assert {(found.dtype, rows.dtype) for found, rows in portions} == {(np.dtype(np.int64), np.dtype(np.float32))}
    assert exported(index) == {number: vectors[number].tobytes() for number in (0, 1, 2, 3, 5, 6, 7, 8)}


def test_an_export_leaves_out_what_is_erased_or_added_while_it_is_read(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facemargin.index.export.PORTION_ROWS", 4)
    index.add(np.arange(10, dtype=np.int64), unit(10))
    portions = index.export()
    first, rows = next(portions)
    rows[:] = 0  # a copy, so the index keeps its own
    index.add(ids(50), unit(1, seed=7))
    gone = next(number for number in range(10) if number not in first)
    index.remove(ids(gone, int(first[0])))
    found = np.concatenate([first, *(numbers for numbers, _ in portions)])
    assert sorted(found.tolist()) == [number for number in range(10) if number != gone]
    assert sorted(exported(index)) == sorted({*range(10), 50} - {gone, int(first[0])})
    np.testing.assert_array_equal(index.vectors(first[1:]), unit(10)[first[1:]])


@pytest.mark.parametrize("bad", [ids(7, 2), ids(7, 7)])
def test_an_id_is_taken_once_and_a_refused_add_changes_nothing(index: Index, bad: NDArray[np.int64]) -> None:
    index.add(ids(1, 2), unit(2))
    with pytest.raises(DuplicateIdError, match=f"id {bad[1]} "):
        index.add(bad, unit(2, seed=3))
    assert len(index) == 2
    np.testing.assert_array_equal(index.vectors(ids(1, 2)), unit(2))


@pytest.mark.parametrize(("bad", "error"), [(ids(1, 9), UnknownIdError), (ids(1, 1), DuplicateIdError)])
def test_a_refused_removal_changes_nothing(index: Index, bad: NDArray[np.int64], error: type[Exception]) -> None:
    index.add(ids(1, 2), unit(2))
    with pytest.raises(error):
        index.remove(bad)
    np.testing.assert_array_equal(index.vectors(ids(1, 2)), unit(2))


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (unit(2) * 1.01, "length 1.0[01]"),
        (np.zeros((2, DIM), np.float32), "length 0"),
        (np.full((2, DIM), np.nan, np.float32), "length nan"),
        (np.full((2, DIM), np.inf, np.float32), "length inf"),
        (unit(2).astype(np.float64), "float64"),
        (unit(2, dim=DIM + 1), f"\\(2, {DIM + 1}\\)"),
        (unit(2)[0], f"shape \\({DIM},\\)"),
    ],
)
def test_vectors_are_checked(index: Index, vectors: Any, words: str) -> None:
    with pytest.raises(IndexingError, match=words):
        index.add(ids(1, 2), vectors)
    with pytest.raises(IndexingError, match=words):
        index.search(vectors, 1)
    assert len(index) == 0


@pytest.mark.parametrize(
    "bad",
    [np.array([1, 2], np.int32), np.array([[1], [2]], np.int64), np.array([-1, 2], np.int64), np.array([1.0, 2.0])],
)
def test_ids_are_checked(index: Index, bad: Any) -> None:
    for refused in (lambda: index.add(bad, unit(2)), lambda: index.remove(bad), lambda: index.vectors(bad)):
        with pytest.raises(IndexingError):
            refused()


def test_numbers_must_fit(index: Index) -> None:
    with pytest.raises(IndexingError, match="1 ids for 2 vectors"):
        index.add(ids(1), unit(2))
    with pytest.raises(IndexingError, match="k is 0"):
        index.search(unit(1), 0)


@pytest.mark.parametrize("name", sorted(INDEXES))
def test_dimension_is_checked(name: str) -> None:
    with pytest.raises(ValueError, match="dim is 0"):
        make_index(name, 0)


def test_unknown_index_is_named() -> None:
    with pytest.raises(ValueError, match=r"'annoy'.*exact, flat, segmented"):
        make_index("annoy", DIM)


def test_views_that_are_not_contiguous_are_taken(index: Index) -> None:
    wide = np.repeat(unit(6), 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    index.add(np.arange(6, dtype=np.int64), wide)
    assert index.search(wide[::2], 1).ids.ravel().tolist() == [0, 2, 4]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True)),
        st.tuples(st.just("remove"), st.lists(st.integers(0, 40), min_size=1, max_size=4, unique=True)),
        st.tuples(st.just("search"), st.integers(1, 12)),
    ),
    max_size=20,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(steps=operations, seed=st.integers(0, 2**16))
def test_any_sequence_agrees_with_brute_force(
    make_empty: MakeEmpty, kind: str, steps: list[tuple[str, Any]], seed: int
) -> None:
    index, truth = make_empty(kind, DIM), dict[int, NDArray[np.float32]]()
    rng = np.random.default_rng(seed)
    for kind, what in steps:
        if kind == "search":
            _agrees(index, truth, unit(2, seed=int(rng.integers(2**31))), what)
        elif kind == "add":
            vectors = unit(len(what), seed=int(rng.integers(2**31)))
            if truth.keys() & set(what):
                with pytest.raises(DuplicateIdError):
                    index.add(ids(*what), vectors)
            else:
                index.add(ids(*what), vectors)
                truth |= zip(what, vectors, strict=True)
        elif set(what) <= truth.keys():
            index.remove(ids(*what))
            for number in what:
                del truth[number]
        else:
            with pytest.raises(UnknownIdError):
                index.remove(ids(*what))
    _agrees(index, truth, unit(3, seed=seed), 5)
    np.testing.assert_array_equal(index.vectors(ids(*truth)), np.array([*truth.values()]).reshape(-1, DIM))
    assert index.ids().tolist() == sorted(truth)


def _agrees(index: Index, truth: dict[int, NDArray[np.float32]], queries: NDArray[np.float32], k: int) -> None:
    """Best similarities by a plain loop; each id has the similarity that stands beside it; none twice."""
    assert len(index) == len(truth)
    result = index.search(queries, k)
    for query, similarities, found in zip(queries, result.similarities, result.ids, strict=True):
        expected = sorted((float(np.dot(query, vector)) for vector in truth.values()), reverse=True)[:k]
        real = [number for number in found.tolist() if number != -1]
        assert len(real) == len(set(real)) == len(expected)
        np.testing.assert_allclose(similarities[: len(real)], expected, atol=1e-5)
        np.testing.assert_allclose(similarities[: len(real)], [truth[n] @ query for n in real], atol=1e-5)
        assert all(left >= right for left, right in pairwise(similarities[: len(real)].tolist()))


def test_searches_during_changes_see_only_whole_states(index: Index) -> None:
    """One vector stays and must always be found; others come and go in pairs, and no search may see half a pair."""
    steady, pairs = unit(1, seed=1), unit(200, seed=2)
    itself, last = float(steady[0] @ steady[0]), 200 if isinstance(index, InMemory) else 30
    index.add(ids(0), steady)
    done, wrong = threading.Event(), list[str]()

    def look() -> None:
        while not done.is_set():
            similarities, found = index.search(steady, 400)
            real = found[0][found[0] != -1].tolist()
            if real[0] != 0 or abs(similarities[0, 0] - itself) > 1e-5 or len(real) % 2 == 0:
                wrong.append(f"{real[:3]} of {len(real)}, {similarities[0, 0]}")

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for thread in lookers:
        thread.start()
    for round_ in range(4):
        for start in range(0, last, 2):
            index.add(ids(start + 1, start + 2), pairs[start : start + 2])
        for start in range(0, last, 2):
            index.remove(ids(last - start, last - 1 - start) if round_ % 2 else ids(start + 1, start + 2))
    done.set()
    for thread in lookers:
        thread.join()
    assert not wrong, wrong[:3]
    assert (len(index), index.dim) == (1, DIM)


def test_faiss_leaves_no_deleted_vector_in_its_memory() -> None:
    index = package.FaissIndex(DIM)
    vectors = unit(3)
    index.add(ids(1, 2, 3), vectors)
    memory = index._matrix()
    index.remove(ids(3))
    assert not memory[2].any()
    np.testing.assert_array_equal(memory[:2], vectors[:2])
