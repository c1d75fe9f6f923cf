"""The files that grow with a run, cut back where it goes on: ``loss.csv`` and ``unreadable.txt``.

A run that is killed has written lines of steps after its last checkpoint; a resumed one does those steps again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from training.whole_file import write_whole


def open_trace(path: Path, step: int) -> TextIO:
    """Open the loss trace for the lines after a step.

    One line ``step,loss`` a step, to the last digit; a step whose batch held too few readable pictures has no loss.

    Args:
        path: of the trace.
        step: steps done.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: step + 1] if path.exists() and step else []
    write_whole(path, "".join(lines) or "step,loss\n")
    return path.open("a", encoding="utf-8")


class UnreadablePictures:
    """Names the pictures that were left out: ``epoch``, ``step`` and ``path: reason``, between tabs, a line each."""

    def __init__(self, path: Path, step: int) -> None:
        """Go on after a step; the file appears with the first picture."""
        self.path = path
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and int(line.split("\t")[1]) <= step]
            write_whole(path, "".join(kept))

    def add(self, epoch: int, step: int, pictures: Sequence[str]) -> None:
        """Append the pictures of one step; epochs and steps count from 1."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{epoch}\t{step}\t{' '.join(picture.split())}\n" for picture in pictures)
