"""What a power failure must not undo: the bytes of a file, and the names in a folder."""

import os
from pathlib import Path
from typing import IO, Any


def flush(file: IO[Any]) -> None:
    """See to it that an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_path(path: Path) -> None:
    """See to it that a closed file, or the names in a folder, are on the disk.

    Only POSIX systems can open a folder; elsewhere its names are left to the system.
    """
    folder = path.is_dir()
    if folder and os.name != "posix":
        return
    number = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)
