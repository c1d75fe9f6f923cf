"""Which row of a dense matrix holds which id, kept dense when ids leave."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import DuplicateIdError, UnknownIdError


class RowMap:
    """A bijection between ids and the rows 0 … N-1 of a matrix that somebody else holds.

    A removed row is filled by the last one, so that a removal moves one vector and not half of the matrix.
    """

    def __init__(self) -> None:
        self._row_of: dict[int, int] = {}
        self._ids: list[int] = []

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._ids)

    def refuse_known(self, ids: NDArray[np.int64]) -> None:
        """Raise DuplicateIdError if one of the ids has a row."""
        for number in ids.tolist():
            if number in self._row_of:
                raise DuplicateIdError(f"id {number} is already in the index")

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of ids, in their order.

        Raises:
            UnknownIdError: an id has no row.
        """
        try:
            return np.array([self._row_of[number] for number in ids.tolist()], dtype=np.int64)
        except KeyError as error:
            raise UnknownIdError(f"id {error.args[0]} is not in the index") from None

    def ids(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids at rows, any shape."""
        return np.fromiter((self._ids[row] for row in rows.ravel().tolist()), np.int64, rows.size).reshape(rows.shape)

    def append(self, ids: NDArray[np.int64]) -> None:
        """Give ids the next rows."""
        for number in ids.tolist():
            self._row_of[number] = len(self._ids)
            self._ids.append(number)

    def remove(self, ids: NDArray[np.int64]) -> Iterable[tuple[int, int]]:
        """Forget ids; yields ``(hole, last)`` for each: row ``last`` moves to row ``hole`` and is dropped."""
        for number in ids.tolist():
            hole, last = self._row_of.pop(number), len(self._ids) - 1
            moved = self._ids.pop()
            if hole != last:
                self._ids[hole] = moved
                self._row_of[moved] = hole
            yield hole, last
