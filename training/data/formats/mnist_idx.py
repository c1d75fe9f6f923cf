"""MNIST's idx files as pictures: raw grey images and a byte a label; each picture is encoded as PNG when it is read.

A folder stands for its training part; a file ``…-images-idx3-ubyte`` for that file and the labels beside it. Only here
pixels are stored, not encoded pictures, so reading encodes them and writing decodes them; both without loss.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facemargin.errors import DataError
from facemargin.preprocessing import decode
from training.data.formats.base import Entry
from training.data.idx import read_idx, write_idx
from training.data.pictures import LabelledImages, LazyPictures, Picture

_PART = "train"
_MARKS = ("-images-idx3-ubyte", "-images.idx3-ubyte")


@dataclass(frozen=True, slots=True)
class PixelPicture(Picture):
    """A picture that is stored as pixels; its encoded bytes are a PNG of them.

    Attributes:
        rows: bytes of the pixels, row by row.
        width: of a row.
    """

    rows: bytes = b""
    width: int = 0

    def read(self) -> bytes:
        """The PNG."""
        pixels = np.frombuffer(self.rows, np.uint8).reshape(-1, self.width)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class PixelPictures(LazyPictures):
    """The images of an idx file, in memory.

    Attributes:
        path: the file.
        images: uint8 (N, H, W).
    """

    path: Path
    images: NDArray[np.uint8]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def name(self, index: int) -> str:
        """Its number, from 0, with five digits."""
        return f"{index:05d}"

    def picture(self, index: int) -> Picture:
        """One image."""
        image = self.images[index]
        return PixelPicture(self.name(index), self.path, ((0, 0),), rows=image.tobytes(), width=image.shape[1])


class MnistIdx:
    """The format ``mnist-idx``."""

    grouped = False

    def recognises(self, path: Path) -> bool:
        """A file of idx images, or a folder with one."""
        return any(mark in path.name for mark in _MARKS) or (path.is_dir() and _images_in(path) is not None)

    def read(self, path: Path, *, root: Path | None = None) -> LabelledImages:
        """See `Format.read`."""
        images_at = _images_in(path) if path.is_dir() else path
        if images_at is None:
            raise DataError(f"{path} has no {_PART}{_MARKS[0]} (plain or .gz)")
        labels_at = _labels_of(images_at)
        images, labels = read_idx(images_at), read_idx(labels_at)
        if images.ndim != 3 or 0 in images.shape:
            raise DataError(f"{images_at} holds {images.shape}, not images (N, height, width)")
        if labels.shape != (len(images),):
            raise DataError(
                f"{labels_at} holds {labels.shape} labels for the {len(images):,} images of {images_at.name}"
            )
        digits, dense = np.unique(labels, return_inverse=True)
        people = tuple(str(digit) for digit in digits)
        return LabelledImages(PixelPictures(images_at, images), dense.astype(np.int64), people)

    def outputs(self, target: Path) -> tuple[Path, ...]:
        """See `Format.outputs`; a folder, or a file of images beside which the labels go."""
        images_at = _target(target)
        return (target,) if images_at.parent == target else (_labels_of(images_at, must_exist=False), images_at)

    def write(self, target: Path, people: Sequence[str], entries: Iterable[Entry], *, shard_pictures: int) -> None:
        """See `Format.write`; only grey pictures of one size, and people that are numbers up to 255."""
        images, labels = list[NDArray[np.uint8]](), list[int]()
        for entry in entries:
            images.append(_grey(entry, images[0].shape if images else entry.size))
            labels.append(_digit(people[entry.label]))
        images_at = _target(target)
        images_at.parent.mkdir(exist_ok=True)
        write_idx(images_at, np.stack(images))
        write_idx(_labels_of(images_at, must_exist=False), np.array(labels, dtype=np.uint8))


def _images_in(folder: Path) -> Path | None:
    names = [_PART + mark + suffix for mark in _MARKS for suffix in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _labels_of(images_at: Path, *, must_exist: bool = True) -> Path:
    """The file of labels that belongs to a file of images; spelling and compression may differ."""
    mark = next((mark for mark in _MARKS if mark in images_at.name), None)
    if mark is None:
        raise DataError(f"{images_at} should be named like {_PART}{_MARKS[0]}, so that its labels can be found")
    part, _, suffix = images_at.name.partition(mark)
    expected = images_at.with_name(part + mark.replace("images", "labels").replace("idx3", "idx1") + suffix)
    spellings = [part + f"-labels{dot}idx1-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    found = [path for path in (expected, *map(images_at.with_name, spellings)) if path.is_file()]
    if must_exist and not found:
        raise DataError(f"{images_at} has no {expected.name} beside it")
    return found[0] if must_exist else expected


def _target(target: Path) -> Path:
    return target if any(mark in target.name for mark in _MARKS) else target / f"{_PART}{_MARKS[0]}"


def _grey(entry: Entry, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    pixels = decode(entry.data)
    if pixels.shape[:2] != shape:
        raise DataError(
            f"picture {entry.name} is {pixels.shape[0]}x{pixels.shape[1]}, the first {shape[0]}x{shape[1]}; idx files "
            "hold pictures of one size"
        )
    if (pixels != pixels[:, :, :1]).any():
        raise DataError(f"picture {entry.name} has colours; idx files hold grey pictures")
    return pixels[:, :, 0]


def _digit(person: str) -> int:
    if not person.isdecimal() or int(person) > 255:
        raise DataError(f"the person '{person}' is not a number from 0 to 255, which is all that idx labels can be")
    return int(person)
