"""The page of the loader's benchmark, from the stored figures alone."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

TARGET = 0.9
"""Share of the slower of the two alone that both together should reach."""

_TITLES = ("crops", "batches made", "loader alone", "step alone", "both", "of the slower", "shared cores allow")


def ratios(row: dict[str, Any]) -> list[float]:
    """Both together as a share of the slower of the two alone, for each repetition."""
    return [b / min(a, s) for a, s, b in zip(row["loader"], row["step"], row["both"], strict=True)]


def limits(row: dict[str, Any]) -> list[float]:
    """What `ratios` would be if the two took turns on all cores: 1 / (1/loader + 1/step) as a share of the slower."""
    return [1 / (1 / a + 1 / s) / min(a, s) for a, s in zip(row["loader"], row["step"], strict=True)]


def table_of(found: dict[str, Any]) -> Table:
    """The figures for a terminal."""
    table = Table(caption=_machine(found))
    for title in ("network", *_TITLES):
        table.add_column(title)
    for row in found["rows"]:
        table.add_row(row["network"], *_cells(row))
    return table


def write_page(found: dict[str, Any], output: Path) -> None:
    """Write the page."""
    parts = [_HEAD.format(machine=_machine(found), command=_command(found), target=TARGET)]
    for network in dict.fromkeys(row["network"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["network"] == network]
        best = max(rows, key=lambda row: statistics.median(row["both"]))
        parts += [f"## {network}\n", _markdown(rows), f"\nFastest together: {best['way']}, {_crops(best)}.\n"]
    output.write_text("\n".join(parts), encoding="utf-8")


_HEAD = """# The loader against the training step

Images per second: the loader alone (read, decode, augment, resize, normalise), the training step alone (forward,
backward, AM-Softmax, SGD; on all cores, with a batch that is already there), and both together, as a run has them.
Median, with the quartiles in brackets; ratios are of figures of the same repetition. The target is {target:.0%} of the
slower of the two alone.

Where both need the same cores, their times add up: taking turns they reach 1 / (1/loader + 1/step), the last column.
What is above it used cores that the step alone leaves idle.

Made by `{command}`, written from the figures in `loader.json`. {machine}.
"""


def _command(found: dict[str, Any]) -> str:
    data = " --data DIR" if found["settings"]["crops"] == "photographs" else ""
    return f"python -m training.bench.loader{data} --json docs/benchmarks/loader.json"


def _machine(found: dict[str, Any]) -> str:
    m, s = found["machine"], found["settings"]
    busy = f"; the machine was busy (load {m['load']})" if m["load"] > 1 else ""
    return (
        f"{m['hardware']}, torch {m['torch']}; {s['images']} {s['crops']} of 112×112, batch {s['batch']}; "
        f"{s['repeats']} repetitions of {s['steps']} steps{busy}"
    )


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(_TITLES)} |", f"|{'---|' * len(_TITLES)}"]
    return "\n".join(lines + [f"| {' | '.join(_cells(row))} |" for row in rows])


def _cells(row: dict[str, Any]) -> list[str]:
    figures = [_spread(row[key], "{:,.0f}") for key in ("loader", "step", "both")]
    return [_crops(row), row["way"], *figures, _spread(ratios(row), "{:.0%}"), _spread(limits(row), "{:.0%}")]


def _crops(row: dict[str, Any]) -> str:
    return f"{row['files'].upper()}, {'kept in memory' if row['cached'] else 'decoded anew'}"


def _spread(values: Sequence[float], form: str) -> str:
    if len(values) < 2:
        return form.format(values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{form.format(middle)} ({form.format(low)}–{form.format(high)})"
