"""Exact search with numpy: short enough to be trusted, and what every other index is tested against."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from facemargin.index.base import (
    SearchResult,
    checked_dim,
    checked_ids,
    checked_k,
    checked_pairs,
    checked_vectors,
    padded,
)
from facemargin.index.export import Portion, portions
from facemargin.index.rows import RowMap
from facemargin.index.rwlock import ReadersWriterLock


class NumpyIndex:
    """All inner products by one matrix product, sorted. Memory: one (N, dim) float32 matrix, copied on growth."""

    def __init__(self, dim: int) -> None:
        self._dim = checked_dim(dim)
        self._rows = RowMap()
        self._matrix = np.empty((0, dim), dtype=np.float32)
        self._lock = ReadersWriterLock()

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._dim

    def __len__(self) -> int:
        """Number of vectors held."""
        return len(self._rows)

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

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give back vectors by their ids; see `Index.vectors`."""
        ids = checked_ids(ids, unique=False)
        with self._lock.read():
            return self._matrix[self._rows.rows(ids)]

    def export(self) -> Iterator[Portion]:
        """Give back everything in portions; see `Index.export`."""
        with self._lock.read():
            ids = self._rows.places.ids()
        return portions(ids, self._held)

    def _held(self, ids: NDArray[np.int64]) -> Portion:
        with self._lock.read():
            known = self._rows.places.known(ids)
            return known, self._matrix[self._rows.rows(known)]
