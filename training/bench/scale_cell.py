"""One training step of a head with one partition and one number of classes, measured in this process."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from facemargin.heads import make_head
from facemargin.partitions.base import Partition
from facemargin.partitions.dense import Dense
from facemargin.partitions.sampled import Sampled
from facemargin.partitions.sharded import Sharded
from facemargin.partitions.streaming import Streaming
from facemargin.rowwise import RowwiseSGD
from training.bench.memory import peak_extra_bytes
from training.bench.sampled import LEARNING_RATE, train_step
from training.bench.steps import make_batch

_FEW = 100
_TIMEOUT = timedelta(minutes=30)  # of one message: a rank may wait while others draw ten million rows


@dataclass(frozen=True)
class Way:
    """A partition, and the processes that its classes are split over."""

    partition: Callable[[], Partition]
    ranks: int = 1


WAYS = {
    "dense": Way(Dense),
    "streaming": Way(Streaming),
    "streaming, 2 shards": Way(lambda: Sharded(inner="streaming"), ranks=2),
    "sampled, a tenth": Way(lambda: Sampled(samples=0.1)),
    "sampled, 10,000": Way(lambda: Sampled(samples=10_000)),
}
"""What is measured; two shards are two processes on this machine, each with its share of the threads."""


@dataclass(frozen=True)
class Cell:
    """What to measure: a key of `WAYS`, C, D, the samples of all ranks together, and timed steps after a first."""

    way: str
    classes: int
    dim: int
    batch: int
    repeats: int
    threads: int


@dataclass(frozen=True)
class Step:
    """What one rank took.

    Attributes:
        build_s: making the head, most of it drawing C·D random numbers.
        first_s: the first step, which allocates the momentum.
        seconds: of each later step.
        cpu_seconds: likewise, of this process.
        extra_bytes: peak resident memory beyond what was there before the head; None where the system does not tell.
    """

    build_s: float
    first_s: float
    seconds: list[float]
    cpu_seconds: list[float]
    extra_bytes: int | None


def measure(cell: Cell) -> dict[str, Any]:
    """Measure a cell, in this process or in one for each rank; ready for JSON.

    Times are those of the first rank, which waits for the others in every step; memory is the sum.
    """
    start, ranks = time.monotonic(), WAYS[cell.way].ranks
    steps = [measure_rank(cell)] if ranks == 1 else _in_ranks(cell, ranks)
    memories = [step.extra_bytes for step in steps]
    figures = {
        "build_s": steps[0].build_s,
        "first_s": steps[0].first_s,
        "seconds": steps[0].seconds,
        "cpu_s": [sum(times) for times in zip(*(step.cpu_seconds for step in steps), strict=True)],
        "extra_bytes": None if None in memories else sum(filter(None, memories)),
        "ranks": ranks,
    }
    return figures | {"growing_s": round(time.monotonic() - start, 1), "fixed_s": 0.0}


def measure_rank(cell: Cell) -> Step:
    """Build the head of one rank and train it on one batch."""
    way = WAYS[cell.way]
    torch.set_num_threads(max(1, cell.threads // way.ranks))
    torch.manual_seed(0)
    _train(way, _FEW, cell.dim, cell.batch // way.ranks, 1)  # brings code and threads into memory
    times: list[tuple[float, float]] = []
    extra = peak_extra_bytes(
        lambda: times.extend(_train(way, cell.classes, cell.dim, cell.batch // way.ranks, 1 + cell.repeats))
    )
    (build_s, _), (first_s, _), *later = times
    return Step(build_s, first_s, [wall for wall, _ in later], [cpu for _, cpu in later], extra)


def _train(way: Way, classes: int, dim: int, batch: int, steps: int) -> list[tuple[float, float]]:
    """Seconds by the clock and of the processor: of making a head, and of each step."""
    embeddings, labels = make_batch(classes, dim, batch)
    start, cpu = time.perf_counter(), time.process_time()
    head = make_head("am-softmax", embedding_dim=dim, num_classes=classes, partition=way.partition())
    optimizer = RowwiseSGD(head.parameter_groups(0.0), lr=LEARNING_RATE, momentum=0.9, nesterov=True)
    times = [(time.perf_counter() - start, time.process_time() - cpu)]
    for _ in range(steps):
        start, cpu = time.perf_counter(), time.process_time()
        train_step(head, optimizer, _leaf(embeddings), labels)
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    return times


def _leaf(embeddings: Tensor) -> Tensor:
    """As they come from a backbone, which wants their gradient."""
    return embeddings.clone().requires_grad_()


def _in_ranks(cell: Cell, ranks: int) -> list[Step]:
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_rank, (cell, ranks, folder), nprocs=ranks, start_method="spawn")  # type: ignore[no-untyped-call]
        files = [Path(folder) / f"{rank}.json" for rank in range(ranks)]
        return [Step(**json.loads(file.read_text(encoding="utf-8"))) for file in files]


def _rank(rank: int, cell: Cell, ranks: int, folder: str) -> None:
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, rank=rank, world_size=ranks, timeout=_TIMEOUT)
    try:
        (Path(folder) / f"{rank}.json").write_text(json.dumps(asdict(measure_rank(cell))), encoding="utf-8")
    finally:
        dist.destroy_process_group()
