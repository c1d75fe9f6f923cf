"""What ONNX Runtime alone makes of the machine: ready arrays through the network, in the best way there is."""

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facemargin.onnx_model import OnnxModel, available_cores

_BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Way:
    """A way to run a network.

    Attributes:
        threads: of each call.
        calls: at a time.
        batch: crops in a call.
    """

    threads: int
    calls: int
    batch: int

    def __str__(self) -> str:
        """In words."""
        return f"{self.calls} x {self.threads} thread{'s' if self.threads > 1 else ''}, batch {self.batch}"


def best_way(model: Path, *, seconds: float) -> Way:
    """The fastest of one call on all cores and a call on each core, with batches of 1 to 16."""
    return max(_ways(), key=lambda way: images_per_second(model, way, seconds=seconds))


def _ways() -> Iterator[Way]:
    cores = available_cores()
    for threads, batch in itertools.product(sorted({1, cores}), _BATCHES):
        yield Way(threads, cores // threads, batch)


def images_per_second(model: Path, way: Way, *, seconds: float) -> float:
    """Run for some time; what was begun is finished and counted."""
    network = OnnxModel(model, threads=way.threads)
    shape = [size or way.batch for size in network.input_shape]
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    network.run(values)
    counts = [0] * way.calls
    started = time.perf_counter()

    def work(number: int) -> None:
        while time.perf_counter() - started < seconds:
            network.run(values)
            counts[number] += len(values)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(way.calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)
