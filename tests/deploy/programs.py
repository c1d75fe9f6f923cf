"""The programs that read what is under deploy/."""

import shutil
import sys
from pathlib import Path

import pytest


def program(name: str, *, why: str) -> str:
    """Path of a program of this environment or of the system; the test is skipped where it is absent."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed ({why})")
    return found
