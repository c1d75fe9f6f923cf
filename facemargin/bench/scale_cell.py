"""One engine with one number of vectors, measured: what ``facemargin.bench.scale`` runs in a process of its own."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemargin.bench.galleries import RandomGallery
from facemargin.bench.people_gallery import PeopleGallery
from facemargin.bench.processes import peak_bytes
from facemargin.bench.scale_subjects import Place, Subject, opened
from facemargin.errors import IndexingError
from facemargin.index import Index, SearchResult
from facemargin.index.ranking import best

K = 5
CLIENTS = (1, 2)
_FIRST_WRITE = 2**40  # ids beyond those of any gallery


@dataclass(frozen=True)
class Cell:
    """What to measure.

    Attributes:
        engine: URL of a search engine; ``milvus:`` is a file of its own.
        count, dim: vectors and their length.
        queries: of a repetition.
        repeats: repetitions of the searches.
        writes: vectors that are added, and then removed, one at a time.
        seconds: of a repetition of searches, or of the writes of a kind, at most.
        folder: for what the engine keeps; empty.
        postgres: URL of a database, for engines that need one.
    """

    engine: str
    count: int
    dim: int
    queries: int
    repeats: int
    writes: int
    seconds: float
    folder: str
    postgres: str | None = None


@dataclass
class Searches:
    """Searches of a single query by several clients at a time; each list has one figure a repetition.

    Attributes:
        clients: threads that search, each one query after the other.
        searches: how many there were.
        p50_ms, p99_ms: of one search.
        per_second: of all clients together.
        cpu_ms: processor time of this process and of the engine's for one search.
    """

    clients: int
    searches: list[int] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


def measure(cell: Cell) -> dict[str, Any]:
    """Load, search, write; ready for JSON.

    Raises:
        IndexingError: the index does not hold what was put into it.
        IndexUnavailableError: the engine does not answer.
    """
    start = time.monotonic()
    gallery = PeopleGallery(cell.dim, queries=cell.queries)
    next(gallery.blocks(1))  # so that what drawing a block takes is in memory before
    with opened(cell.engine, Place(Path(cell.folder), cell.postgres)) as subject:
        before = subject.memory_bytes()
        index = subject.engine.index("scale", cell.dim)
        load_s, exact = load(index, gallery, cell.count)
        if len(index) != cell.count:
            raise IndexingError(f"{cell.engine} holds {len(index)} vectors of {cell.count}")
        growing_s = time.monotonic() - start
        found = search_once(index, gallery.queries, cell.seconds)
        searches = [search(index, gallery.queries, cell, subject, clients) for clients in CLIENTS]
        memory, disk = subject.memory_bytes() - before, subject.disk_bytes()
        figures = {
            "load_s": round(load_s, 6),
            "memory_bytes": None if subject.remote else max(memory, 0),
            "peak_bytes": peak_bytes(),
            "disk_bytes": disk,
            "recall": recall(found, exact.ids),
            "recall_queries": len(found),
            "searches": [asdict(one) for one in searches],
            **write(index, gallery.queries, cell),
            "notes": subject.notes,
        }
    return figures | {"growing_s": round(growing_s, 1), "fixed_s": round(time.monotonic() - start - growing_s, 1)}


def load(index: Index, gallery: RandomGallery, count: int) -> tuple[float, SearchResult]:
    """Put a gallery into an empty index.

    Returns:
        Seconds of the index's own work, with what it builds at the end, and the exact best `K` of each query.
    """
    nothing = np.empty((len(gallery.queries), 0), dtype=np.float32)
    exact, spent = SearchResult(nothing, nothing.astype(np.int64)), 0.0
    loading: Callable[[], AbstractContextManager[None]] = getattr(index, "loading", nullcontext)
    block = loading()
    start = time.perf_counter()
    with block:
        spent += time.perf_counter() - start
        for ids, vectors in gallery.blocks(count):
            start = time.perf_counter()
            index.add(ids, vectors)
            spent += time.perf_counter() - start
            similarities = np.asarray(gallery.queries @ vectors.T)
            exact = best([exact, SearchResult(similarities, np.broadcast_to(ids, similarities.shape))], K)
        start = time.perf_counter()
    return spent + time.perf_counter() - start, exact


def search_once(index: Index, queries: NDArray[np.float32], seconds: float) -> NDArray[np.int64]:
    """Ids that each query finds, as many queries as there is time for; also warms what the searches use."""
    end, found = time.perf_counter() + seconds, list[NDArray[np.int64]]()
    for query in queries:
        found.append(index.search(query[None], K).ids)
        if time.perf_counter() > end:
            break
    return np.concatenate(found)


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Share of the exact best that is found, over the queries there was time for.

    Args:
        found: (q, K) ids.
        exact: (Q, K) ids, Q ≥ q.
    """
    return round(float((found[:, :, None] == exact[: len(found), None, :]).any(axis=1).mean()), 4)


def search(index: Index, queries: NDArray[np.float32], cell: Cell, subject: Subject, clients: int) -> Searches:
    """Time searches by ``clients`` threads."""
    measured = Searches(clients)
    for _ in range(cell.repeats):
        cpu, start = subject.cpu_seconds(time.process_time()), time.perf_counter()
        spent = _in_threads(index, queries, clients, start + cell.seconds)
        wall, cpu = time.perf_counter() - start, subject.cpu_seconds(time.process_time()) - cpu
        p50, p99 = np.percentile(spent, (50, 99)).tolist()
        measured.searches.append(len(spent))
        measured.p50_ms.append(round(1e3 * p50, 3))
        measured.p99_ms.append(round(1e3 * p99, 3))
        measured.per_second.append(round(len(spent) / wall, 2))
        measured.cpu_ms.append(round(1e3 * cpu / len(spent), 3))
    return measured


def _in_threads(index: Index, queries: NDArray[np.float32], clients: int, end: float) -> list[float]:
    """Seconds of each search; every client takes all queries, beginning at another."""

    def client(number: int) -> list[float]:
        mine, spent = np.roll(queries, -number * len(queries) // clients, axis=0), list[float]()
        for query in mine:
            start = time.perf_counter()
            index.search(query[None], K)
            spent.append(time.perf_counter() - start)
            if time.perf_counter() > end:
                break
        return spent

    with ThreadPoolExecutor(clients) as threads:
        return [seconds for spent in threads.map(client, range(clients)) for seconds in spent]


def write(index: Index, vectors: NDArray[np.float32], cell: Cell) -> dict[str, Any]:
    """Time adding and removing one vector at a time."""
    ids = np.arange(_FIRST_WRITE, _FIRST_WRITE + cell.writes, dtype=np.int64)
    added = _one_at_a_time(
        lambda place: index.add(ids[place : place + 1], vectors[place % len(vectors)][None]), cell.writes, cell.seconds
    )
    removed = _one_at_a_time(lambda place: index.remove(ids[place : place + 1]), len(added), cell.seconds)
    return {"add": _rates(added), "remove": _rates(removed)}


def _one_at_a_time(change: Callable[[int], None], count: int, seconds: float) -> list[float]:
    end, spent = time.perf_counter() + seconds, list[float]()
    for place in range(count):
        start = time.perf_counter()
        change(place)
        spent.append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return spent


def _rates(spent: list[float]) -> dict[str, float]:
    p50, p99 = (1e3 * np.percentile(spent, (50, 99))).tolist()
    return {
        "count": len(spent),
        "per_second": round(len(spent) / sum(spent), 1),
        "p50_ms": round(p50, 3),
        "p99_ms": round(p99, 3),
    }
