"""The command that reckons: from figures of both benchmarks, from one of them, and from none."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from facemargin.bench.prices import Prices
from facemargin.bench.reckon import app, gallery_block, rates_block, training_block
from facemargin.bench.reckon_galleries import Machine
from facemargin.bench.reckon_training import HEAD_WAYS, Training

NAMES = ("galleries", "heads", "rates")
PAGE = "".join(f"<!-- measured {name} -->\nold\n<!-- end {name} -->\n" for name in NAMES)


def cell(cpu_ms: float, count: int) -> dict[str, Any]:
    searches = [{"clients": n, "cpu_ms": [cpu_ms], "p50_ms": [cpu_ms / 2]} for n in (1, 2)]
    return {"figures": {"memory_bytes": 2500 * count, "disk_bytes": 0, "load_s": 1.0, "searches": searches}}


def elsewhere(count: int) -> dict[str, Any]:
    """Of a server on another machine, whose memory and processor time nobody could see."""
    return {"figures": cell(1.0, count)["figures"] | {"memory_bytes": None, "disk_bytes": None}}


@pytest.fixture
def engines() -> dict[str, Any]:
    cells = {
        "faiss:segmented/100000/512": cell(7.0, 100_000),
        "faiss:segmented/1000000/512": cell(70.0, 1_000_000),
        "faiss:segmented/9000000/128": cell(1.0, 9_000_000),
        "faiss:exact/1000000/512": cell(200.0, 1_000_000),
        "milvus:/1000/512": cell(9.0, 1000),
        "milvus://host:1/1000000/512": elsewhere(1_000_000),
        "pgvector:/1000000/512": {"reason": "too long"},
    }
    return {"settings": {}, "machine": {"hardware": "A CPU, 2 cores, numpy 2"}, "cells": cells}


@pytest.fixture
def heads() -> dict[str, Any]:
    figures = {"cpu_s": [2.0, 1.0, 3.0], "extra_bytes": 6_300_000_000}
    cells = {
        "streaming/1000000/512": {"figures": figures},
        "streaming/10000/512": {"figures": figures},
        "dense/1000000/512": {"figures": figures},
    }
    return {"settings": {"batch": 128}, "machine": {}, "cells": cells}


def test_engines_are_reckoned_from_their_largest_points_of_512_dimensions(engines: dict[str, Any]) -> None:
    text = gallery_block(engines, Machine(), Prices())
    assert "| segmented | 1,000,000 | 2,500 | 70 | 1.00 | 0.002 |" in text
    # 2.5 TB in 409.6 GB each: 7 shards; 100 searches/s · 10 s / 0.6 / 64: 27 copies
    assert "| segmented | 1,000,000,000 | 100 | 7 × 27 | 143 × | 156 | 7,000 |" in text
    assert "exact" not in text
    assert "milvus" not in text
    assert "64 vCPUs and 512 GB" in text


def test_memory_formulas_stand_beside_what_was_measured(heads: dict[str, Any]) -> None:
    text = training_block(heads, Training(1), Prices())
    assert "| streaming | 512 | 1,000,000 | 6.14 | 6.30 |" in text
    assert "| streaming | 512 | 10,000 |" not in text
    assert "dense" not in text
    for way in HEAD_WAYS:
        assert f"| {way.name} | 100,000,000 |" in text
    hours = 2.0 / (128 * 1e6 * 512) * 20 * 1e8 * 1e8 * 512 / 3600
    assert f"{hours:,.0f} |" in text


def test_rates_reach_from_ten_thousand_to_a_billion() -> None:
    assert "| 1,000,000,000 | 1.0e-11 | 3.0e+12 | 2,443,349 |" in rates_block()


def test_the_page_is_filled_from_what_there_is(tmp_path: Path, engines: dict[str, Any], heads: dict[str, Any]) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    options = ["--engines", str(tmp_path / "e.json"), "--training", str(tmp_path / "t.json"), "--page", str(page)]
    assert CliRunner().invoke(app, options).exit_code == 0
    assert page.read_text().count("Nothing is measured yet to reckon from") == 2
    (tmp_path / "e.json").write_text(json.dumps(engines))
    (tmp_path / "t.json").write_text(json.dumps(heads))
    assert CliRunner().invoke(app, [*options, "--vcpu-hour", "1", "--gpu-hour", "7"]).exit_code == 0
    text = page.read_text()
    assert "Nothing is measured" not in text
    assert "1 USD a vCPU hour" in text
    assert "for 7 USD an hour" in text


def test_without_a_page_the_tables_are_printed_and_bad_files_end_with_one_line(tmp_path: Path) -> None:
    options = ["--engines", str(tmp_path / "e.json"), "--training", str(tmp_path / "t.json")]
    assert "impostor pairs" in CliRunner().invoke(app, options).output
    (tmp_path / "e.json").write_text("[]")
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2
    assert "e.json cannot be read" in " ".join(result.output.split())
