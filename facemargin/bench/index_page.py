"""The page of the benchmark of indexes, from the stored figures alone."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

_TITLES = ("index", "p50, ms", "p95, ms", "p99, ms", "recall@5", "rank 1", "build, s", "bytes a vector")


def table_of(found: dict[str, Any]) -> Table:
    """The figures for a terminal."""
    table = Table(caption=_machine(found))
    for title in ("gallery", "vectors", *_TITLES):
        table.add_column(title)
    for result in found["results"]:
        for row in result["rows"]:
            table.add_row(result["gallery"], f"{result['count']:,}", *_cells(row))
    return table


def write_page(found: dict[str, Any], output: Path) -> None:
    """Write the page."""
    made = "\n".join(f"- **{name}**: {g['made']}. {g['queries']} queries." for name, g in found["galleries"].items())
    parts = [_HEAD.format(machine=_machine(found), command=_command(found), made=made, dim=found["settings"]["dim"])]
    for result in found["results"]:
        parts += [f"## {result['count']:,} {result['gallery']}\n", *_markdown(_TITLES, map(_cells, result["rows"])), ""]
        parts += [_rank1(result), *_changes(result["rows"]), ""]
    parts += [_DEPTHS, *_depth_table(found["results"]), ""]
    output.write_text("\n".join(parts), encoding="utf-8")


_HEAD = """# Search of large galleries

One query at a time for the {dim}-dimensional best 5, by the index of the service (`segmented`) and by indexes of FAISS
alone, which take no ids and must not be changed while they are searched. Milliseconds: median of the repetitions,
lowest and highest in brackets; in each, all contenders took their turns on the same queries. HNSW has the smallest ef
of a doubling list at which it finds 99.8 %. Recall is the share of the exact best 5 that is found. Build is the time to
take all vectors, bytes are the resident memory that came with them (float32 vectors, codes, ids, graph).

{made}

Made by `{command}`, written from the figures in `index.json`. {machine}.
How the index works: [docs/index.md](../index.md).
"""

_DEPTHS = """## Candidates ranked in float32

Recall@5 of `segmented` by how many candidates of the codes are ranked in float32. It takes 2·k + 16: 26 for k = 5.
"""


def _cells(row: dict[str, Any]) -> list[str]:
    times = [_spread(row[key]) for key in ("p50_ms", "p95_ms", "p99_ms")]
    rank1 = "–" if row["rank1"] is None else f"{row['rank1']:.2%}"
    return [row["name"], *times, f"{row['recall']:.4f}", rank1, f"{row['build_s']:,.1f}", f"{row['bytes_each']:,.0f}"]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def _rank1(result: dict[str, Any]) -> str:
    exact = result["exact_rank1"]
    return "" if exact is None else f"Rank 1 of the exact search: {exact:.2%}.\n"


def _changes(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What the changes took that were made during searches."""
    for row in rows:
        if row["change_ms"]:
            kinds = zip(("p50", "p99", "longest"), zip(*row["change_ms"], strict=True), strict=True)
            times = ", ".join(f"{kind} {_spread(v)}" for kind, v in kinds)
            yield f"Changes of the index during searches (the service adds its commit), ms: {times}."


def _depth_table(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    depths = list(results[0]["recall_by_depth"])
    rows = [
        [f"{result['count']:,} {result['gallery']}", *(f"{result['recall_by_depth'][depth]:.4f}" for depth in depths)]
        for result in results
    ]
    return _markdown(("gallery", *depths), rows)


def _markdown(titles: Sequence[str], rows: Iterator[list[str]] | Sequence[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield "|" + "---|" * len(titles)
    for cells in rows:
        yield f"| {' | '.join(cells)} |"


def _machine(found: dict[str, Any]) -> str:
    machine, settings = found["machine"], found["settings"]
    return f"{machine['hardware']}, load {machine['load']} at the start; {settings['repeats']} repetitions"


def _command(found: dict[str, Any]) -> str:
    faces = "--images DIR --bundle DIR " if "faces" in found["galleries"] else ""
    return f"python -m facemargin.bench.index {faces}--json docs/benchmarks/index.json"
