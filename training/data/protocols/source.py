"""What a user points at: the files that a protocol is read from, and what happens to pictures that are not there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facemargin.errors import ConfigError, DataError

OnProblem = Literal["fail", "skip"]
"""What a picture that is missing or unreadable does: end the evaluation, or leave its pairs out and be counted."""

SHOWN = 5
"""How many of the pictures that are at fault a message names."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a protocol and its pictures lie.

    Attributes:
        images: folder of the pictures, or a ``.bin`` file.
        pairs: the list of pairs, where the protocol has one.
        meta: folder of IJB's lists.
        folds: the folds to use; None takes all.
        aligned: the pictures are aligned crops.
        missing: what pairs do whose picture is not there.
    """

    images: Path
    pairs: Path | None = None
    meta: Path | None = None
    folds: tuple[int, ...] | None = None
    aligned: bool = False
    missing: OnProblem = "fail"

    def list_file(self, what: str) -> Path:
        """The list of pairs.

        Raises:
            ConfigError: none was given.
        """
        if self.pairs is None:
            raise ConfigError(f"--pairs is needed: {what}")
        return self.pairs

    def first_fields(self) -> list[str]:
        """Fields of the first line of the list that is not blank; none where there is no readable list."""
        try:
            lines = read_lines(self.pairs) if self.pairs is not None and self.pairs.is_file() else []
        except DataError:
            return []
        return fields(lines[0][1]) if lines else []


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file (UTF-8) that are not blank, with their numbers from 1.

    Raises:
        DataError: a file that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {path}: {error}") from error
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def fields(line: str) -> list[str]:
    """Fields separated by tabs where the line has one, so that names may hold blanks; else by blanks."""
    return [field.strip() for field in line.strip().split("\t")] if "\t" in line.strip() else line.split()
