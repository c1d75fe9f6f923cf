"""Files that are there with all of their text or not at all, so that a kill leaves no torn one."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a UTF-8 text file beside its place, then rename it."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def as_csv(lines: Iterable[Sequence[object]]) -> str:
    """Lines of cells as CSV text; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
