"""Search of large galleries: one byte a component to find candidates, float32 to rank them.

Vectors come into a small *delta* that is compared exactly. When it holds `SEGMENT_ROWS`, it is *sealed*: codes are made
beside it and a segment takes its place, under the lock, in one step. Small galleries are a delta and nothing else, so
their search is exact. Segments of a fixed size need no merging with each other: what a change costs, and how long it
keeps searches waiting, does not grow with the gallery.

A search first finds candidates by their codes, without the lock: segments do not change, but for removals. Then, under
the lock, it ranks them in float32 and compares what has no codes yet. What was removed meanwhile is left out there, so
a search sees one state of the index: that at its end.
"""

import os
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from facemargin.index.base import SearchResult, checked_dim, checked_ids, checked_k, checked_pairs, checked_vectors
from facemargin.index.contents import Contents
from facemargin.index.export import Portion, portions
from facemargin.index.faiss_library import load_faiss
from facemargin.index.ranking import best, compared
from facemargin.index.rwlock import ReadersWriterLock
from facemargin.index.scan import scan
from facemargin.index.segment import Delta, Segment

SEGMENT_ROWS = 8192
"""At 512 dimensions: 20 MiB, an exact delta compared in under 1 ms, codes made in some 6 ms; docs/index.md."""
RERANK_FACTOR = 2
RERANK_MORE = 16
"""A search for k ranks RERANK_FACTOR·k + RERANK_MORE candidates in float32; chosen in docs/benchmarks/index.md."""


class SegmentedIndex:
    """Segments of 8-bit codes, re-ranked in float32, and an exact delta. Memory: 5·dim + about 120 bytes a vector.

    Similarities are exact. Which vectors are found is exact below `segment_rows`; above, a vector that belongs to the
    best k is missed where the rounding of codes puts more than all the other candidates before it.

    What is removed cannot be found from that moment on, and its vector and code are overwritten with zeros before
    `remove` returns.

    Args:
        dim: length of the vectors.
        threads: segments that a search scans at a time; 0: one for each processor core of this process.
        segment_rows: vectors of a segment.
        rerank_factor: candidates for each vector asked for.
        rerank_more: candidates on top.

    Attributes:
        rerank_factor: may be changed at any time.
        rerank_more: likewise.

    Raises:
        MissingExtraError: FAISS is not installed.
        ValueError: dim, segment_rows or rerank_factor below 1, threads or rerank_more below 0.
    """

    def __init__(
        self,
        dim: int,
        *,
        threads: int = 0,
        segment_rows: int = SEGMENT_ROWS,
        rerank_factor: int = RERANK_FACTOR,
        rerank_more: int = RERANK_MORE,
    ) -> None:
        self._threads = _at_least(0, "threads", threads) or _cores()
        self.rerank_factor = _at_least(1, "rerank_factor", rerank_factor)
        self.rerank_more = _at_least(0, "rerank_more", rerank_more)
        self._contents = Contents(checked_dim(dim), _at_least(1, "segment_rows", segment_rows))
        self._changing = threading.Lock()  # one change at a time; it prepares beside the searches
        self._lock = ReadersWriterLock()  # of the contents; changes hold it for a moment only
        load_faiss()

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._contents.dim

    def __len__(self) -> int:
        """Number of vectors held."""
        return len(self._contents.places)

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors under new ids; see `Index.add`."""
        ids, vectors = checked_pairs(ids, vectors, self.dim)
        with self._changing:
            self._contents.places.refuse_known(ids)
            self._put(ids, vectors)

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Remove vectors by their ids; see `Index.remove`. Their memory is overwritten with zeros."""
        ids = checked_ids(ids, unique=True)
        with self._changing:
            with self._lock.write():
                worn = self._contents.erase(ids)
            if worn:
                left, vectors = self._contents.survivors(worn)
                self._put(left, vectors, instead_of=worn)
                vectors[:] = 0.0  # a copy of faces that may be erased later

    def search(self, queries: NDArray[np.float32], k: int) -> SearchResult:
        """Find the k largest inner products; see `Index.search`."""
        queries, k = checked_vectors(queries, self.dim), checked_k(k)
        found = None
        while found is None:  # many removals during a scan may leave it too few candidates
            found = self._searched(queries, k)
        return found

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give back vectors by their ids; see `Index.vectors`."""
        ids = checked_ids(ids, unique=False)
        with self._lock.read():
            return self._contents.vectors(ids)

    def ids(self) -> NDArray[np.int64]:
        """Every id; see `Index.ids`."""
        with self._lock.read():
            ids = self._contents.places.ids()
        return np.sort(ids)

    def export(self) -> Iterator[Portion]:
        """Give back everything in portions; see `Index.export`."""
        return portions(self.ids(), self._held)

    def _held(self, ids: NDArray[np.int64]) -> Portion:
        with self._lock.read():
            known = self._contents.places.known(ids)
            return known, self._contents.vectors(known)

    def _put(self, ids: NDArray[np.int64], vectors: NDArray[np.float32], *, instead_of: Sequence[int] = ()) -> None:
        """Add vectors and drop segments in one step."""
        addition = self._contents.addition(ids, vectors)
        with self._lock.write():
            delta = self._contents.put(addition)
            dropped = self._contents.drop(instead_of)
        # Nobody reads these any more, so wiping them keeps nobody waiting.
        for segment in dropped:
            segment.wipe()
        if delta is not None:
            delta.wipe()

    def _searched(self, queries: NDArray[np.float32], k: int) -> SearchResult | None:
        """One search; None where removals left it fewer candidates than there are vectors to be found."""
        with self._lock.read():
            scanned, quantiser = list(self._contents.segments.values()), self._contents.quantiser
        if quantiser is None or not scanned:
            with self._lock.read():
                return best(self._compared(queries, (), k), k)
        count = self.rerank_factor * k + self.rerank_more
        rough = scan(scanned, quantiser.encode(queries), count, threads=self._threads)
        with self._lock.read():
            candidates = rough.ranked(scanned, queries)
            if rough.fewest_live(candidates) < min(k, sum(segment.live for segment in scanned)):
                return None
            parts = [candidates, *self._compared(queries, scanned, k)]
        return best(parts, k)

    def _compared(self, queries: NDArray[np.float32], scanned: Sequence[Segment], k: int) -> list[SearchResult]:
        """Exact results of what was not scanned: the delta, and segments that were sealed meanwhile."""
        known = set(scanned)
        younger = [segment for segment in self._contents.segments.values() if segment not in known]
        parts: list[Segment | Delta] = [*younger, self._contents.delta]
        return [compared(queries, part.ids, part.vectors, k) for part in parts]


def _at_least(least: int, name: str, value: int) -> int:
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
    return value


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
