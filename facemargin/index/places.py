"""Where each id is: a dictionary from ids to numbers, filled and asked by whole arrays."""

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import DuplicateIdError, UnknownIdError


class Places:
    """A map from ids to places, whatever the owner means by a place. About 110 bytes an id."""

    def __init__(self) -> None:
        self._place_of: dict[int, int] = {}

    def __len__(self) -> int:
        """Number of ids."""
        return len(self._place_of)

    def refuse_known(self, ids: NDArray[np.int64]) -> None:
        """Raise DuplicateIdError if one of the ids has a place."""
        known = next((number for number in ids.tolist() if number in self._place_of), None)
        if known is not None:
            raise DuplicateIdError(f"id {known} is already in the index")

    def of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of ids, in their order.

        Raises:
            UnknownIdError: an id has no place.
        """
        try:
            return np.fromiter(map(self._place_of.__getitem__, ids.tolist()), np.int64, len(ids))
        except KeyError as error:
            raise UnknownIdError(f"id {error.args[0]} is not in the index") from None

    def known(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the ids that have a place, in their order."""
        return np.array([number for number in ids.tolist() if number in self._place_of], dtype=np.int64)

    def ids(self) -> NDArray[np.int64]:
        """Every id, in no order."""
        return np.fromiter(self._place_of, np.int64, len(self._place_of))

    def put(self, ids: NDArray[np.int64], first: int) -> None:
        """Put ids at ``first``, ``first + 1``, …, whether or not they have places."""
        self._place_of.update(zip(ids.tolist(), range(first, first + len(ids)), strict=True))

    def move(self, number: int, place: int) -> None:
        """Give an id another place."""
        self._place_of[number] = place

    def pop(self, number: int) -> int:
        """Forget an id that has a place, and tell it."""
        return self._place_of.pop(number)
