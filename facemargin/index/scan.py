"""Candidates of several segments by their codes, with one thread for each part of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemargin.index.base import SearchResult
from facemargin.index.faiss_library import load_faiss
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

    FAISS searches one query on one thread, so the segments are dealt out to threads; it releases the interpreter.

    Args:
        segments: at least one.
        queries: (Q, D) codes.
        count: candidates for each query, if there are so many rows.
        threads: parts that are searched at a time.
    """
    parts = [range(part, len(segments), threads) for part in range(min(threads, len(segments)))]
    near = [
        found
        for part in _scanners(threads).map(lambda part: [_nearest(segments, p, queries, count) for p in part], parts)
        for found in part
    ]
    distances, positions, rows = (np.concatenate(values, axis=1) for values in zip(*near, strict=True))
    if count < distances.shape[1]:
        kept = np.argpartition(distances, count - 1, axis=1)[:, :count]
        positions, rows = (np.take_along_axis(values, kept, axis=1) for values in (positions, rows))
    return Candidates(positions, rows)


def _nearest(
    segments: Sequence[Segment], position: int, queries: NDArray[np.uint8], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    segment = segments[position]
    distances, rows = segment.codes.nearest(queries, min(count, len(segment.ids)))
    return distances, np.full_like(rows, position), rows


@cache
def _scanners(threads: int) -> ThreadPoolExecutor:
    """Threads shared by all indexes. FAISS opens a team of its own in each thread that calls it, hence teams of one."""
    faiss = load_faiss("the segmented index")
    return ThreadPoolExecutor(threads, "index", initializer=faiss.omp_set_num_threads, initargs=(1,))
