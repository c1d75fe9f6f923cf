"""Labelled pictures, still encoded: where the bytes of each lie, and whose face it shows.

Whatever the format of a data set, a picture in it is a file or byte ranges of one, so that loader threads share
nothing but paths and numbers.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import DataError, ImageError
from facemargin.preprocessing import DEFAULT_LIMITS, ImageLimits, decode, read_image

MOST_GAPS = 1000
"""`LabelledImages.gaps` names no more."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded picture: a whole file, or byte ranges of one.

    Attributes:
        name: what the data set calls it, such as ``Ann_0001.jpg``.
        path: the file.
        pieces: (offset, length) in bytes of the ranges that make the picture; None is the whole file.
        glue: bytes between two pieces.
    """

    name: str
    path: Path
    pieces: tuple[tuple[int, int], ...] | None = None
    glue: bytes = b""

    @classmethod
    def of_file(cls, path: Path) -> "Picture":
        """A whole file, under its own name."""
        return cls(path.name, path)

    def __str__(self) -> str:
        """As it is called in messages."""
        return str(self.path) if self.pieces is None else f"{self.path}, {self.name}"

    def read(self) -> bytes:
        """The encoded bytes.

        Raises:
            DataError: a file that cannot be read, or that ends before the picture does.
        """
        try:
            if self.pieces is None:
                return self.path.read_bytes()
            with self.path.open("rb") as file:
                return self.glue.join(self._piece(file, *piece) for piece in self.pieces)
        except OSError as error:
            raise DataError(f"{self}: cannot be read ({error.strerror or error})") from error

    def _piece(self, file: BinaryIO, offset: int, length: int) -> bytes:
        file.seek(offset)
        data = file.read(length)
        if len(data) < length:
            raise DataError(
                f"{self}: the file ends before this picture does ({length:,} bytes from {offset:,}); it is truncated, "
                "or its index belongs to another file"
            )
        return data

    def decode(self, limits: ImageLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
        """The pixels, uint8 (H, W, 3), RGB.

        Raises:
            DataError: as in `read`.
            ImageError: no accepted picture.
        """
        if self.pieces is None:
            return read_image(self.path, limits)
        try:
            return decode(self.read(), limits)
        except ImageError as error:
            raise type(error)(f"{self}: {error}") from error


class LazyPictures(Sequence[Picture], ABC):
    """Pictures that are made when they are asked for: tens of millions of them are arrays, not objects."""

    @abstractmethod
    def name(self, index: int) -> str:
        """`Picture.name` of one of them, 0 ≤ index < len, without touching its file."""

    def key(self, index: int) -> str:
        """What tells a picture from all others of its source, 0 ≤ index < len; its name, where that does."""
        return self.name(index)

    @abstractmethod
    def picture(self, index: int) -> Picture:
        """One of them, 0 ≤ index < len.

        Raises:
            DataError: the place where it should lie holds something else.
        """

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> list[Picture]: ...
    def __getitem__(self, index: int | slice) -> Picture | list[Picture]:
        """One picture, or a list of them for a slice."""
        rows = range(len(self))[index]
        return self.picture(rows) if isinstance(rows, int) else [self.picture(row) for row in rows]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Training images with their class labels.

    Attributes:
        pictures: N pictures; a sequence that may make each when it is asked for.
        labels: int64 (N,), class of each, 0 … C−1.
        people: name of each class.
        left_out: people dropped because they have too few images.
        gaps: numbers below the largest label that no picture has, as the source counts its people (its readers number
            them anew); at most the first thousand. Empty where the source gives names.
    """

    pictures: Sequence[Picture]
    labels: NDArray[np.int64]
    people: tuple[str, ...]
    left_out: int = 0
    gaps: tuple[int, ...] = ()

    def class_counts(self) -> list[int]:
        """Images of each person, in the order of the classes."""
        return [int(count) for count in np.bincount(self.labels, minlength=len(self.people))]

    def picture_name(self, index: int) -> str:
        """What the data set calls a picture, without touching its file."""
        return self.pictures.name(index) if isinstance(self.pictures, LazyPictures) else self.pictures[index].name

    def picture_key(self, index: int) -> str:
        """See `LazyPictures.key`."""
        return self.pictures.key(index) if isinstance(self.pictures, LazyPictures) else self.pictures[index].name

    def fingerprint(self) -> str:
        """SHA-256 over people, names of pictures and labels: equal for equal training sets wherever they lie.

        Names count as the bytes that they have on disk, also where these are no UTF-8.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:  # every checkpoint asks for it
        digest = hashlib.sha256()
        for name in self.people:
            digest.update(f"{name}\n".encode(errors="surrogateescape"))
        for index, label in enumerate(self.labels):
            digest.update(f"{label}\t{self.picture_name(index)}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


def label_gaps(numbers: Sequence[int]) -> tuple[int, ...]:
    """The whole numbers from 0 on that are missing below the largest of some ascending ones, at most a thousand.

    >>> label_gaps([0, 1, 4])
    (2, 3)
    """
    before = [-1, *numbers]
    missing = (range(low + 1, high) for low, high in zip(before, numbers, strict=False))
    return tuple(islice(chain.from_iterable(missing), MOST_GAPS))
