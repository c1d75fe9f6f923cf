"""Bulk embedding beside the network alone: ``python -m training.bench.embed``.

Reading alone, the network alone (as many calls at a time as the run makes, and one call on all cores), and
``facemargin embed`` as a whole, from a folder of PNG files, a ``.rec`` of JPEG files, tar shards of the same, and
photographs. In every repetition all take their turns; ratios are of figures of the same repetition.
"""

import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from facemargin.bench.machine import describe_cpu
from facemargin.bundle import load_bundle
from facemargin.embedder import Embedder
from facemargin.errors import FacemarginError
from facemargin.onnx_model import available_cores
from facemargin.preprocessing import encode_jpeg, encode_png
from training.bench.embed_page import table_of, write_page
from training.bulk.job import Job, Request, prepare
from training.bulk.raw_rate import raw_images_per_second
from training.bulk.run import in_order
from training.bulk.sources import Sources, read_sources
from training.data.formats.convert import convert


class NoNetwork(Embedder):
    """A model that takes no time."""

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Zeros."""
        return np.zeros((len(crops), self.dim), dtype=np.float32)


@dataclass
class Measured:
    """One row of the page: faces a second, one figure a repetition.

    Attributes:
        source: what was embedded.
        pictures: of it.
        reading: crops alone.
        network: alone, a call on each core.
        network_joined: alone, one call on all cores.
        embed: the whole.
    """

    source: str
    pictures: int
    reading: list[float] = field(default_factory=list)
    network: list[float] = field(default_factory=list)
    network_joined: list[float] = field(default_factory=list)
    embed: list[float] = field(default_factory=list)


class Bench:
    """One source."""

    def __init__(self, name: str, request: Request, *, seconds: float) -> None:
        self.request, self.seconds = request, seconds
        self.idle = NoNetwork(load_bundle(request.bundle), threads=1)
        self.measured = Measured(name, len(read_sources(request.sources)))

    def repeat(self, output: Path) -> None:
        """Measure everything once in turn."""
        job = prepare(replace(self.request, output=output))
        self.measured.reading.append(self._reading(job))
        for rates, calls in ((self.measured.network, job.threads), (self.measured.network_joined, 1)):
            rates.append(self._network(job, calls))
        self.measured.embed.append(job.run(lambda run: None).faces_per_second)

    def _reading(self, job: Job) -> float:
        work, plan = replace(job.work, embedder=self.idle), job.output.plan
        rows = [batch for part in range(plan.parts) for batch in plan.batches(part)]
        start = time.perf_counter()
        with closing(in_order(work, rows, job.threads)) as batches:
            faces = sum(len(batch.faces) for batch in batches)
        return faces / (time.perf_counter() - start)

    def _network(self, job: Job, calls: int) -> float:
        batch, bundle = job.output.plan.options.batch, job.work.embedder.bundle
        return raw_images_per_second(
            bundle, batch=batch, calls=calls, threads=job.threads // calls, seconds=self.seconds
        )


def copies(sources: Sources, count: int, root: Path) -> dict[str, Path]:
    """Up to `count` of the crops, drawn at random: as PNG files, as JPEG in a ``.rec``, and as JPEG in shards."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(sources))[:count])
    for name, encode in (("png", encode_png), ("jpg", encode_jpeg)):
        for number, row in enumerate(chosen.tolist()):
            folder = root / name / f"{number // 20:05d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.{name}").write_bytes(encode(sources.picture(row).decode()))
    convert(root / "jpg", root / "faces.rec")
    convert(root / "jpg", root / "shards", to_format="webdataset", shard_pictures=max(1, count // 4))
    return {"PNG files": root / "png", "JPEG in a .rec": root / "faces.rec", "JPEG in shards": root / "shards"}


def photographs_of(path: Path, count: int, root: Path) -> Path:
    """Links to up to `count` photographs of a folder."""
    sources = read_sources([path], format="folder")
    chosen = np.sort(np.random.default_rng(0).permutation(len(sources))[:count])
    root.mkdir()
    for number, row in enumerate(chosen.tolist()):
        place = sources.picture(row).path.resolve()
        (root / f"{number:06d}{place.suffix}").symlink_to(place)
    return root


def measure(
    bundle: Path, images: Sequence[Path], photographs: Path | None, *, count: int, repeats: int, seconds: float
) -> dict[str, Any]:
    """Every source; ready for JSON."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True)) as progress:
        root = Path(folder)
        asked = {
            name: Request(sources=(path,), bundle=bundle, output=root, aligned=True)
            for name, path in copies(read_sources(images), count, root).items()
        }
        if photographs is not None:
            path = photographs_of(photographs, count // 4, root / "photographs")
            asked["photographs, the largest face"] = Request(sources=(path,), bundle=bundle, output=root)
        benches = [Bench(name, request, seconds=seconds) for name, request in asked.items()]
        task = progress.add_task("measuring", total=len(benches) * repeats)
        for repeat in range(repeats):
            for number, bench in enumerate(benches):
                bench.repeat(root / f"out-{repeat}-{number}")
                progress.advance(task)
    made = load_bundle(bundle)
    model = {"name": made.manifest.name, "flip_sum": made.manifest.flip_sum, "size": made.manifest.preprocessing.size}
    machine = {"hardware": describe_cpu(), "cores": available_cores(), "load": round(load, 1)}
    settings = {"repeats": repeats, "photographs": photographs is not None, "model": model}
    return {"machine": machine, "settings": settings, "rows": [asdict(bench.measured) for bench in benches]}


def main(
    bundle: Annotated[Path, typer.Option(help="The model.")],
    images: Annotated[list[Path], typer.Option(help="Aligned crops; repeat it.")],
    photographs: Annotated[Path | None, typer.Option(help="Folder of photographs; a quarter of --count of them.")] = (
        None
    ),
    count: Annotated[int, typer.Option(min=16, help="Crops to use at most.")] = 2048,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of each.")] = 5,
    seconds: Annotated[float, typer.Option(help="Of the network alone, each time.")] = 3.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here, the page beside it.")
    ] = None,
) -> None:
    """Time bulk embedding, its reading alone and the network alone on this CPU."""
    console = Console(stderr=True)
    cv2.setNumThreads(1)  # as the command does
    try:
        found = measure(bundle, images, photographs, count=count, repeats=repeats, seconds=seconds)
    except FacemarginError as error:
        console.print(f"error: {error}")
        raise typer.Exit(2) from error
    Console(width=150).print(table_of(found))
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        write_page(found, json_file.with_suffix(".md"))


if __name__ == "__main__":
    typer.run(main)
