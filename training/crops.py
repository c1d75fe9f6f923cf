"""Photographs -> aligned crops -> embeddings, for evaluation and calibration.

Owns the reading, in threads and with a progress bar, and what happens to a photograph without a face: it has no
embedding (failure to acquire). The model is any callable, so that a torch model in training and an exported bundle
are measured by the same code.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from facemargin.errors import DataError
from facemargin.preprocessing import Detector, align, central_face, template_named
from training.align import PHOTOGRAPH_LIMITS
from training.data.pictures import Picture

Crop = NDArray[np.uint8]
Embed = Callable[[Crop], NDArray[np.float32]]
"""Aligned crops uint8 (N, h, w, 3), RGB -> float32 (N, D) unit rows."""

_BATCH = 128
_SHAPE_TOLERANCE = 0.01


class Reader(Protocol):
    """Whatever makes a crop of a picture."""

    def read(self, picture: Picture) -> Crop | None:
        """The aligned crop, or None where no face was detected."""


@dataclass(frozen=True)
class CropReader:
    """How a picture becomes a crop.

    Attributes:
        template: alignment template, a name in `facemargin.preprocessing.TEMPLATES`.
        detector: finds the face in whole photographs (of several, the central one, as `facemargin data align` does);
            None for files that are aligned crops already.
    """

    template: str = "arcface-112"
    detector: Detector | None = None

    def read(self, picture: Picture) -> Crop | None:
        """The aligned crop, or None where no face was detected.

        Raises:
            DataError: a file that cannot be read, or one declared to be aligned whose sides have another ratio.
            ImageError: a file that is no accepted picture.
        """
        if self.detector is None:
            return self.read_aligned(picture)
        image = picture.decode(PHOTOGRAPH_LIMITS)
        faces = self.detector.detect(image)
        if not faces:
            return None
        return align(image, central_face(faces, image.shape[:2]).landmarks, self.template)

    def read_aligned(self, picture: Picture) -> Crop:
        """The picture itself, declared to be an aligned crop; errors as in `read`."""
        crop = picture.decode(PHOTOGRAPH_LIMITS)
        height, width = template_named(self.template).size
        if abs(crop.shape[0] * width / (crop.shape[1] * height) - 1) > _SHAPE_TOLERANCE:
            raise DataError(
                f"{picture} is {crop.shape[0]}x{crop.shape[1]}, not a crop aligned to {self.template} "
                f"({height}x{width}); leave the photographs to be aligned, or name the template they were aligned to"
            )
        return crop


@dataclass(frozen=True)
class LandmarkReader:
    """Aligns whole photographs by landmarks that are known already.

    Attributes:
        landmarks: float32 (5, 2) of a picture, x and y in pixels, by its name.
        template: alignment template.
    """

    landmarks: Mapping[str, NDArray[np.float32]]
    template: str = "arcface-112"

    def read(self, picture: Picture) -> Crop:
        """The aligned crop.

        Raises:
            DataError: a file that cannot be read, or landmarks that all lie at one place.
            ImageError: a file that is no accepted picture.
        """
        try:
            return align(picture.decode(PHOTOGRAPH_LIMITS), self.landmarks[picture.name], self.template)
        except ValueError as error:
            raise DataError(f"{picture}: cannot be aligned by its landmarks: {error}") from error


def crop_reader(*, aligned: bool, detector: Detector | None, template: str) -> CropReader:
    """A reader for aligned crops, or for whole photographs with the given or the default detector.

    Raises:
        ModelNotFoundError: whole photographs, and no detector on this machine.
    """
    return CropReader(template, None if aligned else detector or Detector())


def embed_pictures(
    embed: Embed, pictures: Sequence[Picture], reader: Reader, *, console: Console | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Embed every picture once, in order.

    Args:
        embed: the model.
        pictures: N pictures.
        reader: picture -> crop.
        console: where a progress bar is drawn; default stderr, none where that is no terminal.

    Returns:
        Embeddings float32 (N, D), and bool (N,) saying which were acquired; the rows of the others are zero.

    Raises:
        DataError: no file, or no face in any of them.
        ImageError: a file that is no accepted picture.
    """
    rows: NDArray[np.float32] | None = None
    acquired = np.zeros(len(pictures), dtype=np.bool_)
    with _progress(console) as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        task = progress.add_task("embedding", total=len(pictures))
        for start in range(0, len(pictures), _BATCH):
            crops = list(pool.map(reader.read, pictures[start : start + _BATCH]))
            for places, stack in _by_shape(crops):
                vectors = embed(stack)
                rows = np.zeros((len(pictures), vectors.shape[1]), dtype=np.float32) if rows is None else rows
                rows[[start + place for place in places]] = vectors
                acquired[[start + place for place in places]] = True
            progress.advance(task, len(crops))
    if rows is None:
        raise DataError(f"there is no face in any of the {len(pictures)} photographs")
    return rows, acquired


def _by_shape(crops: Sequence[Crop | None]) -> list[tuple[list[int], Crop]]:
    """Crops stacked with those of their own size, and their places."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, crop in enumerate(crops):
        if crop is not None:
            places.setdefault(crop.shape, []).append(place)
    found = {place: crop for place, crop in enumerate(crops) if crop is not None}
    return [(group, np.stack([found[place] for place in group])) for group in places.values()]


def _progress(console: Console | None) -> Progress:
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
