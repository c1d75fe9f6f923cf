"""The best of several partial results."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facemargin.index.base import SearchResult, padded


def compared(queries: NDArray[np.float32], ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> SearchResult:
    """Every vector beside every query, in no order: (Q, N) cosines and ids; -inf where an id is negative."""
    similarities = np.asarray(queries @ vectors.T)
    similarities[:, ids < 0] = -np.inf
    return SearchResult(similarities, np.broadcast_to(ids, similarities.shape))


def best(parts: Sequence[SearchResult], k: int) -> SearchResult:
    """The k largest of parts that are of the same queries, best first; padded where there are fewer.

    Args:
        parts: (Q, any) each, in any order, -inf and -1 where there is nothing.
        k: at least 1.
    """
    similarities = np.concatenate([part.similarities for part in parts], axis=1)
    ids = np.concatenate([part.ids for part in parts], axis=1)
    if k < similarities.shape[1]:
        kept = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
        similarities, ids = (np.take_along_axis(values, kept, axis=1) for values in (similarities, ids))
    order = np.argsort(-similarities, axis=1, kind="stable")
    return padded(np.take_along_axis(similarities, order, axis=1), np.take_along_axis(ids, order, axis=1), k)
