"""The two parts of a segmented index: sealed segments with codes, and the delta without."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facemargin.index.codes import Codes, Quantiser

NOBODY = -1
_FIRST_CAPACITY = 64


class Segment:
    """A fixed number of vectors and their codes. Nothing is ever added; what is removed is zeroed in its place.

    Args:
        ids: parts of the N ids, copied.
        vectors: parts of the (N, D) vectors, copied.
        quantiser: makes the codes.

    Attributes:
        ids: (N,) int64, -1 for what was removed.
        vectors: (N, D) float32, zeros for what was removed.
        codes: the same for the codes.
        live: number of vectors left.
    """

    def __init__(
        self, ids: Sequence[NDArray[np.int64]], vectors: Sequence[NDArray[np.float32]], quantiser: Quantiser
    ) -> None:
        self.ids, self.vectors = np.concatenate(ids), np.concatenate(vectors)
        codes = quantiser.encode(self.vectors)
        self.codes = Codes(codes)
        codes[:] = 0  # a copy of faces that may be erased later
        self.live = len(self.ids)

    def erase(self, rows: NDArray[np.int64]) -> None:
        """Remove rows that are not removed yet; codes may be searched meanwhile, nothing else may be read."""
        self.ids[rows] = NOBODY
        self.vectors[rows] = 0.0
        self.codes.erase(rows)
        self.live -= len(rows)

    def forget(self) -> None:
        """Remove all rows, and leave the zeroing to `wipe`."""
        self.ids[:] = NOBODY
        self.live = 0

    def wipe(self) -> None:
        """Overwrite vectors and codes with zeros."""
        self.vectors[:] = 0.0
        self.codes.memory[:] = 0

    def survivors(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Copies of the ids and vectors that are left."""
        left = self.ids != NOBODY
        return self.ids[left], self.vectors[left]

    def similarities(
        self, queries: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Cosine of each of N queries with one row each, and the id there: -inf and -1 where it was removed."""
        found = np.einsum("nd,nd->n", self.vectors[rows], queries)
        ids = self.ids[rows]
        found[ids == NOBODY] = -np.inf
        return found, ids


class Delta:
    """A few vectors, compared one by one; dense, since the last one fills a hole.

    Args:
        dim: length of the vectors.
    """

    def __init__(self, dim: int) -> None:
        self.used = 0
        self._ids = np.zeros(0, dtype=np.int64)
        self._vectors = np.zeros((0, dim), dtype=np.float32)

    @property
    def ids(self) -> NDArray[np.int64]:
        """(used,) ids, a view."""
        return self._ids[: self.used]

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(used, D) vectors, a view."""
        return self._vectors[: self.used]

    def append(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add copies at the end."""
        end = self.used + len(ids)
        if end > len(self._ids):
            self._grow(max(end, 2 * self.used, _FIRST_CAPACITY))
        self._ids[self.used : end], self._vectors[self.used : end] = ids, vectors
        self.used = end

    def _grow(self, capacity: int) -> None:
        ids, vectors = np.zeros(capacity, dtype=np.int64), np.zeros((capacity, self._vectors.shape[1]), np.float32)
        ids[: self.used], vectors[: self.used] = self.ids, self.vectors
        self.wipe()  # what is given back to the system must hold no face
        self._ids, self._vectors = ids, vectors

    def take(self, row: int) -> int:
        """Remove one row, and tell the id that is in it now: its own where it was the last one."""
        self.used = last = self.used - 1
        self._ids[row], self._vectors[row] = self._ids[last], self._vectors[last]
        self._vectors[last] = 0.0
        return int(self._ids[row])

    def wipe(self) -> None:
        """Overwrite the vectors with zeros."""
        self._vectors[:] = 0.0
