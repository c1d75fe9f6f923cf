"""Head × partition × number of classes, timed beside pytorch-metric-learning: ``python -m training.bench.heads``.

Each partition at each number of classes is measured in a process of its own, one after the other. Writes the figures as
JSON, a page and two pictures; what is there already is measured anew only with ``--again``.
"""

import json
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track

from facemargin.errors import ConfigError
from facemargin.heads import HEADS
from facemargin.partitions import PARTITIONS
from training.bench.report import SHOWN, write_report
from training.bench.steps import PEERS, Cost, measure, measure_peer
from training.hardware import describe_hardware
from training.whole_file import write_whole

CLASSES = "10000,100000,1000000"
BIAS_CLASSES = 10_000
"""Up to here bias is measured for every head, beyond it for the one of the pictures."""


def measure_all(partition: str, heads: list[str], classes: int, dim: int, batch: int, repeats: int) -> list[Cost]:
    """Cost of every head with one partition, in this process."""
    if partition == "peer":
        return [measure_peer(name, classes, dim, batch, repeats) for name in heads if name in PEERS]
    return [
        measure(name, partition, classes, dim, batch, repeats, bias=classes <= BIAS_CLASSES or name == SHOWN)
        for name in heads
    ]


def main(
    output: Annotated[Path, typer.Option(help="Folder of the page, the pictures and the figures.")] = Path(
        "docs/benchmarks"
    ),
    classes: Annotated[str, typer.Option(help="Numbers of classes, separated by commas.")] = CLASSES,
    heads: Annotated[str, typer.Option(help="Heads separated by commas, or all.")] = "all",
    partitions: Annotated[str, typer.Option(help="Partitions separated by commas, or all.")] = "all",
    dim: Annotated[int, typer.Option(help="Embedding dimension.")] = 128,
    batch: Annotated[int, typer.Option(help="Samples a batch.")] = 128,
    repeats: Annotated[int, typer.Option(help="Timed repetitions.")] = 3,
    again: Annotated[bool, typer.Option("--again", help="Measure anew what is there already.")] = False,
    one: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time every head with every partition as the number of classes grows."""
    names = list(HEADS) if heads == "all" else heads.split(",")
    counts = [int(count) for count in classes.split(",")]
    if one is not None:
        print(json.dumps([asdict(cost) for cost in measure_all(one, names, counts[0], dim, batch, repeats)]))
        return
    ways = list(PARTITIONS) if partitions == "all" else partitions.split(",")
    ways += ["peer"] if find_spec("pytorch_metric_learning") and partitions == "all" else []
    settings = {"dim": dim, "batch": batch, "repeats": repeats, "heads": names}
    found = _stored(output / "heads.json", settings, again)
    todo = [(way, count) for count in counts for way in ways if f"{way}-{count}" not in found["costs"]]
    for way, count in track(todo, "measuring", console=Console(stderr=True)):
        found["costs"][f"{way}-{count}"] = _in_own_process(way, names, count, settings)
        _store(output / "heads.json", found)
    write_report(found, output)


def _in_own_process(way: str, heads: list[str], classes: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    options = ["--one", way, "--heads", ",".join(heads), "--classes", str(classes)]
    options += [part for key in ("dim", "batch", "repeats") for part in (f"--{key}", str(settings[key]))]
    run = subprocess.run(
        [sys.executable, "-m", "training.bench.heads", *options], check=True, stdout=subprocess.PIPE, text=True
    )
    costs: list[dict[str, Any]] = json.loads(run.stdout.splitlines()[-1])
    return costs


def _stored(path: Path, settings: dict[str, Any], again: bool) -> dict[str, Any]:
    machine = {
        "hardware": describe_hardware(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if path.exists() and not again:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (found["settings"], found["machine"]) != (settings, machine):
            raise ConfigError(
                f"{path} holds figures of other settings or another machine: {found['settings']}, {found['machine']}; "
                "pass --again to replace them, or another --output"
            )
        return found
    return {"settings": settings, "machine": machine, "costs": {}}


def _store(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
