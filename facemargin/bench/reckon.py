"""Machines and cost of what was not measured, from what was: ``python -m facemargin.bench.reckon``.

Reads the figures of ``facemargin.bench.scale`` and ``training.bench.scale`` and makes the tables of docs/scale.md. The
formulas are in ``reckon_galleries``, ``reckon_training`` and ``reckon_rates``; every assumption is an option here.
"""

import re
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from facemargin.bench import cells
from facemargin.bench.marked_page import fill, markdown_table
from facemargin.bench.prices import Prices
from facemargin.bench.reckon_galleries import Demand, EngineLaw, Machine, fleet, law_of
from facemargin.bench.reckon_rates import SUPPORT, fmr_for, pairs_for, people_for
from facemargin.bench.reckon_training import HEAD_WAYS, HeadWay, Training, training_cost
from facemargin.bench.scale_page import measured, name_of
from facemargin.errors import FacemarginError

FACES = (1e8, 1e9)
QUERIES = (1.0, 100.0)
CLASSES = (1e7, 1e8)
GALLERIES = (1e4, 1e5, 1e6, 1e7, 1e8, 1e9)
FPIR = 0.01
DIM = 512
LEFT_OUT = ("faiss:exact", "milvus:")
"""The oracle of the tests, and milvus-lite, which is for tests: what it takes says nothing of a Milvus cluster."""
_MISSING = "*Nothing is measured yet to reckon from.*"


def gallery_block(found: dict[str, Any] | None, machine: Machine, prices: Prices) -> str:
    """Laws of the engines, and fleets for `FACES`, from what ``facemargin.bench.scale`` kept."""
    laws = list(_laws(found)) if found else []
    if not laws:
        return _MISSING
    growth = [
        [
            name_of(law.engine),
            f"{law.measured:,}",
            f"{law.bytes_each:,.0f}",
            f"{1e3 * law.cpu_s:.3g}",
            f"{law.exponent:.2f}",
            f"{1e3 * law.load_core_s:.3g}",
        ]
        for law in laws
    ]
    fleets = [
        _fleet_row(law, faces, queries, machine, prices) for faces in FACES for law in laws for queries in QUERIES
    ]
    titles = ["engine", "faces", "searches/s", "shards × copies", "a shard, of n₀", "search ≥, ms", "cores searching"]
    return "\n\n".join(
        [
            "Read from the points above:",
            markdown_table(
                ["engine", "n₀", "bytes a face in memory", "CPU of a search t₀, ms", "p", "core ms to load a face"],
                growth,
            ),
            f"Reckoned, with machines of {machine.vcpus} vCPUs and {machine.ram_gb:g} GB, {machine.ram_share:.0%} of "
            f"the memory for vectors, {machine.cpu_share:.0%} of the processors for searches, at least "
            f"{Demand(1).replicas} copies of each shard; {prices.vcpu_hour:g} USD a vCPU hour, {prices.ram_gb_hour:g} "
            f"USD a GB hour of memory, {prices.disk_gb_month:g} USD a GB month of disk:",
            markdown_table([*titles, "USD a month", "core hours to load"], fleets),
        ]
    )


def training_block(found: dict[str, Any] | None, run: Training, prices: Prices) -> str:
    """What memory formulas say of measured points, and heads for `CLASSES`, from what ``training.bench.scale`` kept."""
    rows = cells.measured(found, "way", "classes") if found else []
    if not found or not rows:
        return _MISSING
    batch = found["settings"]["batch"]
    ways = {way.name: way for way in HEAD_WAYS}
    checks = [
        [row["way"], str(row["dim"]), f"{row['classes']:,}", *_gigabytes(ways[row["way"]], row, batch)]
        for row in rows
        if row["way"] in ways and row["extra_bytes"] is not None and row["classes"] >= 1e6
    ]
    costs = [
        _training_row(way, replace(run, classes=classes), prices, _core_s(way, rows, batch))
        for classes in CLASSES
        for way in HEAD_WAYS
    ]
    titles = ["partition", "classes", "rows and what belongs to them, GB", "GPUs", "step ≥, s", "hours an epoch ≥"]
    titles += ["USD an epoch ≥", "backbone, hours an epoch", "on CPUs, core hours an epoch"]
    check = ["The formula of the memory beside what was measured, from a million classes on:"]
    check += [markdown_table(["partition", "D", "classes", "formula, GB", "measured, GB"], checks)]
    return "\n\n".join(
        [
            *(check if checks else []),
            f"Reckoned for D = {run.dim}, {run.batch:,} samples a step, {run.images_each:g} images a class, GPUs of "
            f"{run.gpu_memory_gb:g} GB of which rows take {run.gpu_memory_share:.0%}, each doing "
            f"{run.gpu_flops / 1e12:g}·10¹² operations a second for {prices.gpu_hour:g} USD an hour, a backbone of "
            f"{run.backbone_flops / 1e9:g}·10⁹ operations an image on the same GPUs:",
            markdown_table(titles, costs),
        ]
    )


def rates_block() -> str:
    """What `GALLERIES` ask of the false match rate."""
    rows = []
    for faces in GALLERIES:
        fmr = fmr_for(FPIR, faces)
        pairs = pairs_for(fmr)
        rows.append([f"{faces:,.0f}", f"{fmr:.1e}", f"{pairs:.1e}", f"{people_for(pairs):,.0f}"])
    titles = ["faces N", f"FMR for an FPIR of {FPIR:g}", f"impostor pairs for {SUPPORT} errors"]
    return markdown_table([*titles, "people, one photograph each, who make them"], rows)


