"""The results of an MNIST recipe: one record a run, and the tables over seeds for terminal, Markdown, CSV and JSON."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from training.mnist.recipe import PUBLISHED_ERROR
from training.report.csv_text import as_csv
from training.whole_file import write_whole

_PUBLISHED = "published %"
_COLUMNS = ("head", "seeds", "error %", "lowest–highest", _PUBLISHED, "angle to own centre °", "loss", "seconds")


class MnistResult(BaseModel):
    """What one head reached with one seed.

    Attributes:
        recipe, form: which recipe; ``short`` is not the published one.
        head: as it was asked for, such as ``l-softmax:2``.
        seed: of initial values and order.
        steps: optimizer steps.
        measured_on: the test images, or training images that were held out.
        images, errors: how many were measured, and how many of them got a wrong label.
        error: errors / images.
        mean_angle_rad: mean angle between an embedding and its class's mean direction.
        first_loss, last_loss: mean over the first and the last twentieth of the run.
        seconds: in the training loop.
        hardware: what it ran on.
        settings: the resolved recipe and head.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    form: Literal["full", "short"]
    head: str
    seed: int
    steps: int
    measured_on: Literal["test", "held-out"]
    images: int
    errors: int
    error: float
    mean_angle_rad: float
    first_loss: float
    last_loss: float
    seconds: float
    hardware: str
    settings: dict[str, Any]


def results_table(results: Sequence[MnistResult]) -> Table:
    """A row a head, over its seeds, for a terminal."""
    table = Table(title=title(results), title_justify="left")
    columns, *rows = table_lines(results)
    for column in columns:
        table.add_column(column, justify="left" if column == "head" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def results_markdown(results: Sequence[MnistResult]) -> str:
    """The same as a Markdown table."""
    columns, *rows = table_lines(results)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def title(results: Sequence[MnistResult]) -> str:
    """Which recipe in which form, how long, measured on what."""
    first = results[0]
    form = "full form, as published" if first.form == "full" else "short form, not the published one"
    if first.recipe != "mnist":
        form = f"{first.form} form"
    measured = "test" if first.measured_on == "test" else "held-out training"
    return f"{first.recipe}, {form}: {first.steps:,} steps, {first.images:,} {measured} images"


def write_results(results: Sequence[MnistResult], output: Path) -> None:
    """Write ``results.json`` (every run), ``results.csv`` and ``results.md`` (a row a head), each file whole."""
    rows = [json.loads(result.model_dump_json()) for result in results]
    write_whole(output / "results.json", json.dumps(rows, indent=1))
    write_whole(output / "results.md", f"{title(results)}\n\n{results_markdown(results)}")
    write_whole(output / "results.csv", as_csv(table_lines(results)))


def table_lines(results: Sequence[MnistResult]) -> list[list[str]]:
    """The column names and a row a head; without the published figures where the recipe has none."""
    heads = dict.fromkeys(result.head for result in results)
    lines = [list(_COLUMNS), *(_row([result for result in results if result.head == head]) for head in heads)]
    if results[0].recipe == "mnist":
        return lines
    hidden = _COLUMNS.index(_PUBLISHED)
    return [line[:hidden] + line[hidden + 1 :] for line in lines]


def _row(runs: Sequence[MnistResult]) -> list[str]:
    errors = [100 * run.error for run in runs]
    published = PUBLISHED_ERROR.get(runs[0].head)
    return [
        runs[0].head,
        str(len(runs)),
        f"{statistics.mean(errors):.2f}" + (f" ± {statistics.stdev(errors):.2f}" if len(runs) > 1 else ""),
        f"{min(errors):.2f}–{max(errors):.2f}",
        "" if published is None else f"{100 * published:.2f}",
        f"{statistics.mean(math.degrees(run.mean_angle_rad) for run in runs):.1f}",
        f"{statistics.mean(run.last_loss for run in runs):.3f}",
        f"{statistics.mean(run.seconds for run in runs):.0f}",
    ]
