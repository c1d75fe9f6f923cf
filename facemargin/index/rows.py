"""Which row of a dense matrix holds which id, kept dense when ids leave."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from facemargin.index.places import Places

_FIRST_CAPACITY = 64


class RowMap:
    """A bijection between ids and the rows 0 … N-1 of a matrix that somebody else holds.

    A removed row is filled by the last one, so that a removal moves one vector and not half of the matrix. Ids of rows
    are looked up in an array that doubles when it is full, not one by one.
    """

    def __init__(self) -> None:
        self.places = Places()
        self._ids = np.empty(_FIRST_CAPACITY, dtype=np.int64)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.places)

    def refuse_known(self, ids: NDArray[np.int64]) -> None:
        """Raise DuplicateIdError if one of the ids has a row."""
        self.places.refuse_known(ids)

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of ids, in their order.

        Raises:
            UnknownIdError: an id has no row.
        """
        return self.places.of(ids)

    def ids(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids at rows, any shape."""
        return self._ids[rows]

    def append(self, ids: NDArray[np.int64]) -> None:
        """Give new ids the next rows."""
        first, end = len(self), len(self) + len(ids)
        if end > len(self._ids):
            self._ids = np.concatenate([self._ids[:first], np.empty(max(end, 2 * first) - first, dtype=np.int64)])
        self._ids[first:end] = ids
        self.places.put(ids, first)

    def remove(self, ids: NDArray[np.int64]) -> Iterable[tuple[int, int]]:
        """Forget ids; yields ``(hole, last)`` for each: row ``last`` moves to row ``hole`` and is dropped."""
        for number in ids.tolist():
            last = len(self) - 1
            hole = self.places.pop(number)
            if hole != last:
                self._ids[hole] = self._ids[last]
                self.places.move(int(self._ids[hole]), hole)
            yield hole, last