def _laws(found: dict[str, Any]) -> Iterator[EngineLaw]:
    rows = [row for row in measured(found) if row["dim"] == DIM and row["engine"] not in LEFT_OUT]
    rows = [row for row in rows if row["memory_bytes"] is not None]  # else it was elsewhere, and so was its work
    cores = re.search(r"(\d+) cores", found["machine"]["hardware"])
    for engine in dict.fromkeys(row["engine"] for row in rows):
        yield law_of([row for row in rows if row["engine"] == engine], int(cores[1]) if cores else 1)


def _fleet_row(law: EngineLaw, faces: float, queries: float, machine: Machine, prices: Prices) -> list[str]:
    needed = fleet(law, Demand(faces, queries), machine, prices)
    return [
        name_of(law.engine),
        f"{faces:,.0f}",
        f"{queries:g}",
        f"{needed.shards} × {needed.copies}",
        f"{needed.beyond:,.0f} ×",
        f"{needed.search_ms:,.1f}" if needed.search_ms < 100 else f"{needed.search_ms:,.0f}",
        f"{needed.cores:,.1f}" if needed.cores < 100 else f"{needed.cores:,.0f}",
        f"{needed.usd_month:,.0f}",
        f"{needed.load_core_hours:,.0f}",
    ]


def _gigabytes(way: HeadWay, row: dict[str, Any], batch: int) -> list[str]:
    """By the formula, and measured."""
    return [f"{held / 1e9:.2f}" for held in (way.held_bytes(row["classes"], row["dim"], batch), row["extra_bytes"])]


def _core_s(way: HeadWay, rows: list[dict[str, Any]], batch: int) -> float | None:
    """Processor seconds a sample, class and dimension of the largest cell; only where a step grows with the classes."""
    mine = [row for row in rows if row["way"] == way.name and row["dim"] == DIM]
    if not mine or way.share == 0:
        return None
    row = max(mine, key=lambda row: row["classes"])
    return float(statistics.median(row["cpu_s"]) / (batch * row["classes"] * row["dim"]))


def _training_row(way: HeadWay, run: Training, prices: Prices, core_s: float | None) -> list[str]:
    cost = training_cost(way, run, prices, core_s)
    return [
        way.name,
        f"{run.classes:,.0f}",
        f"{cost.gigabytes:,.0f}",
        str(cost.gpus),
        f"{cost.step_s:.3g}",
        f"{cost.epoch_hours:,.2f}" if cost.epoch_hours < 10 else f"{cost.epoch_hours:,.0f}",
        f"{cost.epoch_usd:,.0f}",
        f"{cost.backbone_hours:,.1f}",
        "–" if cost.cpu_core_hours is None else f"{cost.cpu_core_hours:,.0f}",
    ]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    engines: Annotated[Path, typer.Option(help="Figures of facemargin.bench.scale.")] = Path(
        "docs/benchmarks/scale.json"
    ),
    training: Annotated[Path, typer.Option(help="Figures of training.bench.scale.")] = Path(
        "docs/benchmarks/scale-training.json"
    ),
    page: Annotated[Path | None, typer.Option(help="Fill this page's blocks instead of printing them.")] = None,
    vcpus: Annotated[int, typer.Option(min=1, help="vCPUs of a machine.")] = Machine.vcpus,
    ram_gb: Annotated[float, typer.Option(min=1, help="Memory of a machine, 10^9 bytes.")] = Machine.ram_gb,
    vcpu_hour: Annotated[float, typer.Option(min=0, help="USD of a vCPU hour.")] = Prices.vcpu_hour,
    ram_gb_hour: Annotated[float, typer.Option(min=0, help="USD of a GB hour of memory.")] = Prices.ram_gb_hour,
    disk_gb_month: Annotated[float, typer.Option(min=0, help="USD of a GB month of disk.")] = Prices.disk_gb_month,
    gpu_hour: Annotated[float, typer.Option(min=0, help="USD of a GPU hour.")] = Prices.gpu_hour,
    gpu_memory_gb: Annotated[float, typer.Option(min=1, help="Memory of a GPU.")] = Training.gpu_memory_gb,
    gpu_tflops: Annotated[float, typer.Option(min=0.1, help="10^12 operations a second of a GPU, as reached.")] = 100.0,
    batch: Annotated[int, typer.Option(min=1, help="Samples of a training step.")] = Training.batch,
    images_each: Annotated[float, typer.Option(min=1, help="Images of a class.")] = Training.images_each,
) -> None:
    """Reckon machines and cost of 100 million and a billion faces, and of 10 and 100 million classes."""
    prices = Prices(vcpu_hour, ram_gb_hour, disk_gb_month, gpu_hour)
    run = Training(1, batch=batch, images_each=images_each, gpu_memory_gb=gpu_memory_gb, gpu_flops=1e12 * gpu_tflops)
    console = Console(stderr=True)
    try:
        held, trained = (cells.read_cells(path) if path.exists() else None for path in (engines, training))
        machine = Machine(vcpus, ram_gb)
        blocks = {
            "galleries": gallery_block(held, machine, prices),
            "heads": training_block(trained, run, prices),
            "rates": rates_block(),
        }
        for name, text in blocks.items():
            if page is None:
                print(f"{text}\n")
            else:
                fill(page, name, text)
    except FacemarginError as error:
        console.print(f"error: {error}")
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
