"""The page of the benchmark of bulk embedding, from the stored figures alone."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

_TITLES = ("source", "reading alone", "network alone", "on all cores", "embed", "of the network", "of what they share")


def ratios(row: dict[str, Any]) -> list[float]:
    """The whole as a share of the network alone, for each repetition."""
    return [whole / network for whole, network in zip(row["embed"], row["network"], strict=True)]


def shares(row: dict[str, Any]) -> list[float]:
    """The whole as a share of 1 / (1/reading + 1/network), what the two can reach on the cores that they share."""
    columns = zip(row["reading"], row["network"], row["embed"], strict=True)
    return [whole * (1 / reading + 1 / network) for reading, network, whole in columns]


def table_of(found: dict[str, Any]) -> Table:
    """The figures for a terminal."""
    table = Table(*_TITLES, caption=_machine(found))
    for row in found["rows"]:
        table.add_row(*_cells(row))
    return table


def write_page(found: dict[str, Any], output: Path) -> None:
    """Write the page."""
    model = found["settings"]["model"]
    lines = [f"| {' | '.join(_TITLES)} |", f"|---|{'---:|' * (len(_TITLES) - 1)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in found["rows"]]
    text = _HEAD.format(
        machine=_machine(found),
        command=_command(found),
        cores=found["machine"]["cores"],
        model=model["name"],
        size="×".join(map(str, model["size"])),
        passes=", two passes a crop (flip-sum)" if model["flip_sum"] else "",
    )
    output.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


_HEAD = """# Bulk embedding beside the network alone

Faces a second of `facemargin embed`: reading alone (read, decode, detect and align photographs, resize), the network
alone in ONNX Runtime (batches that are ready, {cores} calls at a time on a thread each, as a run makes them; and one
call on all cores), and the whole, with its files on the disk. Median of the repetitions, lowest and highest in
brackets; ratios are of figures of the same repetition. Reading and network need the same cores, so that their times
add up: together they can reach 1 / (1/reading + 1/network). The last column is the share of that which is reached.

Model: {model}, input {size}{passes}.
{machine}.
Made by `{command}`,
written from the figures in `embed.json`. How it works: [docs/embed.md](../embed.md).

"""


def _cells(row: dict[str, Any]) -> list[str]:
    figures = [_spread(row[key], "{:,.0f}") for key in ("reading", "network", "network_joined", "embed")]
    name = f"{row['source']} ({row['pictures']:,})"
    return [name, *figures, _spread(ratios(row), "{:.0%}"), _spread(shares(row), "{:.0%}")]


def _spread(values: Sequence[float], form: str) -> str:
    return f"{form.format(statistics.median(values))} ({form.format(min(values))}–{form.format(max(values))})"


def _machine(found: dict[str, Any]) -> str:
    machine, settings = found["machine"], found["settings"]
    return f"{machine['hardware']}, load {machine['load']} at the start; {settings['repeats']} repetitions"


def _command(found: dict[str, Any]) -> str:
    photographs = " --photographs DIR" if found["settings"]["photographs"] else ""
    return f"python -m training.bench.embed --bundle DIR --images DIR{photographs} --json docs/benchmarks/embed.json"
