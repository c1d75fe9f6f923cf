"""Tables and picture of how a training step grows with the number of classes, from the stored figures alone."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from facemargin.bench import cells
from facemargin.bench.growth_plot import Curve, Panel, draw
from facemargin.bench.marked_page import markdown_table

_COLOURS = {
    "dense": "#1f5fa8",
    "streaming": "#c8501e",
    "streaming, 2 shards": "#b8860b",
    "sampled, a tenth": "#8a3fa3",
    "sampled, 10,000": "#2a8c5a",
}


def measured(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Cells with figures: those, with ``way``, ``classes`` and ``dim``; by dimension, then way, then classes."""
    return cells.measured(found, "way", "classes")


def write_block(found: dict[str, Any], picture: Path, link: str) -> str:
    """Draw the picture and return the text of the block.

    Args:
        found: what the ledger holds.
        picture: where to draw.
        link: path of the picture from the page.
    """
    rows = measured(found)
    if not rows:
        return "*Nothing is measured yet.*"
    draw_growth(rows, picture)
    s, m = found["settings"], found["machine"]
    parts = [
        f"{m['hardware']}, {s['threads']} thread(s), torch {m['torch']}, float32. am-softmax, {s['batch']} random "
        f"embeddings, RowwiseSGD with momentum; median of {s['repeats']} steps after a first (fastest–slowest). Every "
        "line ran in a process of its own; two shards are two processes that share these cores.",
        f"![Time and memory of a training step over the number of classes]({link})",
        "Memory is the peak beyond what the process had before the head was made: rows, momentum, gradient, and what "
        "the sum over classes takes; of all ranks together.",
        _table(rows),
        *_reasons(found),
    ]
    return "\n\n".join(parts)


def draw_growth(rows: list[dict[str, Any]], output: Path) -> Path:
    """Two panels for each dimension: time and memory."""
    panels = []
    for dim in sorted({row["dim"] for row in rows}, reverse=True):
        mine = [row for row in rows if row["dim"] == dim]
        times = _curves(mine, lambda row: 1e3 * float(statistics.median(row["seconds"])))
        memory = _curves(mine, lambda row: (row["extra_bytes"] or 0) / 1e9)
        panels.append(Panel(f"one step, ms, {dim} dimensions", "classes", times))
        panels.append(Panel(f"memory, GB, {dim} dimensions", "classes", memory))
    return draw(panels, output)


def _curves(rows: list[dict[str, Any]], y: Callable[[dict[str, Any]], float]) -> list[Curve]:
    ways = dict.fromkeys(row["way"] for row in rows)
    return [
        Curve(way, _COLOURS.get(way, "#5b6770"), [(r["classes"], y(r)) for r in rows if r["way"] == way and y(r) > 0])
        for way in ways
    ]


def _table(rows: list[dict[str, Any]]) -> str:
    titles = ["partition", "D", "classes", "step, ms", "CPU, ms", "first step, s", "head built, s", "memory, GB"]
    lines = [
        [
            row["way"],
            str(row["dim"]),
            f"{row['classes']:,}",
            f"{_ms(statistics.median(row['seconds']))} ({_ms(min(row['seconds']))}–{_ms(max(row['seconds']))})",
            _ms(statistics.median(row["cpu_s"])),
            f"{row['first_s']:.2f}",
            f"{row['build_s']:.1f}",
            "–" if row["extra_bytes"] is None else f"{row['extra_bytes'] / 1e9:.2f}",
        ]
        for row in rows
    ]
    return markdown_table(titles, lines)


def _reasons(found: dict[str, Any]) -> list[str]:
    lines = [f"- {way}, C = {size:,}, D = {dim}: {why}." for way, size, dim, why in cells.unmeasured(found)]
    return ["**Not measured:**\n\n" + "\n".join(lines)] if lines else []


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}" if seconds < 0.1 else f"{1e3 * seconds:,.0f}"
