"""The benchmark of a training step by classes: what is measured, on one process and on two, and the page of it."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from facemargin.bench.cell_runs import Forecast
from facemargin.bench.reckon_training import HEAD_WAYS
from facemargin.errors import ConfigError
from training.bench.scale import app, forecast, parse_ways
from training.bench.scale_cell import WAYS, Cell, measure
from training.bench.scale_page import measured, write_block


@pytest.mark.parametrize("way", [name for name, way in WAYS.items() if way.ranks == 1])
def test_every_way_can_be_measured(way: str) -> None:
    found = measure(Cell(way, 500, 8, batch=6, repeats=2, threads=torch.get_num_threads()))
    assert len(found["seconds"]) == len(found["cpu_s"]) == 2
    assert min(found["seconds"]) > 0
    assert found["first_s"] > 0
    assert found["ranks"] == 1


def test_memory_is_that_of_rows_momentum_and_gradient() -> None:
    classes, dim = 40_000, 128
    found = measure(Cell("streaming", classes, dim, batch=4, repeats=1, threads=torch.get_num_threads()))
    if found["extra_bytes"] is None:
        pytest.skip("this system has no /proc/self/clear_refs")
    three = 3 * 4 * classes * dim
    assert 0.9 * three < found["extra_bytes"] < 1.5 * three + 30e6


@pytest.mark.slow
def test_shards_are_measured_together() -> None:
    found = measure(Cell("streaming, 2 shards", 2000, 8, batch=6, repeats=2, threads=2))
    assert found["ranks"] == 2
    assert len(found["seconds"]) == len(found["cpu_s"]) == 2


def test_what_is_reckoned_is_measured() -> None:
    assert {way.name for way in HEAD_WAYS} <= set(WAYS)


def test_ways_are_known_names() -> None:
    assert parse_ways("all") == list(WAYS)
    assert parse_ways("sampled, a tenth; dense") == ["sampled, a tenth", "dense"]
    with pytest.raises(ConfigError, match="--ways has 'nce'; write some of dense; streaming"):
        parse_ways("dense;nce")


def cell(seconds: list[float], **changes: Any) -> dict[str, Any]:
    found = {"build_s": 1.0, "first_s": 2.0, "seconds": seconds, "cpu_s": [2 * s for s in seconds], "ranks": 1}
    return {"figures": found | {"extra_bytes": 1_500_000_000, "growing_s": 10.0, "fixed_s": 0.0} | changes}


def test_a_cell_is_expected_to_grow_from_fewer_classes_of_the_same_dimension() -> None:
    found = {"cells": {"dense/100/8": cell([1.0]), "dense/1000/8": cell([1.0]), "dense/100/9": {"reason": "x"}}}
    assert forecast(found, "dense", 100, 8) == Forecast()
    assert forecast(found, "dense", 200, 9) == Forecast()
    seconds, memory = forecast(found, "dense", 10_000, 8)
    assert 100 < seconds < 200
    assert memory == 15e9


def test_the_block_has_each_cell_and_each_reason(tmp_path: Path) -> None:
    cells = {
        "dense/1000/8": cell([0.05, 0.07, 0.06]),
        "streaming, 2 shards/1000/16": cell([1.5, 1.25, 2.5], extra_bytes=None),
        "dense/100000/8": {"reason": "needs some 99 GB"},
    }
    machine = {"hardware": "a machine", "torch": "2"}
    found = {"settings": {"batch": 4, "repeats": 3, "threads": 2}, "machine": machine, "cells": cells}
    text = write_block(found, tmp_path / "p.png", "benchmarks/p.png")
    assert "| dense | 8 | 1,000 | 60.0 (50.0–70.0) | 120 | 2.00 | 1.0 | 1.50 |" in text
    assert "| streaming, 2 shards | 16 | 1,000 | 1,500 (1,250–2,500) | 3,000 | 2.00 | 1.0 | – |" in text
    assert "- dense, C = 100,000, D = 8: needs some 99 GB." in text
    assert text.index("2 shards | 16") < text.index("dense | 8")
    assert (tmp_path / "p.png").stat().st_size > 10_000
    assert statistics.median(measured(found)[0]["seconds"]) == 1.5


def test_without_figures_the_block_says_so(tmp_path: Path) -> None:
    found = {"settings": {}, "machine": {}, "cells": {}}
    assert "Nothing is measured" in write_block(found, tmp_path / "p.png", "p.png")


def test_a_tiny_run_fills_the_page(tmp_path: Path) -> None:
    page, figures = tmp_path / "page.md", tmp_path / "benchmarks" / "t.json"
    page.write_text("<!-- measured training -->\n<!-- end training -->\n")
    options = ["--ways", "sampled, a tenth", "--sizes", "300@8", "--batch", "4", "--repeats", "1"]
    result = CliRunner().invoke(app, [*options, "--json", str(figures), "--page", str(page)])
    assert result.exit_code == 0, result.output
    assert "figures" in json.loads(figures.read_text())["cells"]["sampled, a tenth/300/8"]
    assert "| sampled, a tenth | 8 | 300 |" in page.read_text()
    assert "(benchmarks/t.png)" in page.read_text()


def test_what_cannot_be_asked_for_ends_with_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--ways", "nce", "--json", str(tmp_path / "t.json")])
    assert result.exit_code == 2
    assert "error: --ways has 'nce'" in result.output
