"""Columns instead of objects: texts, people and pictures of large sets as a few arrays."""

import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import DataError
from training.data.pictures import LabelledImages, LazyPictures, Picture, label_gaps


@dataclass(frozen=True, eq=False)
class Texts:
    """Many short texts in one piece of memory.

    Attributes:
        content: all of them, one after another, as file names are encoded.
        ends: int64 (N,), where each ends.
    """

    content: bytes
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        """Take them from an iterable, one at a time."""
        column = TextColumn()
        for text in texts:
            column.add(text)
        return column.finish()

    def __len__(self) -> int:
        """How many."""
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        """One of them, 0 ≤ index < len."""
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.content[start : self.ends[index]])


class TextColumn:
    """Collects texts."""

    def __init__(self) -> None:
        """Start empty."""
        self.content, self.ends = bytearray(), array("q")

    def __len__(self) -> int:
        """How many so far."""
        return len(self.ends)

    def add(self, text: str) -> None:
        """The next one."""
        self.content += os.fsencode(text)
        self.ends.append(len(self.content))

    def finish(self) -> Texts:
        """All of them."""
        return Texts(bytes(self.content), np.array(self.ends, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class FilePictures(LazyPictures):
    """Whole files.

    Attributes:
        root: folder that the paths are relative to.
        paths: of each file, with forward slashes.
    """

    root: Path
    paths: Texts

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """The file's name."""
        return self.paths[index].rpartition("/")[2]

    def key(self, index: int) -> str:
        """Its path below the root."""
        return self.paths[index]

    def picture(self, index: int) -> Picture:
        """The file."""
        return Picture.of_file(self.root / self.paths[index])


@dataclass(frozen=True, eq=False)
class Subset(LazyPictures):
    """Some pictures of a data set.

    Attributes:
        images: the data set.
        rows: int64 (N,), the pictures kept.
    """

    images: LabelledImages
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        """Number of pictures kept."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """As the data set says."""
        return self.images.picture_name(int(self.rows[index]))

    def picture(self, index: int) -> Picture:
        """As the data set says."""
        return self.images.pictures[int(self.rows[index])]


class Chain(LazyPictures):
    """Several sequences of pictures, one after another."""

    def __init__(self, parts: Sequence[LazyPictures]) -> None:
        """Join them in this order."""
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        """Number of pictures of all parts."""
        return int(self.ends[-1]) if self.parts else 0

    def name(self, index: int) -> str:
        """As its part says."""
        part, row = self._place(index)
        return part.name(row)

    def picture(self, index: int) -> Picture:
        """As its part says."""
        part, row = self._place(index)
        return part.picture(row)

    def _place(self, index: int) -> tuple[LazyPictures, int]:
        number = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[number], index - (int(self.ends[number - 1]) if number else 0)


class PersonColumn:
    """Whose face each picture shows, told by a text each: a name or a whole number."""

    def __init__(self) -> None:
        """Start empty."""
        self.codes = array("q")
        self.known: dict[str, int] = {}

    def add(self, person: str) -> None:
        """The person of the next picture."""
        self.codes.append(self.known.setdefault(person, len(self.known)))

    def finish(self, where: Path | str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Names of the people, sorted (as numbers where all of them are numbers), and int64 (N,) labels into them.

        Raises:
            DataError: no picture, or all are numbers and one is not a whole number from 0 on.
        """
        if not self.codes:
            raise DataError(f"{where} has no pictures")
        numbers = _numbers(list(self.known))
        if numbers is None:
            names = list(self.known)
            people = sorted(names)
        else:
            self._require_whole(numbers, where)
            names = [
                text if text.isdecimal() else str(int(number)) for text, number in zip(self.known, numbers, strict=True)
            ]
            people = sorted(set(names), key=lambda name: (int(name), name))
        place = {name: label for label, name in enumerate(people)}
        labels = np.array([place[name] for name in names], dtype=np.int64)[np.array(self.codes, dtype=np.int64)]
        return tuple(people), labels

    def _require_whole(self, numbers: list[float], where: Path | str) -> None:
        for code, (text, number) in enumerate(zip(self.known, numbers, strict=True)):
            if not is_label(number):
                row = self.codes.index(code) + 1
                raise DataError(f"{where}: the label '{text}' of picture {row:,} is not a whole number from 0 on")


def gaps_of(people: Sequence[str]) -> tuple[int, ...]:
    """`LabelledImages.gaps` of people whom a `PersonColumn` names; none where a name is no plain number.

    Numbers with leading zeros are names of folders, not counted classes.
    """
    if not all(name.isdecimal() and name == str(int(name)) for name in people):
        return ()
    return label_gaps([int(name) for name in people])


def is_label(number: float) -> bool:
    """Whether a number can be a class: whole, finite, not negative, and small enough for a float to hold it."""
    return 0 <= number < 2**53 and number == int(number)


def _numbers(texts: Iterable[str]) -> list[float] | None:
    """All of them as numbers; None where one is not."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return None
