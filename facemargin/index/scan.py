"""Candidates of several segments by their codes, by several threads."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemargin.index.base import SearchResult
from facemargin.index.faiss_library import alone, load_faiss
from facemargin.index.segment import NOBODY, Segment


class Candidates(NamedTuple):
    """Rows whose codes are near to those of Q queries, C for each query, in no order.

    Attributes:
        segments: (Q, C) positions in the list of segments that was scanned.
        rows: (Q, C) rows of those segments.
    """

    segments: NDArray[np.int64]
    rows: NDArray[np.int64]

    def ranked(self, scanned: Sequence[Segment], queries: NDArray[np.float32]) -> SearchResult:
        """Their cosines in float32 and their ids, (Q, C), in no order; -inf and -1 for what was removed."""
        similarities = np.empty(self.rows.shape, dtype=np.float32)
        ids = np.empty(self.rows.shape, dtype=np.int64)
        for position in np.unique(self.segments).tolist():
            here = np.nonzero(self.segments == position)
            similarities[here], ids[here] = scanned[position].similarities(queries[here[0]], self.rows[here])
        return SearchResult(similarities, ids)

    def fewest_live(self, found: SearchResult) -> int:
        """Least number of candidates of a query that were not removed."""
        return int((found.ids != NOBODY).sum(axis=1).min(initial=self.rows.shape[1]))


def scan(segments: Sequence[Segment], queries: NDArray[np.uint8], count: int, *, threads: int) -> Candidates:
    """Find the nearest codes.

    FAISS searches one query on one thread, so several threads each take a segment as long as there is one. The calling
    thread is one of them: where the others are late, or busy with somebody else's search, it does what they do not.

    Args:
        segments: at least one.
        queries: (Q, D) codes.
        count: candidates for each query, if there are so many rows.
        threads: segments that are searched at a time.
    """
    todo = iter(range(len(segments)))

    def found() -> list[_Near]:
        return [_nearest(segments, position, queries, count) for position in todo]

    helpers = [_helpers(threads).submit(found) for _ in range(min(threads, len(segments)) - 1)]
    try:
        with alone():
            near = found()
    finally:
        late = [helper for helper in helpers if not helper.cancel()]
    for helper in late:
        near += helper.result()
    distances, positions, rows = (np.concatenate(values, axis=1) for values in zip(*near, strict=True))
    if count < distances.shape[1]:
        kept = np.argpartition(distances, count - 1, axis=1)[:, :count]
        positions, rows = (np.take_along_axis(values, kept, axis=1) for values in (positions, rows))
    return Candidates(positions, rows)


_Near = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]
"""Distances, positions of segments and rows, each (Q, C)."""


def _nearest(segments: Sequence[Segment], position: int, queries: NDArray[np.uint8], count: int) -> _Near:
    segment = segments[position]
    distances, rows = segment.codes.nearest(queries, min(count, len(segment.ids)))
    return distances, np.full_like(rows, position), rows


@cache
def _helpers(threads: int) -> ThreadPoolExecutor:
    """Threads beside the calling one, shared by all indexes."""
    faiss = load_faiss()
    return ThreadPoolExecutor(threads - 1, "index", initializer=faiss.omp_set_num_threads, initargs=(1,))
