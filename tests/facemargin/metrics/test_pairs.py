"""All pairs in blocks against two loops."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from facemargin.metrics import all_pairs


def unit_rows(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1, 3, 7, 1024])
def test_every_pair_once(block: int) -> None:
    rows = unit_rows(23)
    people = [f"person {k}" for k in np.random.default_rng(1).integers(0, 6, 23)]
    pairs = [(i, j) for i in range(23) for j in range(i + 1, 23)]
    genuine = [rows[i] @ rows[j] for i, j in pairs if people[i] == people[j]]
    impostor = [rows[i] @ rows[j] for i, j in pairs if people[i] != people[j]]
    found = all_pairs(rows, people, block=block)
    assert_allclose(np.sort(found.genuine), np.sort(genuine), atol=1e-6)
    assert_allclose(np.sort(found.impostor), np.sort(impostor), atol=1e-6)
    assert found.genuine.dtype == found.impostor.dtype == np.float32


def test_wrong_input_is_named() -> None:
    rows = unit_rows(3)
    with pytest.raises(ValueError, match="people must name the person of each of the 3"):
        all_pairs(rows, ["a", "b"])
    with pytest.raises(ValueError, match=r"embeddings must have the shape \(N, D\)"):
        all_pairs(rows[0], ["a"])
    with pytest.raises(ValueError, match="embeddings must have rows of length 1"):
        all_pairs(2 * rows, ["a", "b", "c"])
    with pytest.raises(ValueError, match="embeddings must be finite"):
        all_pairs(np.full((2, 2), np.nan), ["a", "b"])
    with pytest.raises(ValueError, match="block must be at least 1"):
        all_pairs(rows, ["a", "b", "c"], block=0)
