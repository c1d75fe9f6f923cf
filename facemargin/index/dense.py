"""What indexes have in common that keep vectors in the rows of one dense matrix."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from facemargin.index.base import checked_dim, checked_ids
from facemargin.index.export import Portion, portions
from facemargin.index.rows import RowMap
from facemargin.index.rwlock import ReadersWriterLock


class DenseIndex(ABC):
    """Ids, rows and the lock of such an index; the matrix itself is its own.

    Args:
        dim: length of the vectors, at least 1.
    """

    def __init__(self, dim: int) -> None:
        self._dim = checked_dim(dim)
        self._rows = RowMap()
        self._lock = ReadersWriterLock()

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._dim

    def __len__(self) -> int:
        """Number of vectors held."""
        return len(self._rows)

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give back vectors by their ids; see `Index.vectors`."""
        ids = checked_ids(ids, unique=False)
        with self._lock.read():
            return self._copied(self._rows.rows(ids))

    def ids(self) -> NDArray[np.int64]:
        """Every id; see `Index.ids`."""
        with self._lock.read():
            ids = self._rows.places.ids()
        return np.sort(ids)

    def export(self) -> Iterator[Portion]:
        """Give back everything in portions; see `Index.export`."""
        return portions(self.ids(), self._held)

    def _held(self, ids: NDArray[np.int64]) -> Portion:
        with self._lock.read():
            known = self._rows.places.known(ids)
            return known, self._copied(self._rows.rows(known))

    @abstractmethod
    def _copied(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Copies of rows of the matrix, (N, dim); the lock is held."""
