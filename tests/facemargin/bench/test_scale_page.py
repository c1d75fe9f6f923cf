"""Tables of the benchmark of engines, from figures that are written here."""

from pathlib import Path
from typing import Any

from facemargin.bench.scale_page import measured, write_block


def figures(**changes: Any) -> dict[str, Any]:
    searches = [
        {"clients": n, "searches": [9] * 3, "p50_ms": [3.0, 1.0, 2.0], "p99_ms": [30.0, 10.0, 200.0]}
        | {"per_second": [100.0 * n] * 3, "cpu_ms": [n * 1.5] * 3}
        for n in (1, 2)
    ]
    rates = {"count": 3, "per_second": 12.0, "p50_ms": 1.0, "p99_ms": 4.25}
    found = {"load_s": 2.0, "memory_bytes": 2_500_000, "peak_bytes": 1, "disk_bytes": 3_000_000_000, "recall": 0.9876}
    found |= {"recall_queries": 9}
    return found | {"searches": searches, "add": rates, "remove": rates, "notes": {"faiss": "1"}} | changes


def found_of(cells: dict[str, Any]) -> dict[str, Any]:
    settings = {"queries": 9, "repeats": 3, "writes": 3, "seconds": 2.0, "k": 5, "gallery": "made-up people"}
    return {"settings": settings, "machine": {"hardware": "a machine"}, "cells": cells}


def test_the_block_has_each_cell_with_its_figures_and_each_reason(tmp_path: Path) -> None:
    cells = {
        "pgvector:/1000/512": {"figures": figures(notes={"pgvector": "0.8"})},
        "faiss:segmented/1000/128": {"figures": figures()},
        "faiss:segmented/1000/512": {"figures": figures()},
        "milvus://host:1/db/1000/512": {"figures": figures(memory_bytes=None, disk_bytes=None, recall_queries=4)},
        "pgvector:/9000/512": {"reason": "not done after 3 minutes"},
    }
    text = write_block(found_of(cells), tmp_path / "p.png", "benchmarks/p.png")
    assert "| segmented | 512 | 1,000 | 0.003 | 2,500 | 3.00 | 2.0 | 500 | 12 | 4.25 | 12 | 4.25 |" in text
    assert (
        "| pgvector | 512 | 1,000 | 2.00 (1.00–3.00) | 30.0 (10.0–200) | 2.00 (1.00–3.00) | 30.0 (10.0–200) | 200 |"
        " 3.00 | 0.9876 |" in text
    )
    assert "| milvus://host:1/db | 512 | 1,000 | – | – | – | 2.0 |" in text
    assert text.count("| 0.9876 (4) |") == 1
    assert "- pgvector, 9,000 × 512: not done after 3 minutes." in text
    assert "a machine. Made-up people. 9 queries" in text
    assert "faiss 1" in text
    assert "pgvector 0.8" in text
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_cells_are_in_the_order_of_dimension_engine_and_size() -> None:
    keys = ["b:/100/8", "a:/100/8", "b:/20/8", "b:/20/16"]
    rows = measured(found_of({key: {"figures": figures()} for key in keys} | {"c:/1/1": {"reason": "x"}}))
    assert [(row["engine"], row["count"], row["dim"]) for row in rows] == [
        *[("b:", 20, 16), ("b:", 20, 8), ("b:", 100, 8)],
        ("a:", 100, 8),
    ]


def test_without_figures_the_block_says_so_and_nothing_is_drawn(tmp_path: Path) -> None:
    assert "Nothing is measured" in write_block(found_of({"a:/1/1": {"reason": "x"}}), tmp_path / "p.png", "p.png")
    assert list(tmp_path.iterdir()) == []
