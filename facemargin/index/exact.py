"""Exact search with numpy: short enough to be trusted, and what every other index is tested against."""

import numpy as np
from numpy.typing import NDArray

from facemargin.index.base import SearchResult, checked_ids, checked_k, checked_pairs, checked_vectors, padded
from facemargin.index.dense import DenseIndex


class NumpyIndex(DenseIndex):
    """All inner products by one matrix product, sorted. Memory: one (N, dim) float32 matrix, copied on growth."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self._matrix = np.empty((0, dim), dtype=np.float32)

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors under new ids; see `Index.add`."""
        ids, vectors = checked_pairs(ids, vectors, self._dim)
        with self._lock.write():
            self._rows.refuse_known(ids)
            self._matrix = np.concatenate([self._matrix, vectors])
            self._rows.append(ids)

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Remove vectors by their ids; see `Index.remove`."""
        ids = checked_ids(ids, unique=True)
        with self._lock.write():
            self._rows.rows(ids)  # every id must be known before the first one goes
            for hole, last in self._rows.remove(ids):
                self._matrix[hole] = self._matrix[last]
            self._matrix = self._matrix[: len(self._rows)].copy()

    def search(self, queries: NDArray[np.float32], k: int) -> SearchResult:
        """Find the k largest inner products; see `Index.search`."""
        queries, k = checked_vectors(queries, self._dim), checked_k(k)
        with self._lock.read():
            similarities = queries @ self._matrix.T
            order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
            return padded(np.take_along_axis(similarities, order, axis=1), self._rows.ids(order), k)

    def _copied(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._matrix[rows]
