"""MNIST as four idx files in a folder: which they are, and that they fit together. Nothing is downloaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import DataError
from training.data.idx import read_idx

SIDE = 28
CLASSES = 10
HELD_OUT = 5000
"""Training images set aside, the last ones of the file, whenever something is chosen."""

_SPELLINGS = ("{0}-idx{1}-ubyte", "{0}.idx{1}-ubyte")
_SUFFIXES = ("", ".gz")


@dataclass(frozen=True)
class Digits:
    """Images with their labels.

    Attributes:
        images: (N, 28, 28) uint8, 0 is the background.
        labels: (N,) uint8 in [0, 9].
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> "Digits":
        """Some of them."""
        return Digits(self.images[part], self.labels[part])


class Mnist(NamedTuple):
    """What a network learns from and what it is measured on."""

    train: Digits
    test: Digits


def read_mnist(folder: Path, *, held_out: bool = False) -> Mnist:
    """Read MNIST from ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the two of ``t10k``, plain or .gz.

    Args:
        folder: where the four files are.
        held_out: measure on the last `HELD_OUT` training images, which are then not learned from; the test files are
            not opened. For choosing anything.

    Returns:
        Both sets.

    Raises:
        DataError: a file is missing or damaged, or images and labels do not fit together.
    """
    train = _read_part(folder, "train")
    if not held_out:
        return Mnist(train, _read_part(folder, "t10k"))
    if len(train) <= HELD_OUT:
        raise DataError(f"{folder} has {len(train):,} training images; holding out {HELD_OUT:,} leaves none")
    return Mnist(train[:-HELD_OUT], train[-HELD_OUT:])


def _read_part(folder: Path, part: str) -> Digits:
    images_at, labels_at = _find(folder, f"{part}-images", 3), _find(folder, f"{part}-labels", 1)
    images, labels = read_idx(images_at), read_idx(labels_at)
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{images_at} holds {images.shape}, not images of {SIDE}×{SIDE}")
    if labels.shape != (len(images),):
        raise DataError(f"{labels_at} holds {labels.shape} labels for the {len(images):,} images of {images_at.name}")
    if not len(labels):
        raise DataError(f"{images_at} holds no image")
    if labels.max() >= CLASSES:
        raise DataError(f"{labels_at} holds the label {labels.max()}; labels lie in [0, {CLASSES - 1}]")
    return Digits(images, labels)


def _find(folder: Path, name: str, axes: int) -> Path:
    """The file, whether or not it is gzipped, with a hyphen or a dot before its type."""
    for spelling in _SPELLINGS:
        for suffix in _SUFFIXES:
            path = folder / (spelling.format(name, axes) + suffix)
            if path.is_file():
                return path
    raise DataError(
        f"{folder} has no {_SPELLINGS[0].format(name, axes)} (plain or .gz); it is one of MNIST's four files"
    )
