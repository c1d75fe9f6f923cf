"""Crops of several requests through the network together: a batch is what waits when a worker is free.

Owns the queue of one model, its workers and the size of batches. Nothing ever waits for a batch to fill up. On a CPU a
worker is one core: two networks with a thread each embed as many crops as one network with two threads in its best
batches, and need no batches for it, so a crop that comes alone is not held up by the others. How many crops a batch may
have is measured when the service starts (`best_batch`), for it differs with the network: weights that do not fit into
the cache are worth sharing, a small network is slower in batches because its activations do not fit.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facemargin.embedder import Embedder
from facemargin.preprocessing import TEMPLATES

log = logging.getLogger("facemargin.service")

Crop = NDArray[np.uint8]
Row = NDArray[np.float32]
Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Aligned crops uint8 (N, h, w, 3) of one size -> float32 (N, D)."""

OnBatch = Callable[[int, float], None]
"""Told of each batch: its crops, and the seconds that it took. Called by a worker, so it must be quick."""

LARGEST_BATCH = 32
_GAIN = 0.95  # a batch twice as large must save 5 % of the time per crop, or it only makes crops wait
_NO_LOSS = 1.05  # one of two need not: the interpreter is entered half as often, where workers wait for each other
_TRIALS = 5
_BUDGET_SECONDS = 0.5


class _Request:
    """Crops that belong together: their rows, and the future that gets them when the last one is there."""

    def __init__(self, count: int) -> None:
        self.done: Future[list[Row]] = Future()
        self._rows: list[Row | None] = [None] * count
        self._missing = count
        self._lock = threading.Lock()

    def fill(self, place: int, row: Row) -> None:
        with self._lock:
            self._rows[place] = row
            self._missing -= 1
            complete = not self._missing
        if complete:
            self.done.set_result([row for row in self._rows if row is not None])

    def fail(self, error: Exception) -> None:
        with self._lock:
            if not self.done.done():
                self.done.set_exception(error)


@dataclass(frozen=True, eq=False)
class _Job:
    crop: Crop
    request: _Request
    place: int


class Batcher:
    """The way to one model's embeddings for any number of threads.

    The embedding of a crop does not depend on its batch but for float32 rounding (cosine above 0.999999, a test).

    Args:
        embed: the model; called by several workers at once.
        workers: batches at a time.
        max_batch: most crops in one.
        listeners: told of every batch.

    Raises:
        ValueError: workers or max_batch below 1.
    """

    def __init__(self, embed: Embed, *, workers: int, max_batch: int, listeners: Sequence[OnBatch] = ()) -> None:
        if workers < 1 or max_batch < 1:
            raise ValueError(f"workers and max_batch must be at least 1, got {workers} and {max_batch}")
        self.workers = workers
        self.max_batch = max_batch
        self._listeners = listeners
        self._embed = embed
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"embed-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Crops that no worker has taken yet."""
        return len(self._waiting)

    def submit(self, crops: Sequence[Crop]) -> Future[list[Row]]:
        """Queue crops uint8 (h, w, 3); the future becomes their embeddings, float32 (D,), or the error.

        Raises:
            RuntimeError: it is closed.
        """
        request = _Request(len(crops))
        if not crops:
            request.done.set_result([])
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._waiting.extend(_Job(crop, request, place) for place, crop in enumerate(crops))
            self._changed.notify(len(crops))
        return request.done

    def close(self) -> None:
        """Finish what is queued, and end the workers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            started = time.perf_counter()
            rows = _rows(self._embed, jobs)
            seconds = time.perf_counter() - started
            _hand_over(jobs, rows)
            self._tell(len(jobs), seconds)

    def _tell(self, crops: int, seconds: float) -> None:
        for listener in self._listeners:
            try:
                listener(crops, seconds)
            except Exception:  # a worker must outlive it
                log.exception("a listener of batches failed")

    def _next(self) -> list[_Job]:
        """What waits, of one size; where that is more than a batch's worth, a fair share for each worker."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            share = min(self.max_batch, -(-len(self._waiting) // self.workers))
            jobs = [self._waiting.popleft()]
            while len(jobs) < share and self._waiting[0].crop.shape == jobs[0].crop.shape:
                jobs.append(self._waiting.popleft())
            return jobs


