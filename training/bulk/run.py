"""The parts of one rank, one after the other: batches by threads, each part written when its last batch is there."""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from training.bulk.batches import Batch, BatchEmbedder
from training.bulk.output import Output, PartRecord
from training.bulk.ranks import Rank
from training.bulk.tables import face_table, npy_bytes, parquet_bytes

_AHEAD = 4
"""Batches a thread has ready or in the making, so that all have work while a part is written."""


@dataclass
class Run:
    """What a process has done.

    Attributes:
        pictures: looked at now.
        faces: embedded now.
        failed: pictures without an embedding now, by status.
        before: pictures of this rank in parts that were complete already.
        seconds: from the first batch to the last part on disk.
        reading_s: of all threads, until crops were there.
        network_s: of all threads, from crops to vectors.
    """

    pictures: int = 0
    faces: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    before: int = 0
    seconds: float = 0.0
    reading_s: float = 0.0
    network_s: float = 0.0

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.pictures += batch.pictures
        self.faces += len(batch.faces)
        self.failed.update(failure.status for failure in batch.failures)
        self.reading_s += batch.reading_s
        self.network_s += batch.network_s

    @property
    def faces_per_second(self) -> float:
        """Faces embedded a second, 0 where none was."""
        return self.faces / self.seconds if self.faces else 0.0

    @property
    def network_share(self) -> float:
        """Share of the threads' time that the network took, 0 to 1."""
        spent = self.reading_s + self.network_s
        return self.network_s / spent if spent else 0.0


def pictures_of(output: Output, rank: Rank) -> int:
    """Pictures in the parts of a rank."""
    return sum(len(output.plan.rows(number)) for number in rank.share(output.plan.parts))


def embed_parts(
    embed: BatchEmbedder, output: Output, rank: Rank, *, threads: int, progress: Callable[[Run], None]
) -> Run:
    """Make the parts of a rank that are not complete.

    Args:
        embed: rows -> batch.
        output: where they go.
        rank: which parts.
        threads: batches at a time.
        progress: told after each batch, by this thread.

    Raises:
        DataError: a part that cannot be written, or a picture without a face where that is to stop the run.
    """
    plan, run = output.plan, Run()
    numbers = rank.share(plan.parts)
    missing = [number for number in numbers if output.record(number) is None]
    output.sweep(missing)
    run.before = pictures_of(output, rank) - sum(len(plan.rows(number)) for number in missing)
    progress(run)
    started = time.perf_counter()
    rows = (batch for number in missing for batch in plan.batches(number))
    with closing(in_order(embed, rows, threads)) as batches:
        for number in missing:
            made = []
            for batch in islice(batches, len(plan.batches(number))):
                made.append(batch)
                run.add(batch)
                progress(run)
            write_part(output, number, made)
            run.seconds = time.perf_counter() - started
    return run


def write_part(output: Output, number: int, batches: list[Batch]) -> PartRecord:
    """Write what came of the pictures of a part."""
    faces = [face for batch in batches for face in batch.faces]
    failures = [failure for batch in batches for failure in batch.failures]
    vectors = np.concatenate([batch.vectors for batch in batches])
    options = output.plan.options
    apart = options.to_format == "npy"
    table = face_table(faces, output.plan, None if apart else vectors)
    files = {".npy": npy_bytes(vectors, options.dtype)} if apart else {}
    files[".parquet"] = parquet_bytes(table)
    return output.write(number, files, faces=len(faces), failures=failures)


def in_order(work: Callable[[range], Batch], items: Iterable[range], threads: int) -> Generator[Batch, None, None]:
    """Results of the items in their order; what is planned is not begun any more when the iterator is closed."""
    pending: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(threads, "embed")
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > _AHEAD * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
