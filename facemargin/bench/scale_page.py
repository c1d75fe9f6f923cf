"""Tables and picture of how an engine's cost grows with the gallery, from the stored figures alone."""

import statistics
from pathlib import Path
from typing import Any

from facemargin.bench import cells
from facemargin.bench.growth_plot import Curve, Panel, draw
from facemargin.bench.marked_page import markdown_table

_COLOURS = {
    "faiss:exact": "#8a939b",
    "faiss:flat": "#1f5fa8",
    "faiss:segmented": "#2a8c5a",
    "pgvector:": "#c8501e",
    "milvus:": "#8a3fa3",
}


def name_of(engine: str) -> str:
    """As in tables and pictures."""
    return {"pgvector:": "pgvector", "milvus:": "milvus-lite"}.get(engine, engine.removeprefix("faiss:"))


def measured(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Cells with figures: those, with ``engine``, ``count`` and ``dim``; by dimension, then engine, then size."""
    return cells.measured(found, "engine", "count")


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
    s = found["settings"]
    gallery = s["gallery"][0].upper() + s["gallery"][1:]
    parts = [
        f"{found['machine']['hardware']}. {gallery}. {s['queries']} queries, one at a time, for the best {s['k']}; "
        f"medians of {s['repeats']} repetitions (lowest–highest), each of at most {s['seconds']:g} s; up to "
        f"{s['writes']} single writes. Every line ran in a process of its own.",
        f"![Memory, time of a search, rate of writes and recall over the number of vectors]({link})",
        "**Memory and writing.** Memory is what came to the resident memory of the process and of the database's "
        "server processes (what they share counted once), disk what the engine keeps in files. *Load* ends when "
        "searches are as fast as they get.",
        _held_table(rows),
        "**Searching.** CPU is the processor time of one search, the database's included, with two clients. Where "
        "there was time for fewer queries, their number stands beside the recall, and p99 is hardly more than the "
        "slowest.",
        _search_table(rows, s["queries"]),
        *_reasons(found),
        _versions(rows),
    ]
    return "\n\n".join(parts)


def draw_growth(rows: list[dict[str, Any]], output: Path) -> Path:
    """Four panels: memory, search, writes, recall."""
    dims = sorted({row["dim"] for row in rows}, reverse=True)
    note = "" if len(dims) == 1 else f"solid: {dims[0]} dimensions; dashed: {', '.join(map(str, dims[1:]))}"
    x = "vectors"
    panels = [
        Panel("memory, or disk for pgvector, GB", x, _curves(rows, lambda row: _kept_bytes(row) / 1e9), note=note),
        Panel(
            "search, one client, ms: p50, and line up to p99",
            x,
            _curves(rows, lambda row: _median(row, 1, "p50_ms"), lambda row: _median(row, 1, "p99_ms")),
            note=note,
        ),
        Panel("single adds a second", x, _curves(rows, lambda row: row["add"]["per_second"]), note=note),
        Panel("recall of the best 5", x, _curves(rows, lambda row: row["recall"]), linear=True, note=note),
    ]
    return draw(panels, output)


def _curves(rows: list[dict[str, Any]], y: Any, top: Any = None) -> list[Curve]:
    curves = []
    lines = dict.fromkeys((row["engine"], row["dim"]) for row in rows)
    largest = {row["engine"]: max((r["count"], r["dim"]) for r in rows if r["engine"] == row["engine"]) for row in rows}
    for engine, dim in lines:
        mine = [row for row in rows if (row["engine"], row["dim"]) == (engine, dim) and y(row) > 0]
        curves.append(
            Curve(
                name_of(engine) if dim == largest[engine][1] else "",
                _COLOURS.get(engine, "#a83250"),
                [(row["count"], y(row)) for row in mine],
                [top(row) for row in mine] if top else (),
                dashed=dim != rows[0]["dim"],
            )
        )
    return curves


def _kept_bytes(row: dict[str, Any]) -> float:
    """What has to be in memory for searches to be as fast as measured: the files of a database, else what it holds."""
    key = "disk_bytes" if row["engine"].startswith("pgvector") else "memory_bytes"
    return float(row[key] or 0)


def _held_table(rows: list[dict[str, Any]]) -> str:
    titles = ["engine", "dim", "vectors", "memory, GB", "bytes a vector", "disk, GB", "load, s", "vectors/s"]
    titles += ["adds/s", "add p99, ms", "removes/s", "remove p99, ms"]
    lines = [
        [
            *_head(row),
            _gb(row["memory_bytes"]),
            "–" if row["memory_bytes"] is None else f"{row['memory_bytes'] / row['count']:,.0f}",
            _gb(row["disk_bytes"]),
            f"{row['load_s']:,.1f}",
            f"{row['count'] / max(row['load_s'], 1e-9):,.0f}",
            *(
                text
                for kind in ("add", "remove")
                for text in (_rate(row[kind]["per_second"]), _ms(row[kind]["p99_ms"]))
            ),
        ]
        for row in rows
    ]
    return markdown_table(titles, lines)


def _search_table(rows: list[dict[str, Any]], queries: int) -> str:
    titles = ["engine", "dim", "vectors", "p50, ms", "p99, ms", "p50 of two clients", "p99", "searches/s", "CPU, ms"]
    lines = [
        [
            *_head(row),
            *(_spread(_of(row, clients)[key]) for clients in (1, 2) for key in ("p50_ms", "p99_ms")),
            _rate(_median(row, 2, "per_second")),
            _ms(_median(row, 2, "cpu_ms")),
            f"{row['recall']:.4f}" + (f" ({row['recall_queries']})" if row["recall_queries"] < queries else ""),
        ]
        for row in rows
    ]
    return markdown_table([*titles, "recall@5"], lines)


def _head(row: dict[str, Any]) -> list[str]:
    return [name_of(row["engine"]), str(row["dim"]), f"{row['count']:,}"]


def _reasons(found: dict[str, Any]) -> list[str]:
    lines = [f"- {name_of(way)}, {size:,} × {dim}: {why}." for way, size, dim, why in cells.unmeasured(found)]
    return ["**Not measured:**\n\n" + "\n".join(lines)] if lines else []


def _versions(rows: list[dict[str, Any]]) -> str:
    notes: dict[str, str] = {}
    for row in rows:
        notes |= row["notes"]
    return "Versions and settings: " + ", ".join(f"{name} {value}" for name, value in notes.items()) + "."


def _of(row: dict[str, Any], clients: int) -> dict[str, Any]:
    searches: dict[str, Any] = next(one for one in row["searches"] if one["clients"] == clients)
    return searches


def _median(row: dict[str, Any], clients: int, key: str) -> float:
    return float(statistics.median(_of(row, clients)[key]))


def _spread(values: list[float]) -> str:
    return f"{_ms(statistics.median(values))} ({_ms(min(values))}–{_ms(max(values))})"


def _gb(value: float | None) -> str:
    return "–" if value is None else f"{value / 1e9:.3f}" if value < 1e9 else f"{value / 1e9:.2f}"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
