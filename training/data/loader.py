"""Batches for training: order, augmentation and normalisation are functions of (seed, epoch, sample) alone.

So a run that stops and resumes sees the same batches, with any number of loader processes.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from facemargin.preprocessing import Preprocessing
from training.augmentation import Crop, augment
from training.config import AugmentationConfig
from training.crops import CropReader
from training.data.pictures import LabelledImages

Sample = tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], int]


class Batch(NamedTuple):
    """What a training step takes.

    Attributes:
        crops: float32 (N, 3, H, W), normalised.
        labels: int64 (N,).
    """

    crops: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class BatchPlan:
    """Which samples make which batch.

    Attributes:
        samples: number of samples in the data set.
        batch_size: samples a batch; what is left over at the end of an epoch is dropped.
        seed: of the order.
    """

    samples: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch."""
        return self.samples // self.batch_size

    def order(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The epoch's permutation of the samples."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.samples)

    def batches(self, first_step: int, last_step: int) -> Iterator[list[tuple[int, int]]]:
        """(epoch, sample) of each batch from `first_step` up to but without `last_step`."""
        for epoch in range(first_step // self.steps_per_epoch, -(-last_step // self.steps_per_epoch)):
            order = self.order(epoch)
            begin = max(first_step, epoch * self.steps_per_epoch)
            end = min(last_step, (epoch + 1) * self.steps_per_epoch)
            for step in range(begin, end):
                start = (step - epoch * self.steps_per_epoch) * self.batch_size
                yield [(epoch, int(sample)) for sample in order[start : start + self.batch_size]]


class _Steps:
    """A re-iterable view of a plan's batches, as ``DataLoader`` wants its batch sampler."""

    def __init__(self, plan: BatchPlan, first_step: int, last_step: int) -> None:
        self.plan, self.first_step, self.last_step = plan, first_step, last_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.plan.batches(self.first_step, self.last_step)

    def __len__(self) -> int:
        return self.last_step - self.first_step


class AugmentedCrops(Dataset[Sample]):
    """Aligned crops with augmentation, addressed by (epoch, sample)."""

    def __init__(
        self, images: LabelledImages, augmentation: AugmentationConfig, seed: int, template: str, *, cache: bool = False
    ) -> None:
        self.images, self.augmentation, self.seed = images, augmentation, seed
        self.reader = CropReader(template)
        self.cached: dict[int, Crop] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.images.pictures)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, sample = key
        random = np.random.default_rng((self.seed, epoch, sample))
        return augment(self._crop(sample), self.augmentation, random), int(self.images.labels[sample])

    def _crop(self, sample: int) -> Crop:
        if self.cached is None:
            return self.reader.read_aligned(self.images.pictures[sample])
        if sample not in self.cached:
            self.cached[sample] = self.reader.read_aligned(self.images.pictures[sample])
        return self.cached[sample]


@dataclass(frozen=True)
class _Collate:
    preprocessing: Preprocessing

    def __call__(self, samples: list[Sample]) -> Batch:
        crops = [self.preprocessing.normalise(crop[None]) for crop, _ in samples]
        return Batch(torch.from_numpy(np.concatenate(crops)), torch.tensor([label for _, label in samples]))


def _start_worker(_: int) -> None:
    """Leave Ctrl-C to the training process, which saves; one OpenCV thread a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def default_workers() -> int:
    """Loader processes where the config names none: the cores beyond the two that the network needs, at most four."""
    return max(0, min(4, (os.cpu_count() or 1) - 2))


def make_loader(
    images: LabelledImages,
    plan: BatchPlan,
    *,
    first_step: int,
    last_step: int,
    augmentation: AugmentationConfig,
    preprocessing: Preprocessing,
    workers: int | None,
    pin_memory: bool,
    cache: bool = False,
) -> DataLoader[Sample]:
    """Batches (float32 (N, 3, H, W), int64 (N,)) for the steps from `first_step` up to but without `last_step`."""
    processes = default_workers() if workers is None else workers
    return DataLoader(
        AugmentedCrops(images, augmentation, plan.seed, preprocessing.template, cache=cache),
        batch_sampler=_Steps(plan, first_step, last_step),
        generator=torch.Generator(),  # not the global one, whose state a resumed run restores
        collate_fn=_Collate(preprocessing),
        num_workers=processes,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        multiprocessing_context="spawn" if processes else None,  # a forked OpenCV can wait for ever for its old threads
        prefetch_factor=4 if processes else None,
    )
