"""Sample numbers -> normalised crops: reading, keeping, augmenting."""

import os
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from facemargin import errors
from facemargin.errors import DataError, ImageError
from facemargin.preprocessing import Preprocessing, template_named
from facemargin.preprocessing.normalise import resized
from training.augmentation import Crop, augment
from training.config import AugmentationConfig
from training.crops import CropReader
from training.data.nvjpeg import NvjpegDecoder
from training.data.pictures import LabelledImages

CACHE_BYTES = 1024**3
"""Decoded crops are kept by default where all of them fit here."""

Key = tuple[int, int]
"""(epoch, sample)"""


class Unreadable(NamedTuple):
    """Why a picture could not be read, without the exception: its traceback would keep the pixels of the whole batch.

    Attributes:
        kind: of error.
        message: of it, naming the picture.
    """

    kind: type[DataError | ImageError]
    message: str

    def error(self) -> DataError | ImageError:
        """The error, to be raised."""
        return self.kind(self.message)

    def record(self) -> tuple[str, str]:
        """As JSON values, for other processes."""
        return self.kind.__name__, self.message

    @classmethod
    def restored(cls, kind: str, message: str) -> "Unreadable":
        """Of `record`."""
        return cls(getattr(errors, kind), message)

    def __str__(self) -> str:
        """The message on one line."""
        return " ".join(self.message.split())


class Made(NamedTuple):
    """What became of the samples of one batch.

    Attributes:
        crops: float32 (n, 3, H, W), normalised.
        labels: int64 (n,).
        unreadable: why each of the other samples is missing, in the order of the batch.
        decoded_on_cpu: pictures that the GPU's decoder left to the CPU.
    """

    crops: torch.Tensor
    labels: torch.Tensor
    unreadable: tuple[Unreadable, ...]
    decoded_on_cpu: int


def joined(parts: list[Made]) -> Made:
    """One batch of its consecutive parts."""
    if len(parts) == 1:
        return parts[0]
    return Made(
        torch.cat([part.crops for part in parts]),
        torch.cat([part.labels for part in parts]),
        tuple(error for part in parts for error in part.unreadable),
        sum(part.decoded_on_cpu for part in parts),
    )


def fits_cache(images: LabelledImages, template: str, *, processes: int = 1) -> bool:
    """Whether the decoded crops of all images, at the template's size, fit `CACHE_BYTES`, once in each process."""
    height, width = template_named(template).size
    return processes * len(images.pictures) * height * width * 3 <= CACHE_BYTES


class BatchMaker:
    """Makes batches. A sample depends on (seed, epoch, sample) alone, so any thread may make it."""

    def __init__(
        self,
        images: LabelledImages,
        *,
        augmentation: AugmentationConfig,
        preprocessing: Preprocessing,
        seed: int,
        cache: bool = False,
        decoder: NvjpegDecoder | None = None,
    ) -> None:
        self.images, self.augmentation, self.preprocessing, self.seed = images, augmentation, preprocessing, seed
        self.reader = CropReader(preprocessing.template)
        self.cached: dict[int, Crop] | None = {} if cache else None
        self.decoder = decoder

    def __call__(self, keys: list[Key]) -> Made:
        """Read, augment, resize and normalise the samples of a batch."""
        known = self._decode_ahead([sample for _, sample in keys])
        pixels = np.empty((len(keys), *self.preprocessing.size, 3), dtype=np.uint8)
        labels: list[int] = []
        unreadable: list[Unreadable] = []
        for epoch, sample in keys:
            try:
                crop = self._crop(sample, known)
            except (DataError, ImageError) as error:
                unreadable.append(Unreadable(type(error), str(error)))
                continue
            changed = augment(crop, self.augmentation, np.random.default_rng((self.seed, epoch, sample)))
            pixels[len(labels)] = resized(changed, self.preprocessing.size)
            labels.append(int(self.images.labels[sample]))
        return Made(
            torch.from_numpy(self._normalised(pixels[: len(labels)])),
            torch.tensor(labels, dtype=torch.int64),
            tuple(unreadable),
            0 if self.decoder is None else sum(crop is None for crop in known.values()),
        )

    def _normalised(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(pixels) == 0:
            return np.empty((0, 3, *self.preprocessing.size), dtype=np.float32)
        return self.preprocessing.normalise(pixels)

    def _crop(self, sample: int, known: dict[int, Crop | None]) -> Crop:
        if self.cached is not None and sample in self.cached:
            return self.cached[sample]
        crop = known.get(sample)
        if crop is None:
            crop = self.reader.read_aligned(self.images.pictures[sample])
        if self.cached is not None:
            self.cached[sample] = crop
        return crop

    def _decode_ahead(self, samples: list[int]) -> dict[int, Crop | None]:
        """What the GPU decodes of these samples, in one call; None for those that it leaves to the CPU."""
        if self.decoder is None:
            return {}
        wanted = [sample for sample in samples if self.cached is None or sample not in self.cached]
        crops = self.decoder([self._encoded(sample) for sample in wanted])
        return dict(zip(wanted, crops, strict=True))

    def _encoded(self, sample: int) -> bytes:
        try:
            return self.images.pictures[sample].read()
        except DataError:
            return b""  # the CPU's path says what is wrong with it


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
