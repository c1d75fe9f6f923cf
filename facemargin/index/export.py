"""Giving back everything that an index holds, in portions, without keeping changes waiting."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Portion = tuple[NDArray[np.int64], NDArray[np.float32]]
"""(N,) ids and their (N, dim) vectors."""
PORTION_ROWS = 8192
"""Copied under the lock at a time: 16 MiB at 512 dimensions, a few milliseconds."""


def portions(ids: NDArray[np.int64], held: Callable[[NDArray[np.int64]], Portion]) -> Iterator[Portion]:
    """The vectors of ids in portions of at most `PORTION_ROWS`; ids that have gone by then are left out.

    Args:
        ids: (N,), no two alike.
        held: gives copies of those that are still there.
    """
    for start in range(0, len(ids), PORTION_ROWS):
        portion = held(ids[start : start + PORTION_ROWS])
        if len(portion[0]):
            yield portion
