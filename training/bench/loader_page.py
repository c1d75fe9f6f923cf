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
    output.write_text("\n".join([*parts, _WHY_THREADS]), encoding="utf-8")


_HEAD = """# The loader against the training step

Images per second: the loader alone (read, decode, augment, resize, normalise), the training step alone (forward,
backward, AM-Softmax, SGD; on all cores, with a batch that is already there), and both together, as a run has them.
Median, with the quartiles in brackets; ratios are of figures of the same repetition. The target is {target:.0%} of the
slower of the two alone.

Where both need the same cores, their times add up: taking turns they reach 1 / (1/loader + 1/step), the last column.
What is above it used cores that the step alone leaves idle.

JPEG and PNG crops decoded anew, and crops kept in memory, which have no form any more.

Made by `{command}`, written from the figures in `loader.json`. {machine}.
"""

_WHY_THREADS = """
## Why there are threads only

CPU time an image of both together, measured before processes were taken out: that of the training process and of the
loader process, iresnet18 ×0.25, 48×48, batch 64, JPEG crops of 112×112; median (lowest–highest) of 3 rounds of 3 steps,
in which all took their turns, the network on one thread. Intel Xeon virtual machine, 2 cores, no AMX, busy with other
work: hence CPU time, not time.

| batches made | decoded anew | kept in memory |
|---|---|---|
| between the steps | 4.58 (4.57–4.70) ms | 4.26 (4.12–4.32) ms |
| 1 thread ahead | 4.76 (4.59–4.77) ms | 4.31 (4.19–4.41) ms |
| 1 process ahead | 4.93 (4.72–4.94) ms | 4.21 (4.12–4.28) ms |

A loader process saved no work: it cost as much as a thread, with a cache of its own for each process, and its start
took another 1.8 s of CPU time. Whether it would pay where many threads wait for Python's lock, on many cores, was not
measured, and neither were PNG crops.
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
    return "kept in memory" if row["cached"] else f"{row['files'].upper()}, decoded anew"


def _spread(values: Sequence[float], form: str) -> str:
    if len(values) < 2:
        return form.format(values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{form.format(middle)} ({form.format(low)}–{form.format(high)})"
