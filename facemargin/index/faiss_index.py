"""Exact search with FAISS's flat inner-product index, made safe to change while others search it.

FAISS reads freed memory when an index is searched during an add, and its id maps take the same id twice without a word.
Here every change excludes every search (`ReadersWriterLock`), and ids are kept outside of FAISS, each once.
"""

import numpy as np
from numpy.typing import NDArray

from facemargin.index.base import SearchResult, checked_ids, checked_k, checked_pairs, checked_vectors, padded
from facemargin.index.dense import DenseIndex
from facemargin.index.faiss_library import load_faiss


class FaissIndex(DenseIndex):
    """``faiss.IndexFlatIP`` behind readers-writer exclusion. Memory: one (N, dim) float32 matrix.

    Raises:
        MissingExtraError: FAISS is not installed.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self._faiss = load_faiss()
        self._flat = self._faiss.IndexFlatIP(dim)

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors under new ids; see `Index.add`."""
        ids, vectors = checked_pairs(ids, vectors, self._dim)
        with self._lock.write():
            self._rows.refuse_known(ids)
            self._flat.add(vectors)
            self._rows.append(ids)

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Remove vectors by their ids; see `Index.remove`. The vectors' memory is overwritten with zeros."""
        ids = checked_ids(ids, unique=True)
        with self._lock.write():
            self._rows.rows(ids)  # every id must be known before the first one goes
            matrix, before = self._matrix(), len(self._rows)
            for hole, last in self._rows.remove(ids):
                matrix[hole] = matrix[last]
                matrix[last] = 0.0
            self._flat.remove_ids(self._faiss.IDSelectorRange(len(self._rows), before))

    def search(self, queries: NDArray[np.float32], k: int) -> SearchResult:
        """Find the k largest inner products; see `Index.search`."""
        queries, k = checked_vectors(queries, self._dim), checked_k(k)
        with self._lock.read():
            found = min(k, len(self._rows))
            if not found or not len(queries):
                nothing = np.empty((len(queries), 0))
                return padded(nothing.astype(np.float32), nothing.astype(np.int64), k)
            similarities, rows = self._flat.search(queries, found)
            return padded(similarities, self._rows.ids(rows), k)

    def _copied(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._matrix()[rows] if len(rows) else np.empty((0, self._dim), dtype=np.float32)

    def _matrix(self) -> NDArray[np.float32]:
        """FAISS's own memory as an (N, dim) view, good until the index grows or shrinks."""
        view: NDArray[np.float32] = self._faiss.rev_swig_ptr(self._flat.get_xb(), self._flat.ntotal * self._dim)
        return view.reshape(self._flat.ntotal, self._dim)