def _rows(embed: Embed, jobs: Sequence[_Job]) -> NDArray[np.float32] | Exception:
    """The embeddings of a batch; whatever the network raises is the business of those who wait for it."""
    try:
        rows = embed(np.stack([job.crop for job in jobs]))
        if len(rows) != len(jobs):
            raise ValueError(f"the network gave {len(rows)} embeddings for {len(jobs)} crops")
    except Exception as error:  # a worker must outlive it
        return error
    return rows


def _hand_over(jobs: Sequence[_Job], rows: NDArray[np.float32] | Exception) -> None:
    if isinstance(rows, Exception):
        for job in jobs:
            job.request.fail(rows)
        return
    for job, row in zip(jobs, rows, strict=True):
        job.request.fill(job.place, row)


@dataclass(frozen=True)
class Measured:
    """What `best_batch` found.

    Attributes:
        size: crops in a batch.
        seconds: of one worker for one crop in such a batch.
    """

    size: int
    seconds: float


def best_batch(embed: Embed, shape: tuple[int, int], *, largest: int = LARGEST_BATCH) -> Measured:
    """Find the batch from which one of twice the size saves less than 5 % of the time; but two, where they lose none.

    Args:
        embed: the model.
        shape: height and width of its crops.
        largest: no batch above this is tried, nor any after half a second.
    """
    deadline = time.perf_counter() + _BUDGET_SECONDS
    found = measured(embed, shape, 1)
    while 2 * found.size <= largest and time.perf_counter() < deadline:
        larger = measured(embed, shape, 2 * found.size)
        if larger.seconds > (_NO_LOSS if found.size == 1 else _GAIN) * found.seconds:
            break
        found = larger
    return found


def measured(embed: Embed, shape: tuple[int, int], size: int) -> Measured:
    """The time of a batch of this size, the best of five, or of fewer where it takes long."""
    crops = np.random.default_rng(0).integers(0, 256, (size, *shape, 3), dtype=np.uint8)  # int8 makes nothing of grey
    embed(crops)  # the first run of a size allocates
    times: list[float] = []
    while len(times) < _TRIALS and sum(times) < _BUDGET_SECONDS / 4:
        started = time.perf_counter()
        embed(crops)
        times.append(time.perf_counter() - started)
    return Measured(size, min(times) / size)


class Batchers:
    """A batcher for each model, made when the model is first asked for.

    Args:
        workers: batches of one model at a time.
        max_batch: most crops in one; 0 has it measured.

    Attributes:
        on_batch: listeners of all batchers; append to add one.
    """

    def __init__(self, *, workers: int, max_batch: int) -> None:
        self.workers = workers
        self.on_batch: list[OnBatch] = []
        self._max_batch = max_batch
        self._made: dict[str, tuple[Batcher, Measured]] = {}
        self._making = threading.Lock()

    def of(self, embedder: Embedder) -> Batcher:
        """The batcher of a model."""
        return self._entry(embedder)[0]

    def seconds(self, embedder: Embedder) -> float:
        """Seconds from one crop to the next when all workers are busy, as measured at the start."""
        return self._entry(embedder)[1].seconds / self.workers

    @property
    def waiting(self) -> int:
        """Crops of all models that no worker has taken yet."""
        return sum(batcher.waiting for batcher, _ in self._made.values())

    def close(self) -> None:
        """Finish what is queued, and end the workers."""
        with self._making:
            for batcher, _ in self._made.values():
                batcher.close()
            self._made.clear()

    def _entry(self, embedder: Embedder) -> tuple[Batcher, Measured]:
        found = self._made.get(embedder.model_id)
        if found is not None:
            return found
        with self._making:
            if embedder.model_id not in self._made:
                self._made[embedder.model_id] = self._make(embedder)
            return self._made[embedder.model_id]

    def _make(self, embedder: Embedder) -> tuple[Batcher, Measured]:
        shape = TEMPLATES[embedder.preprocessing.template].size
        size = self._max_batch
        found = measured(embedder.embed, shape, size) if size else best_batch(embedder.embed, shape)
        batcher = Batcher(embedder.embed, workers=self.workers, max_batch=found.size, listeners=self.on_batch)
        return batcher, found
