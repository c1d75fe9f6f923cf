"""What a power failure must not undo: the bytes of a file, and the names in a folder."""

import os
from pathlib import Path
from typing import IO, Any


def flush(file: IO[Any]) -> None:
    """See to it that a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """See to it that the names in a folder are on the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
