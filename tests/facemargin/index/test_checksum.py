"""The digest of an index against a slow sum over its rows, and what it must notice."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facemargin.index import NumpyIndex, checksum
from facemargin.index.half import halved

DIM = 4
Rows = dict[int, NDArray[np.float32]]


def unit(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def holding(rows: Rows) -> NumpyIndex:
    index = NumpyIndex(DIM)
    if rows:
        index.add(np.array([*rows], dtype=np.int64), np.stack([*rows.values()]))
    return index


def slow(rows: Rows) -> str:
    total = 0
    for number, vector in rows.items():
        row = number.to_bytes(8, "little") + (vector.astype("<f2") + np.float16(0)).tobytes()
        total += int.from_bytes(hashlib.blake2b(row, digest_size=16).digest(), "little")
    return f"{total % 2**128:032x}"


@settings(max_examples=50, deadline=None)
@given(numbers=st.lists(st.integers(0, 2**62), unique=True, max_size=20), seed=st.integers(0, 2**16))
def test_is_a_sum_over_rows_in_any_order(numbers: list[int], seed: int) -> None:
    rows = dict(zip(numbers, unit(len(numbers), seed=seed), strict=True))
    found, turned = checksum(holding(rows)), checksum(holding(dict(reversed(rows.items()))))
    assert found == turned
    assert (found.count, found.digest) == (len(rows), slow(rows))


def test_nothing_has_a_digest_too() -> None:
    assert checksum(holding({})).digest == "0" * 32


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: {number: vector for number, vector in rows.items() if number},
        lambda rows: {number + 1: vector for number, vector in rows.items()},
        lambda rows: rows | {0: rows[1], 1: rows[0]},
        lambda rows: rows | {0: -rows[0]},
        lambda rows: rows | {0: rows[0][::-1].copy()},
        lambda rows: rows | {9: rows[0]},
    ],
    ids=["lost", "other ids", "mixed up", "negated", "turned", "doubled"],
)
def test_notices_what_can_go_wrong_on_the_way(change: Callable[[Rows], Rows]) -> None:
    rows = dict(enumerate(unit(3)))
    assert checksum(holding(change(rows))) != checksum(holding(rows))


def test_vectors_that_round_to_the_same_float16_are_the_same() -> None:
    rows = dict(enumerate(unit(3)))
    rounded = {number: halved(vector[None])[0].astype(np.float32) for number, vector in rows.items()}
    assert any((rounded[number] != rows[number]).any() for number in rows)
    assert checksum(holding(rounded)) == checksum(holding(rows))


def test_zero_has_no_sign() -> None:
    row = np.array([1.0, 0.0, -0.0, 0.0], dtype=np.float32)
    assert checksum(holding({1: row})) == checksum(holding({1: np.abs(row)}))
