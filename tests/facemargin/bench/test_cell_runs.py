"""Cells in processes of their own: what is begun, what is not, and what becomes of those that fail."""

import io
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from facemargin.bench import cell_runs
from facemargin.bench.cell_runs import (
    Forecast,
    Run,
    available_bytes,
    grown,
    in_own_process,
    obstacle,
    parse_sizes,
    stopped_by_sigterm,
)
from facemargin.bench.cells import Ledger
from facemargin.errors import ConfigError

MODULE = """
import json, os, subprocess, sys, time
cell = json.loads(sys.argv[2])
if cell.get("sleep"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    open(cell["sleep"], "w").write(str(child.pid))
    time.sleep(60)
if cell.get("kill"):
    os.kill(os.getpid(), 9)
print("something else")
if cell["x"]:
    print(json.dumps({"double": 2 * cell["x"]}))
print("bye")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_cell.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "a_cell"


def test_figures_are_found_among_what_libraries_print(module: str) -> None:
    outcome = in_own_process(module, {"x": 21}, 60)
    assert outcome["figures"] == {"double": 42}
    assert 0 <= outcome["seconds"] < 60


def test_a_cell_that_fails_leaves_its_reason(module: str) -> None:
    assert in_own_process(module, {}, 60)["reason"] == "KeyError: 'x'"
    assert in_own_process(module, {"x": 0}, 60)["reason"] == "its process ended without figures"
    assert in_own_process(module, {"kill": 1}, 60)["reason"] == "ended by SIGKILL, for memory perhaps"


def test_a_cell_that_takes_too_long_is_ended_with_its_children(module: str, tmp_path: Path) -> None:
    outcome = in_own_process(module, {"sleep": str(tmp_path / "pid")}, 2)
    assert outcome == {"reason": "not done after 0.0 minutes", "seconds": 2}
    child = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 10
    while (cmdline := Path(f"/proc/{child}/cmdline")).exists() and cmdline.read_bytes():  # empty once it is a zombie
        assert time.monotonic() < end
        time.sleep(0.05)


def test_sigterm_leaves_a_run_as_an_exception_does() -> None:
    before, left = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with stopped_by_sigterm():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                left.append("the folder is removed")

    with pytest.raises(SystemExit, match="143"):
        run()
    assert left
    assert signal.getsignal(signal.SIGTERM) == before


class Measures:
    """Stands for processes: notes what they are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[dict[str, Any]] = []
        monkeypatch.setattr(cell_runs, "in_own_process", self)

    def __call__(self, module: str, cell: dict[str, Any], limit_s: float) -> dict[str, Any]:
        self.told.append(cell)
        return {"reason": "no luck", "seconds": 1} if cell["x"] == 3 else {"figures": cell, "seconds": 1}


def run_of(path: Path, minutes: float = 1) -> Run:
    limits = {"cell_minutes": minutes, "budget_minutes": 10}
    return Run(Ledger(path, {}, {}), "m", **limits, console=Console(file=io.StringIO()))


def test_a_run_goes_on_where_the_last_one_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measures = Measures(monkeypatch)
    for _ in range(2):
        run = run_of(tmp_path / "cells.json")
        for x in (1, 2, 3):
            run.measure(f"way/{x}/1", Forecast(), nullcontext({"x": x}))
    assert [cell["x"] for cell in measures.told] == [1, 2, 3, 3]
    assert run.ledger.found["cells"]["way/3/1"]["reason"] == "no luck"


def test_what_would_take_too_long_or_too_much_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measures = Measures(monkeypatch)
    run = run_of(tmp_path / "cells.json")
    run.measure("way/1/1", Forecast(61.0), nullcontext({"x": 1}))
    run.measure("way/2/1", Forecast(1.0, 1e18), nullcontext({"x": 2}))
    assert measures.told == []
    cells = run.ledger.found["cells"]
    assert cells["way/1/1"]["reason"] == "some 1.0 minutes by a smaller one; 1.0 minutes were allowed"
    assert "needs some 1000000000 GB" in cells["way/2/1"]["reason"]


def test_the_budget_of_a_run_limits_its_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measures = Measures(monkeypatch)
    run = Run(Ledger(tmp_path / "c.json", {}, {}), "m", cell_minutes=60, budget_minutes=0, console=Console(quiet=True))
    run.measure("way/1/1", Forecast(), nullcontext({"x": 1}))
    assert measures.told == []
    assert "0.0 minutes were allowed" in run.ledger.found["cells"]["way/1/1"]["reason"]


def test_a_forecast_grows_with_size_but_for_what_is_fixed() -> None:
    figures = {"growing_s": 10.0, "fixed_s": 7.0}
    assert grown(figures, 3.0, 1.0) == Forecast(17.0, 3.0)
    tenfold = grown(figures, 3.0, 10.0)
    assert 107 < tenfold.seconds < 207
    assert tenfold.memory_bytes == 30.0


def test_memory_is_no_obstacle_where_it_is_there() -> None:
    there = available_bytes()
    if there is None:
        pytest.skip("this system does not tell its memory")
    assert obstacle(Forecast(1.0, 0.5 * there), 2.0) is None
    assert "GB were available" in (obstacle(Forecast(1.0, 2.0 * there), 2.0) or "")


@given(st.lists(st.tuples(st.integers(5, 10**9), st.integers(1, 4096)), min_size=1, max_size=6))
def test_sizes_are_read_as_they_are_written_smaller_ones_first(sizes: list[tuple[int, int]]) -> None:
    text = ", ".join(f"{count}@{dim}" if dim != 512 else f"{count}" for count, dim in sizes)
    found = parse_sizes(text, least=5)
    assert sorted(found) == sorted(sizes)
    assert [a * b for a, b in found] == sorted(a * b for a, b in sizes)


@pytest.mark.parametrize("text", ["", "4", "ten", "10@", "10@x", "10@0", "-10", "10,", "1e3", "10@5@5"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--sizes has"):
        parse_sizes(text, least=5)
