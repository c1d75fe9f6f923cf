"""How search engines grow with the gallery: ``python -m facemargin.bench.scale``.

Every engine at every size is loaded, searched and written to in a process of its own, one after the other, smaller
sizes first. Figures are kept after each in a JSON file, and a run that is cut off goes on from there; what has a reason
instead of figures is tried again. Vectors are made up (``facemargin.bench.people_gallery``), so nothing is needed but
the engines.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from facemargin.bench.cell_runs import Forecast, Run, grown, parse_sizes, stopped_by_sigterm
from facemargin.bench.cells import Ledger
from facemargin.bench.machine import describe_cpu
from facemargin.bench.marked_page import fill
from facemargin.bench.people_gallery import PeopleGallery
from facemargin.bench.postgres_server import SETTINGS, private_server
from facemargin.bench.scale_cell import Cell, K, measure
from facemargin.bench.scale_page import measured, write_block
from facemargin.bench.scale_subjects import SUBJECTS, kind_of
from facemargin.errors import ConfigError, FacemarginError
from facemargin.index import INDEXES

ENGINES = ",".join((*(f"faiss:{kind}" for kind in INDEXES), "pgvector:", "milvus:"))
SIZES = "10000,100000,1000000,100000@128,1000000@128,10000000@128"


def forecast(found: dict[str, Any], engine: str, count: int, dim: int) -> Forecast:
    """By the largest smaller cell of this engine; of this dimension where there is one."""
    size = count * dim
    rows = [row for row in measured(found) if row["engine"] == engine and row["count"] * row["dim"] < size]
    rows = [row for row in rows if row["dim"] == dim] or rows
    if not rows:
        return Forecast()
    row = max(rows, key=lambda row: row["count"] * row["dim"])
    return grown(row, row["peak_bytes"], size / (row["count"] * row["dim"]))


@contextmanager
def place(engine: str, folder: Path | None, postgres: str | None) -> Iterator[dict[str, Any]]:
    """A folder for what an engine keeps, and a database where it needs one; the folder is gone afterwards.

    Args:
        engine: its URL.
        folder: where to make it; the system's folder for such things where None.
        postgres: URL of a database; None for a server that is started now and stopped afterwards.
    """
    own = Path(tempfile.mkdtemp(prefix="facemargin-scale-", dir=folder))
    try:
        if not engine.startswith("pgvector"):
            yield {"folder": str(own)}
        elif postgres:
            yield {"folder": str(own), "postgres": postgres}
        else:
            with private_server(own / "postgres", SETTINGS) as url:
                yield {"folder": str(own), "postgres": url}
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def cell_of(engine: str, count: int, dim: int, options: dict[str, Any], **where: Any) -> Iterator[dict[str, Any]]:
    """What the process of a cell is told, while its place is there."""
    with place(engine, **where) as given:
        yield asdict(Cell(engine, count, dim, **options, **given))


def parse_engines(text: str) -> list[str]:
    """URLs of engines, separated by commas.

    Raises:
        ConfigError: an engine that this benchmark does not know.
    """
    found = [part.strip() for part in text.split(",")]
    for engine in found:
        if not kind_of(engine):
            raise ConfigError(f"--engines has {engine!r}; write URLs of {', '.join(f'{name}:' for name in SUBJECTS)}")
    return found


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    engines: Annotated[str, typer.Option(help="URLs of engines, separated by commas.")] = ENGINES,
    sizes: Annotated[str, typer.Option(help="Numbers of vectors, with @DIM where it is not 512.")] = SIZES,
    queries: Annotated[int, typer.Option(min=1, help="Queries of a repetition.")] = 300,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of the searches.")] = 3,
    writes: Annotated[int, typer.Option(min=1, help="Single writes of each kind.")] = 300,
    seconds: Annotated[float, typer.Option(min=0.1, help="Most seconds of a repetition.")] = 20.0,
    cell_minutes: Annotated[float, typer.Option(min=0, help="Most minutes of one engine at one size.")] = 60.0,
    budget_minutes: Annotated[float, typer.Option(min=0, help="Most minutes of the run.")] = 480.0,
    postgres: Annotated[str | None, typer.Option(help="URL of an empty database; a server is started without.")] = None,
    folder: Annotated[Path | None, typer.Option(help="For files of the engines; the system's by default.")] = None,
    json_file: Annotated[Path, typer.Option("--json", help="Figures; a run goes on with what is there.")] = Path(
        "docs/benchmarks/scale.json"
    ),
    page: Annotated[Path | None, typer.Option(help="Fill this page's block 'engines', and draw its picture.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure anew what is there already.")] = False,
    one: Annotated[str | None, typer.Option("--cell", hidden=True)] = None,
) -> None:
    """Measure memory, writes, searches and recall of every engine as the gallery grows."""
    if one is not None:
        print(json.dumps(measure(Cell(**json.loads(one)))))
        return
    console = Console(stderr=True)
    try:
        options = {"queries": queries, "repeats": repeats, "writes": writes, "seconds": seconds}
        settings = {**options, "k": K, "gallery": PeopleGallery.made}
        ledger = Ledger(json_file, settings, {"hardware": describe_cpu()}, again=again)
        limits = {"cell_minutes": cell_minutes, "budget_minutes": budget_minutes}
        run, chosen = Run(ledger, "facemargin.bench.scale", **limits, console=console), parse_engines(engines)
        with stopped_by_sigterm():
            for (count, dim), engine in product(parse_sizes(sizes, least=K), chosen):
                expected = forecast(ledger.found, engine, count, dim)
                cell = cell_of(engine, count, dim, options, folder=folder, postgres=postgres)
                run.measure(f"{engine}/{count}/{dim}", expected, cell)
        if page is not None:
            picture = json_file.with_suffix(".png")
            fill(page, "engines", write_block(ledger.found, picture, os.path.relpath(picture, page.parent)))
    except FacemarginError as error:
        console.print(f"error: {error}")
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
