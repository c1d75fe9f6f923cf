"""How one training step grows with the number of classes: ``python -m training.bench.scale``.

Forward, backward, norm of the gradient and a step of row-wise SGD with momentum, of the head alone: what a backbone
costs does not depend on the number of classes. Every partition at every number of classes is measured in a process of
its own, fewer classes first; figures are kept after each, and a run that is cut off goes on from there. What would not
fit into memory, by what fewer classes took, is not begun.
"""

import json
import os
from contextlib import nullcontext
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from facemargin.bench.cell_runs import Forecast, Run, grown, parse_sizes, stopped_by_sigterm
from facemargin.bench.cells import Ledger
from facemargin.bench.marked_page import fill
from facemargin.errors import ConfigError, FacemarginError
from training.bench.scale_cell import WAYS, Cell, measure
from training.bench.scale_page import measured, write_block
from training.hardware import describe_hardware

SIZES = "10000,100000,1000000,10000@128,100000@128,1000000@128,10000000@128"


def forecast(found: dict[str, Any], way: str, classes: int, dim: int) -> Forecast:
    """By the cell of this way and dimension with the most classes of those with fewer."""
    rows = [row for row in measured(found) if (row["way"], row["dim"]) == (way, dim) and row["classes"] < classes]
    if not rows:
        return Forecast()
    row = max(rows, key=lambda row: row["classes"])
    return grown(row, row["extra_bytes"] or 0, classes / row["classes"])


def parse_ways(text: str) -> list[str]:
    """Keys of `WAYS`, separated by semicolons; ``all`` is all.

    Raises:
        ConfigError: an unknown one.
    """
    found = list(WAYS) if text == "all" else [part.strip() for part in text.split(";")]
    for way in found:
        if way not in WAYS:
            raise ConfigError(f"--ways has {way!r}; write some of {'; '.join(WAYS)}")
    return found


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    ways: Annotated[str, typer.Option(help="What is measured, separated by semicolons, or all.")] = "all",
    sizes: Annotated[str, typer.Option(help="Numbers of classes, with @DIM where it is not 512.")] = SIZES,
    batch: Annotated[int, typer.Option(min=2, help="Samples of a step.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps, after a first.")] = 5,
    cell_minutes: Annotated[float, typer.Option(min=0, help="Most minutes of one way at one size.")] = 20.0,
    budget_minutes: Annotated[float, typer.Option(min=0, help="Most minutes of the run.")] = 120.0,
    json_file: Annotated[Path, typer.Option("--json", help="Figures; a run goes on with what is there.")] = Path(
        "docs/benchmarks/scale-training.json"
    ),
    page: Annotated[Path | None, typer.Option(help="Fill this page's block 'training', and draw its picture.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure anew what is there already.")] = False,
    one: Annotated[str | None, typer.Option("--cell", hidden=True)] = None,
) -> None:
    """Measure time and memory of a training step as the number of classes grows."""
    if one is not None:
        print(json.dumps(measure(Cell(**json.loads(one)))))
        return
    console = Console(stderr=True)
    try:
        options = {"batch": batch, "repeats": repeats, "threads": torch.get_num_threads()}
        hardware = describe_hardware(torch.device("cpu"))
        ledger = Ledger(json_file, options, {"hardware": hardware, "torch": torch.__version__}, again=again)
        limits = {"cell_minutes": cell_minutes, "budget_minutes": budget_minutes}
        run, chosen = Run(ledger, "training.bench.scale", **limits, console=console), parse_ways(ways)
        with stopped_by_sigterm():
            for (classes, dim), way in product(parse_sizes(sizes, least=2), chosen):
                expected = forecast(ledger.found, way, classes, dim)
                cell = asdict(Cell(way, classes, dim, **options))
                run.measure(f"{way}/{classes}/{dim}", expected, nullcontext(cell))
        if page is not None:
            picture = json_file.with_suffix(".png")
            fill(page, "training", write_block(ledger.found, picture, os.path.relpath(picture, page.parent)))
    except FacemarginError as error:
        console.print(f"error: {error}")
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
