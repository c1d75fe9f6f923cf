"""The best of several partial results."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facemargin.index.base import SearchResult, padded
from facemargin.index.faiss_library import alone, load_faiss


def compared(
    queries: NDArray[np.float32], ids: NDArray[np.int64], vectors: NDArray[np.float32], k: int
) -> SearchResult:
    """The k largest cosines of each query with all vectors, and their ids, (Q, k) or as many as there are.

    By FAISS and not by a matrix product: numpy's threads wait for the next product in a busy loop, and so take half of
    the cores from the scan that follows.

    Args:
        queries: (Q, D).
        ids: (N,), negative for what was removed; its place in the result has -inf and -1.
        vectors: (N, D).
        k: at least 1.
    """
    if not len(ids):
        return SearchResult(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
    faiss = load_faiss()
    count = min(k + int((ids < 0).sum()), len(ids))
    with alone():
        similarities, rows = faiss.knn(queries, vectors, count, metric=faiss.METRIC_INNER_PRODUCT)
    found = ids[rows]
    similarities[found < 0] = -np.inf
    return SearchResult(similarities, found)


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
