"""What the benchmark of indexes measures of one contender: times, alone and during changes, and recall."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from facemargin.bench.index_peers import Contender, Segmented

K = 5
CHANGES_A_SECOND = 50
_WARM_UP = 5
_SAME = 1e-6
"""Similarities this near count as one: two orders of summing a float32 product differ by less."""


@dataclass
class Measured:
    """One contender on one gallery.

    Attributes:
        gallery: name of the gallery.
        count: vectors in it.
        name: the contender.
        recall: share of the K best that is found.
        rank1: share of queries whose nearest vector is of the right person; None where nobody is.
        build_s: seconds to take all vectors.
        bytes_each: memory that came with each vector.
        p50_ms: of each repetition; p95_ms and p99_ms likewise.
        change_ms: times of changes made meanwhile, p50, p99 and longest of each repetition.
    """

    gallery: str
    count: int
    name: str
    recall: float
    rank1: float | None
    build_s: float
    bytes_each: float
    p50_ms: list[float] = field(default_factory=list)
    p95_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    change_ms: list[tuple[float, float, float]] = field(default_factory=list)

    def time(self, contender: Contender, queries: NDArray[np.float32]) -> None:
        """Search one query at a time."""
        for query in queries[:_WARM_UP]:
            contender.search(query[None], K)
        spent = []
        for query in queries:
            start = time.perf_counter()
            contender.search(query[None], K)
            spent.append(1e3 * (time.perf_counter() - start))
        for store, percentile in ((self.p50_ms, 50), (self.p95_ms, 95), (self.p99_ms, 99)):
            store.append(round(float(np.percentile(spent, percentile)), 3))


def recall_of(found: NDArray[np.float32], best: NDArray[np.float32]) -> float:
    """Share of the best that is found; of equals, any will do.

    Args:
        found: (Q, K) similarities that were found.
        best: (Q, K) those there are.
    """
    return float((found >= best[:, -1:] - _SAME).mean())


@contextmanager
def changes(index: Segmented, queries: NDArray[np.float32], measured: Measured) -> Iterator[None]:
    """Meanwhile, `CHANGES_A_SECOND` times a second, add a vector or remove it again."""
    done, spent = threading.Event(), list[float]()

    def write() -> None:
        number, wait = 2**40, 0.0
        while not done.wait(wait):
            start = time.perf_counter()
            ids = np.array([number + len(spent) // 2], dtype=np.int64)
            if len(spent) % 2:
                index.index.remove(ids)
            else:
                index.index.add(ids, queries[:1])
            spent.append(time.perf_counter() - start)
            wait = max(0.0, 1 / CHANGES_A_SECOND - spent[-1])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()
        if len(spent) % 2:
            index.index.remove(np.array([2**40 + len(spent) // 2], dtype=np.int64))
    p50, p99 = np.percentile(spent, (50, 99)).tolist()
    measured.change_ms.append((round(1e3 * p50, 3), round(1e3 * p99, 3), round(1e3 * max(spent), 3)))
