"""The loader alone, the training step alone, and both together: ``python -m training.bench.loader``.

Each way to make batches (between the steps, or ahead by a thread) is measured with the same real training step, on JPEG
and PNG crops that are decoded anew and on crops kept in memory. In every repetition all take their turns, so that a
busy machine slows all of them; ratios are of figures from the same repetition. Without ``--data`` the crops are drawn
people.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from facemargin.preprocessing import encode_jpeg, encode_png
from training.bench.loader_page import table_of, write_page
from training.config import TrainConfig, make_config
from training.data.loader import BATCHES_AHEAD, Batch, BatchPlan, Loader, make_loader
from training.data.pictures import LabelledImages, Picture
from training.data.samples import cores
from training.data.sources import label_people
from training.hardware import describe_hardware
from training.synthetic import write_synthetic
from training.trainer import Trainer

BATCH_SIZE = 64
NETWORKS = {"iresnet18 ×0.25, 48×48": (0.25, 48), "iresnet18 ×0.5, 64×64": (0.5, 64)}
"""Width and input size of each measured network."""
CROPS = (("jpeg", False), ("png", False), ("png", True))
"""Form of the measured crops, and whether they are kept in memory; once there, their form matters no more."""


@dataclass(frozen=True)
class Way:
    """Who makes the batches.

    Attributes:
        workers: as in the config.
        threads: of PyTorch.
    """

    workers: int
    threads: int

    def __str__(self) -> str:
        """As in the page's table."""
        plural = "" if self.workers == 1 else "s"
        made = f"{self.workers} thread{plural} ahead" if self.workers else "between the steps"
        return f"{made}, network on {self.threads}"


@dataclass
class Measured:
    """One row of the page: images per second, one figure a repetition.

    Attributes:
        network, files, way: what was measured; ``files`` is ``png`` or ``jpeg``.
        cached: whether decoded crops were kept in memory.
        loader, step, both: each alone, the step on all cores; and both together.
    """

    network: str
    files: str
    cached: bool
    way: str
    loader: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)


def ways(cores: int) -> list[Way]:
    """What is worth a comparison: the default beside a CPU of few cores, and one thread ahead."""
    return [Way(0, cores), Way(1, cores)]


def rate(run: Iterator[Any], warm_up: int, steps: int) -> float:
    """Images per second of taking ``steps`` batches, after ``warm_up`` that do not count."""
    for _ in range(warm_up):
        next(run)
    start = time.perf_counter()
    for _ in range(steps):
        next(run)
    return steps * BATCH_SIZE / (time.perf_counter() - start)


class Bench:
    """One network on one set of crops, measured every way."""

    def __init__(self, network: str, crops: dict[str, LabelledImages], output: Path, steps: int) -> None:
        self.network, self.crops, self.steps = network, crops, steps
        width, side = NETWORKS[network]
        self.config = _config(output, width, side)
        images = next(iter(crops.values()))
        self.plan = BatchPlan(len(images.pictures), BATCH_SIZE, 0)
        self.trainer = Trainer(self.config, images)
        self.trainer.network.train()
        self.fixed = next(iter(self._loader(images, Way(0, 1), False)))
        self.rows: list[tuple[Way, Loader, Measured]] = []
        for way in ways(torch.get_num_threads()):
            for files, cached in CROPS:
                self.rows.append(
                    (way, self._loader(crops[files], way, cached), Measured(network, files, cached, str(way)))
                )

    def repeat(self, done: Callable[[], None], *, counts: bool = True) -> None:
        """Measure everything once in turn."""
        all_cores = torch.get_num_threads()
        step = rate(self._train(_same(self.fixed)), 1, self.steps)
        for way, loader, measured in self.rows:
            torch.set_num_threads(way.threads)
            ahead = BATCHES_AHEAD * way.workers + 1
            with closing(iter(loader)) as batches:
                alone = rate(batches, ahead, self.steps)
            with closing(iter(loader)) as batches:
                both = rate(self._train(batches), ahead, self.steps)
            torch.set_num_threads(all_cores)
            if counts:
                measured.loader.append(alone)
                measured.step.append(step)
                measured.both.append(both)
            done()

    def _loader(self, images: LabelledImages, way: Way, cached: bool) -> Loader:
        return make_loader(
            images,
            self.plan,
            first_step=0,
            last_step=1_000_000,
            augmentation=self.config.augmentation,
            preprocessing=self.config.preprocessing,
            workers=way.workers,
            pin_memory=False,
            cache=cached,
        )

    def _train(self, batches: Iterator[Batch]) -> Iterator[float]:
        for batch in batches:
            yield float(self.trainer.train_step(batch).loss)


def _same(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


def _config(output: Path, width: float, side: int) -> TrainConfig:
    return make_config(
        {
            "output": output,
            "epochs": 1_000_000,
            "batch_size": BATCH_SIZE,
            "device": "cpu",
            "preprocessing": {"size": [side, side]},
            "backbone": {"name": "iresnet18", "width": width, "embedding_dim": 128},
        },
        "benchmark",
    )


def copies(images: LabelledImages, count: int, root: Path) -> dict[str, LabelledImages]:
    """Up to ``count`` of the crops, drawn at random, as PNG and as JPEG files."""
    chosen = np.random.default_rng(0).permutation(len(images.pictures))[:count]
    found = {}
    for name, encode in (("png", encode_png), ("jpeg", encode_jpeg)):
        paths = [root / f"{number}.{name}" for number in range(len(chosen))]
        for path, sample in zip(paths, chosen, strict=True):
            path.write_bytes(encode(images.pictures[sample].decode()))
        found[name] = LabelledImages([Picture.of_file(path) for path in paths], images.labels[chosen], images.people)
    return found


def measure(images: LabelledImages, *, count: int, steps: int, repeats: int) -> dict[str, Any]:
    """Every network, every way; ready for JSON."""
    load = os.getloadavg()[0]
    rows: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True)) as progress:
        crops = copies(images, count, Path(folder))
        for network in NETWORKS:
            bench = Bench(network, crops, Path(folder) / "run", steps)
            task = progress.add_task(network, total=len(bench.rows) * (repeats + 1))
            for repeat in range(-1, repeats):  # the first fills caches and does not count
                bench.repeat(lambda task=task: progress.advance(task), counts=repeat >= 0)  # type: ignore[misc]
            rows += [measured for _, _, measured in bench.rows]
    machine = {"hardware": describe_hardware(torch.device("cpu")), "torch": torch.__version__, "load": round(load, 1)}
    settings = {"batch": BATCH_SIZE, "images": min(count, len(images.pictures)), "steps": steps, "repeats": repeats}
    return {"machine": machine, "settings": settings, "rows": [asdict(row) for row in rows]}


def main(
    data: Annotated[list[Path] | None, typer.Option(help="Aligned crops; repeat it. Drawn people without.")] = None,
    images: Annotated[int, typer.Option(min=BATCH_SIZE, help="Crops to use at most.")] = 512,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each repetition.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of each.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here, the page beside it.")
    ] = None,
) -> None:
    """Time the loader alone, the step alone, and both together on this CPU."""
    torch.set_num_threads(cores())
    with tempfile.TemporaryDirectory() as folder:
        if not data:
            write_synthetic(Path(folder), -(-images // 8), 8, 0)
        found = measure(label_people(data or [Path(folder)]), count=images, steps=steps, repeats=repeats)
    found["settings"]["crops"] = "photographs" if data else "drawn people"
    Console(width=150).print(table_of(found))
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        write_page(found, json_file.with_suffix(".md"))


if __name__ == "__main__":
    typer.run(main)
