"""Codes of one byte a component: what they mean, that they are searched right, and that zeros come last."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from facemargin.index.codes import LEAST_REACH, Codes, Quantiser

components = st.one_of(st.floats(-1, 1, width=32), st.just(0.0), st.sampled_from([100.0, -100.0]))


@st.composite
def unit_vectors(draw: st.DrawFn) -> NDArray[np.float32]:
    """Any directions, also those with all weight in few components."""
    shape = draw(array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=20))
    vectors = draw(arrays(np.float64, shape, elements=components))
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    assume(norms.min() > 1e-6)
    return np.asarray(vectors / norms, dtype=np.float32)


def random_unit(count: int, dim: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(0).standard_normal((count, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def test_a_code_is_the_component_on_a_scale_of_256() -> None:
    codes = Quantiser(0.5).encode(np.array([[-0.5, 0.0, 0.1, 0.5, 0.9, -0.9]], dtype=np.float32))
    # (0.0 + 0.5) · 255 = 127.5, which rounds to the even 128; (0.1 + 0.5) · 255 = 153; beyond the reach it is clipped
    assert codes.tolist() == [[0, 128, 153, 255, 255, 0]]
    assert codes.dtype == np.uint8


def test_many_rows_are_encoded_like_each_of_them() -> None:
    vectors = random_unit(1300, 24)
    quantiser = Quantiser.for_vectors([vectors[:200], vectors[200:]])
    slow = [
        [round(255 * (float(np.clip(x, -r, r)) + r) / (2 * r)) for x in row]
        for row in vectors[::97]
        for r in [quantiser.reach]
    ]
    np.testing.assert_allclose(quantiser.encode(vectors)[::97], slow, atol=1)  # float32 may round a half elsewhere
    np.testing.assert_array_equal(quantiser.encode(vectors)[700:701], quantiser.encode(vectors[700:701]))


def test_the_reach_covers_nearly_all_components_and_is_never_too_short_for_zeros_to_come_last() -> None:
    vectors = random_unit(4000, 256)
    reach = Quantiser.for_vectors([vectors]).reach
    assert (np.abs(vectors) > reach).mean() < 2e-4
    assert reach < np.abs(vectors).max() * 1.1
    flat = np.full((10, 256), 1 / 16, dtype=np.float32)
    assert Quantiser.for_vectors([flat]).reach == pytest.approx(LEAST_REACH / 16)


def test_nearest_are_those_of_a_plain_loop_over_integers() -> None:
    codes = np.random.default_rng(1).integers(0, 256, (300, 48), dtype=np.uint8)
    queries = np.random.default_rng(2).integers(0, 256, (5, 48), dtype=np.uint8)
    distances, rows = Codes(codes).nearest(queries, 7)
    expected = ((queries[:, None].astype(np.int64) - codes[None].astype(np.int64)) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distances, np.sort(expected, axis=1)[:, :7])
    np.testing.assert_array_equal(np.take_along_axis(expected, rows, axis=1), distances)


@settings(max_examples=60, deadline=None)
@given(vectors=unit_vectors(), data=st.data())
def test_an_erased_code_lies_behind_every_other(vectors: NDArray[np.float32], data: st.DataObject) -> None:
    quantiser = Quantiser.for_vectors([vectors])
    gone = data.draw(st.lists(st.integers(0, len(vectors) - 1), min_size=1, unique=True))
    codes = Codes(quantiser.encode(vectors))
    codes.erase(np.array(gone))
    _, rows = codes.nearest(quantiser.encode(np.concatenate([vectors, -vectors])), len(vectors))
    for order in rows.tolist():
        assert set(order[len(vectors) - len(gone) :]) == set(gone)


@settings(max_examples=60, deadline=None)
@given(vectors=unit_vectors())
def test_codes_are_never_farther_apart_than_vectors_and_rounding(vectors: NDArray[np.float32]) -> None:
    quantiser, dim = Quantiser.for_vectors([vectors]), vectors.shape[1]
    step = 2 * quantiser.reach / 255
    codes = quantiser.encode(vectors).astype(np.float64) * step
    apart = np.linalg.norm(codes[:, None] - codes[None], axis=2)
    true = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors[None], axis=2)
    assert (apart <= true + step * dim**0.5 + 1e-6).all()


def test_an_erased_code_is_zero_in_the_memory_of_faiss() -> None:
    codes = Codes(np.full((4, 16), 200, dtype=np.uint8))
    codes.erase(np.array([1, 3]))
    kept = [codes._flat.reconstruct(row).tolist() for row in range(4)]
    assert kept == [[200.0] * 16, [0.0] * 16, [200.0] * 16, [0.0] * 16]
