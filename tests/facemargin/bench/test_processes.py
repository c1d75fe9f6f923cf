"""What /proc tells of other processes, against processes whose memory and work are known."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from facemargin.bench.processes import cpu_seconds, family, parent, peak_bytes, proportional_bytes

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")

MB = 2**20
WORK = """
import subprocess, sys, time
held = bytearray(b"x") * (50 * 2**20)
end = time.process_time() + 0.3
while time.process_time() < end: pass
child = subprocess.Popen([sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"])
time.sleep(60)
"""


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    os.killpg(process.pid, 9)
    process.wait()
    process.stdout.close()


def test_a_family_is_a_process_and_its_children(worker: subprocess.Popen[str]) -> None:
    found = family(worker.pid)
    assert found[0] == worker.pid
    assert len(found) == 2
    assert set(found) <= set(family(os.getpid()))
    assert parent(found[1], Path(f"/proc/{found[1]}/comm").read_text().strip()) == worker.pid
    assert parent(found[1], "postgres") is None
    assert family(2**22 + 1) == []


def test_memory_and_work_are_those_that_were_done(worker: subprocess.Popen[str]) -> None:
    found = family(worker.pid)
    assert 50 * MB < proportional_bytes(found) < 100 * MB
    assert 0.25 < cpu_seconds(found) < 5
    assert proportional_bytes([2**22 + 1]) == cpu_seconds([2**22 + 1]) == 0


def test_the_peak_stays_when_memory_is_given_back() -> None:
    held = bytearray(b"x") * (30 * MB)
    peak = peak_bytes()
    del held
    assert peak_bytes() > 0.99 * peak  # the kernel counts pages in batches
    assert peak > 30 * MB
