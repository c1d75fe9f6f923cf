"""Memory that is free goes back to the system, in a process of its own, since it is set for a whole process."""

import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import sys, threading
from pathlib import Path
from service.memory import return_freed_memory, share_one_store

def resident():
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmRSS"))

def pictures():
    for _ in range(4):
        found = b"x" * 24_000_000  # glibc takes the second one from its own store, and keeps it
        del found

if sys.argv[1] == "returned":
    assert share_one_store()
before, done, end = resident(), threading.Event(), threading.Event()
worker = threading.Thread(target=lambda: (pictures(), done.set(), end.wait()))
worker.start()
done.wait()
if sys.argv[1] == "returned":
    assert return_freed_memory()
print((resident() - before) // 1024)
end.set()
"""


def grown(way: str) -> int:
    """MiB that a thread still holds after some pictures."""
    run = subprocess.run([sys.executable, "-c", _SCRIPT, way], capture_output=True, text=True, check=True)
    return int(run.stdout)


def test_what_a_thread_frees_goes_back_to_the_system() -> None:
    if not Path("/proc/self/status").exists() or grown("kept") < 10:
        pytest.skip("this allocator returns memory by itself, or there is no /proc")
    assert grown("returned") < 4
