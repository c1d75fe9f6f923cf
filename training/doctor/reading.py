"""One pass over the pictures of a data set: digests, a perceptual fingerprint, colour and brightness of each.

Owns what is measured of a picture; the verdicts are the checks'.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from facemargin.errors import DataError, ImageError
from facemargin.preprocessing import decode
from training.data.colour_order import picture_colour
from training.data.pictures import Picture
from training.doctor.case import Case, DataSet

THUMBNAIL = 32
"""Side of the grey thumbnail in pixels."""

FREQUENCIES = 8
"""Lowest horizontal and vertical frequencies of the thumbnail that the perceptual hash is made of."""

_BATCH = 256
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Figures(NamedTuple):
    """What is measured of one picture.

    Attributes:
        content: digest of the encoded bytes.
        pixels: digest of the decoded pixels with their shape.
        thumbnail: uint8 (32, 32), grey.
        coefficients: float32 (8, 8), lowest frequencies of its cosine transform, rows vertical.
        size: height and width in pixels.
        warmth, chroma: as in `training.data.colour_order.PictureColour`.
        mean: of all values.
        highest: the largest value.
        levels: distinct values that occur.
    """

    content: bytes
    pixels: bytes
    thumbnail: NDArray[np.uint8]
    coefficients: NDArray[np.float32]
    size: tuple[int, int]
    warmth: float
    chroma: float
    mean: float
    highest: int
    levels: int


@dataclass(frozen=True, eq=False)
class Measured:
    """The pictures of a data set that were looked at.

    Attributes:
        places: int64 (M,), which pictures of the set could be read.
        figures: of each of them.
        unreadable: the others, with the reason.
    """

    places: NDArray[np.int64]
    figures: tuple[Figures, ...]
    unreadable: dict[int, str]

    def column(self, name: str) -> NDArray[Any]:
        """One figure of all pictures, (M, …)."""
        return np.array([getattr(figures, name) for figures in self.figures])


def measure(data: bytes) -> Figures:
    """Measure one encoded picture.

    Raises:
        ImageError: no accepted picture.
    """
    image = decode(data)
    height, width = image.shape[:2]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    thumbnail = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    spectrum = cv2.dct(thumbnail.astype(np.float32))
    colour = picture_colour(image)
    histogram = np.bincount(image.ravel(), minlength=256)
    return Figures(
        content=hashlib.blake2b(data, digest_size=16).digest(),
        pixels=hashlib.blake2b(
            np.array([height, width], dtype=np.int64).tobytes() + image.tobytes(), digest_size=16
        ).digest(),
        thumbnail=thumbnail,
        coefficients=spectrum[:FREQUENCIES, :FREQUENCIES].copy(),
        size=(height, width),
        warmth=colour.warmth,
        chroma=colour.chroma,
        mean=float(histogram @ np.arange(256) / image.size),
        highest=int(np.flatnonzero(histogram)[-1]),
        levels=int(np.count_nonzero(histogram)),
    )


def measured(case: Case, data: DataSet) -> Measured:
    """Read and measure the pictures of a data set; those that cannot be read are listed."""
    pictures = [data.picture(int(place)) for place in data.places]
    found = list(in_threads(_figures_or_reason, pictures, f"reading {data.name}", case.console))
    good = [position for position, one in enumerate(found) if isinstance(one, Figures)]
    return Measured(
        places=data.places[good],
        figures=tuple(one for one in found if isinstance(one, Figures)),
        unreadable={int(data.places[k]): one for k, one in enumerate(found) if isinstance(one, str)},
    )


def _figures_or_reason(picture: Picture) -> Figures | str:
    try:
        return measure(picture.read())
    except (ImageError, DataError) as error:
        return str(error)


def in_threads(
    work: Callable[[_Item], _Result], items: Sequence[_Item], title: str, console: Console
) -> Iterator[_Result]:
    """Results in order, computed in threads a batch at a time, with a progress bar where there is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        task = bar.add_task(title, total=len(items))
        for start in range(0, len(items), _BATCH):
            yield from pool.map(work, items[start : start + _BATCH])
            bar.update(task, completed=min(start + _BATCH, len(items)))
