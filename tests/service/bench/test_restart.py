"""Timing of restarts: a service that does not come up ends the benchmark, and no process is left."""

import os
from pathlib import Path
from typing import Any

import pytest

from facemargin.bundle import Bundle
from facemargin.errors import FacemarginError
from service.bench import restart
from service.store import Store


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Those that the benchmark starts."""
    started, popen = list[Any](), restart.subprocess.Popen

    def noted(*args: Any, **more: Any) -> Any:
        started.append(popen(*args, **more))
        return started[-1]

    monkeypatch.setattr(restart.subprocess, "Popen", noted)
    return started


def in_its_place(monkeypatch: pytest.MonkeyPatch, folder: Path, program: str) -> None:
    """Start a Python program where the service would be."""
    (folder / "python").write_text(f"#!/bin/sh\nexec {restart.sys.executable} -c '{program}'\n")
    (folder / "python").chmod(0o700)
    monkeypatch.setattr(restart.sys, "executable", str(folder / "python"))


_NEVER_READY = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_error(503)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
print(f"serving on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""
_READY_AT_THE_THIRD = _NEVER_READY.replace(
    "self.send_error(503)",
    'Answer.asked = getattr(Answer, "asked", 0) + 1; '
    "self.send_error(503) if Answer.asked < 3 else (self.send_response(200), self.end_headers())",
)


@pytest.mark.parametrize("program", ["", "import time; time.sleep(600)", _NEVER_READY])
def test_a_service_that_does_not_get_ready_is_an_error_and_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[Any], program: str
) -> None:
    in_its_place(monkeypatch, tmp_path, program)
    monkeypatch.setattr(restart, "START_SECONDS", 1.0)
    with pytest.raises(FacemarginError, match="the service does not get ready; try: "):
        restart.Started(tmp_path, tmp_path / "store", None, snapshots=False)
    (process,) = processes
    assert process.returncode is not None


def test_one_that_is_not_ready_at_once_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[Any]
) -> None:
    in_its_place(monkeypatch, tmp_path, _READY_AT_THE_THIRD)
    with restart.Started(tmp_path, tmp_path / "store", None, snapshots=False) as started:
        assert started.seconds > 0
    assert processes[0].returncode is not None


def test_one_that_dies_before_its_snapshot_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[Any]
) -> None:
    in_its_place(monkeypatch, tmp_path, _READY_AT_THE_THIRD + "\n")
    with restart.Started(tmp_path, tmp_path / "store", None, snapshots=True) as started:
        os.kill(processes[0].pid, 9)
        with pytest.raises(FacemarginError, match="does not write a snapshot"):
            started.wait_for(lambda: False, "write a snapshot")


@pytest.mark.parametrize("master", [None, bytes(range(32))])
def test_a_small_store_is_measured(tmp_path: Path, tiny_bundle: Bundle, master: bytes | None) -> None:
    restart.fill(tmp_path / "store", master, faces=30, dim=16)
    timing = restart.measure(tiny_bundle.path, tmp_path / "store", master=master, snapshot=True, repeats=1)
    assert timing[:2] == (master is not None, True)
    assert 0.1 < timing.seconds[0] < 60
    assert "snapshot" in timing.line
    with Store(tmp_path / "store") as store:
        store.claim()  # nobody is left who serves it
