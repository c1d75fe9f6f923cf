"""Cells of a benchmark of growth are measured in turn, each in a process of its own.

What would take too long or too much memory, by what smaller cells took, is not begun; its cell keeps the reason instead
of figures, and is tried again in the next run.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from rich.console import Console

from facemargin.bench.cells import Ledger
from facemargin.errors import ConfigError

DIM = 512
"""Length of vectors where no other is named."""
GROWTH = 1.15
"""Exponent by which work is taken to grow with size in a forecast; between that of a scan and that of a graph."""
MEMORY_SHARE = 0.85
"""Share of the memory now available that a cell may be expected to need."""


class Forecast(NamedTuple):
    """What a cell is expected to take; a minute and nothing where no smaller one is measured."""

    seconds: float = 60.0
    memory_bytes: float = 0.0


class Run:
    """One run of a benchmark, over as many cells as its time allows.

    Args:
        ledger: what was measured before, and where what is measured goes.
        module: measures a cell: ``python -m MODULE --cell JSON``.
        cell_minutes, budget_minutes: limits of a cell and of the run.
        console: for what is going on.
    """

    def __init__(
        self, ledger: Ledger, module: str, *, cell_minutes: float, budget_minutes: float, console: Console
    ) -> None:
        self.ledger, self._module, self._console = ledger, module, console
        self._cell_s, self._end = 60 * cell_minutes, time.monotonic() + 60 * budget_minutes

    def measure(self, key: str, forecast: Forecast, cell: AbstractContextManager[dict[str, Any]]) -> None:
        """Measure a cell, or note why not; one that has figures is left as it is.

        Args:
            key: of the ledger.
            forecast: what it is expected to take.
            cell: gives what the module is told, and stays open meanwhile.
        """
        if self.ledger.figures(key) is not None:
            return
        allowed = min(self._cell_s, self._end - time.monotonic())
        reason = obstacle(forecast, allowed)
        self._console.print(f"{key}: {reason or f'some {minutes(forecast.seconds)}'}", highlight=False)
        outcome: dict[str, Any] = {"reason": reason}
        if reason is None:
            with cell as told:
                outcome = in_own_process(self._module, told, allowed)
            self._console.print(f"    {minutes(outcome['seconds'])}: {outcome.get('reason', 'done')}", highlight=False)
        self.ledger.keep(key, outcome)


def parse_sizes(text: str, *, least: int) -> list[tuple[int, int]]:
    """Sizes like ``10000,1000000@128``: how many, and their dimension, `DIM` where none is given; smaller ones first.

    Raises:
        ConfigError: something else, or fewer than ``least``.

    >>> parse_sizes("1000000@128,10000", least=5)
    [(10000, 512), (1000000, 128)]
    """
    found = []
    for part in text.split(","):
        count, at, dim = part.strip().partition("@")
        if not (count.isdecimal() and int(count) >= least and (dim.isdecimal() and int(dim) if at else True)):
            raise ConfigError(f"--sizes has {part!r}; write numbers of at least {least}, like 10000,1000000@128")
        found.append((int(count), int(dim or DIM)))
    return sorted(found, key=lambda size: (size[0] * size[1], size[0]))


def in_own_process(module: str, cell: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """Run ``python -m MODULE --cell JSON``, whose last line in braces is its figures, and say how it went.

    Args:
        module: what measures the cell.
        cell: what to measure.
        limit_s: seconds after which it is ended, with all processes that it started.

    Returns:
        ``figures`` or ``reason``, and ``seconds``.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", module, "--cell", json.dumps(cell)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            output, errors = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return {"reason": f"not done after {minutes(limit_s)}", "seconds": round(limit_s)}
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    seconds = round(time.monotonic() - start, 1)
    if process.returncode:
        return {"reason": _why(process.returncode, errors), "seconds": seconds}
    told = [line for line in output.splitlines() if line.startswith("{")]
    if not told:
        return {"reason": "its process ended without figures", "seconds": seconds}
    return {"figures": json.loads(told[-1]), "seconds": seconds}


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """A block that SIGTERM leaves as Ctrl-C does, so that servers are stopped and folders removed."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def grown(figures: dict[str, Any], memory_bytes: float, growth: float) -> Forecast:
    """What a cell takes that is ``growth`` times as large as one that was measured.

    Args:
        figures: with ``growing_s``, what grows with size, and ``fixed_s``, what does not, or to a limit.
        memory_bytes: of the measured one.
        growth: ratio of the sizes.
    """
    return Forecast(figures["growing_s"] * growth**GROWTH + figures["fixed_s"], memory_bytes * growth)


def obstacle(forecast: Forecast, most_s: float) -> str | None:
    """Why a cell is not begun, or None."""
    if forecast.seconds > most_s:
        return f"some {minutes(forecast.seconds)} by a smaller one; {minutes(max(most_s, 0))} were allowed"
    there = available_bytes()
    if there is not None and forecast.memory_bytes > MEMORY_SHARE * there:
        return (
            f"needs some {forecast.memory_bytes / 1e9:.0f} GB of memory by a smaller one; {there / 1e9:.0f} GB were "
            "available"
        )
    return None


def minutes(seconds: float) -> str:
    """Seconds in words.

    >>> minutes(30), minutes(1200)
    ('0.5 minutes', '20 minutes')
    """
    return f"{seconds / 60:.1f} minutes" if seconds < 600 else f"{seconds / 60:.0f} minutes"


def available_bytes() -> int | None:
    """Memory that a new process could have; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _why(code: int, errors: str) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}" + (", for memory perhaps" if -code == signal.SIGKILL else "")
    lines: Sequence[str] = [line for line in errors.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"ended with {code}"
