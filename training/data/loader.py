"""Batches for training: order, augmentation and normalisation are functions of (seed, epoch, sample) alone.

So a run that stops and resumes sees the same batches, with any number of workers. Owns the order, who makes the
batches when, and what happens to a picture that cannot be read; `training.data.samples` makes them.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch

from facemargin.errors import DataError
from facemargin.preprocessing import Preprocessing
from training.config import AugmentationConfig
from training.data.nvjpeg import NvjpegDecoder
from training.data.pictures import LabelledImages
from training.data.samples import BatchMaker, Key, Made, Unreadable, cores, fits_cache, joined
from training.ranks import ALONE, Ranks

BATCHES_AHEAD = 2
"""Batches a worker has ready or in the making."""

_NAMED = 5
"""Pictures that the error of too many names."""


class Batch(NamedTuple):
    """What a training step takes.

    There is one for each planned step, in order. Where pictures cannot be read and ``data.on_bad_image`` is ``skip``,
    it is smaller, and may be empty: a network with batch norm cannot train on fewer than two samples, so the caller
    counts such a step and goes on.

    Where a run has several ranks, each gets its part of the samples, and is told of the others' parts.

    Attributes:
        crops: float32 (n, 3, H, W), normalised.
        labels: int64 (n,).
        unreadable: one line for each sample that is missing on any rank: its file and why it cannot be read.
        decoded_on_cpu: with ``data.decode = "cuda"``, pictures that were left to the CPU.
        others: samples of each other rank.
    """

    crops: torch.Tensor
    labels: torch.Tensor
    unreadable: tuple[str, ...] = ()
    decoded_on_cpu: int = 0
    others: tuple[int, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of all ranks, this one first."""
        return (len(self.labels), *self.others)


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


@dataclass(frozen=True)
class BadImages:
    """What happens to pictures that cannot be read.

    Attributes:
        on_bad_image: ``fail`` raises their error, ``skip`` leaves them out of their batch.
        max_bad_share: with ``skip``, largest share of an epoch's samples that may be left out.
        before: samples already left out in the epoch of the first step, before it.
    """

    on_bad_image: Literal["fail", "skip"] = "fail"
    max_bad_share: float = 0.01
    before: int = 0


@dataclass
class _LeftOut:
    """Pictures of an epoch that could not be read: how many, and the first that this loader saw."""

    count: int = 0
    first: list[Unreadable] = field(default_factory=list)

    def add(self, unreadable: Sequence[Unreadable]) -> None:
        self.count += len(unreadable)
        self.first += unreadable[: _NAMED - len(self.first)]


class Loader:
    """The batches of the steps from ``first_step`` up to but without ``last_step``; see `make_loader`.

    With several ranks, taking a batch is a collective call.
    """

    def __init__(
        self,
        plan: BatchPlan,
        make: BatchMaker,
        *,
        steps: range,
        workers: int,
        pin_memory: bool,
        bad: BadImages,
        ranks: Ranks,
    ) -> None:
        self.plan, self.make, self.steps, self.bad, self.ranks = plan, make, steps, bad, ranks
        self.workers, self.pin_memory = workers, pin_memory

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Generator[Batch, None, None]:
        left_out = _LeftOut(self.bad.before)
        for step, made in zip(self.steps, self._made(), strict=True):
            if step % self.plan.steps_per_epoch == 0 and step != self.steps.start:
                left_out = _LeftOut()
            others, unreadable = self._of_all_ranks(made)
            if unreadable:
                left_out.add(unreadable)
                self._refuse(left_out, step // self.plan.steps_per_epoch)
            crops, labels = made.crops, made.labels
            if self.pin_memory:
                crops, labels = crops.pin_memory(), labels.pin_memory()
            yield Batch(crops, labels, tuple(str(one) for one in unreadable), made.decoded_on_cpu, others)

    def _of_all_ranks(self, made: Made) -> tuple[tuple[int, ...], list[Unreadable]]:
        """How many samples each other rank has, and the pictures that any rank could not read, in the batch's order."""
        if self.ranks.size == 1:
            return (), list(made.unreadable)
        told = self.ranks.gather_numbers(len(made.labels), len(made.unreadable))
        others = tuple(size for rank, (size, _) in enumerate(told) if rank != self.ranks.rank)
        if not any(unreadable for _, unreadable in told):
            return others, []
        named = self.ranks.gather([one.record() for one in made.unreadable])
        return others, [Unreadable.restored(*record) for records in named for record in records]

    def _refuse(self, left_out: "_LeftOut", epoch: int) -> None:
        """Raise where pictures that cannot be read are not, or no longer, to be left out."""
        if self.bad.on_bad_image == "fail":
            raise left_out.first[0].error()
        samples = self.plan.steps_per_epoch * self.plan.batch_size
        if left_out.count > self.bad.max_bad_share * samples:
            raise DataError(
                f"{left_out.count:,} of the {samples:,} images of epoch {epoch + 1} cannot be read, more than "
                f"data.max_bad_share = {self.bad.max_bad_share:g} allows: {'; '.join(map(str, left_out.first))}"
                + ("; …" if left_out.count > len(left_out.first) else "")
            )

    def _made(self) -> Iterator[Made]:
        part = self.ranks.part(self.plan.batch_size)
        batches = (keys[part] for keys in self.plan.batches(self.steps.start, self.steps.stop))
        if self.workers == 0:
            yield from self._between_steps(batches)
            return
        pending: deque[Future[Made]] = deque()
        pool = ThreadPoolExecutor(self.workers, "loader")
        try:
            for keys in batches:
                pending.append(pool.submit(self.make, keys))
                if len(pending) > BATCHES_AHEAD * self.workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # what is planned is not made any more, whether the run ends or a batch could not be made
            pool.shutdown(cancel_futures=True)

    def _between_steps(self, batches: Iterable[list[Key]]) -> Iterator[Made]:
        """Each batch when it is asked for, by as many threads as the network has: they wait for each other in turn."""
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads, "loader") as pool:
            for keys in batches:
                share = -(-len(keys) // threads)
                slices = [keys[start : start + share] for start in range(0, len(keys), share)]
                yield joined(list(pool.map(self.make, slices)))


def default_workers(*, on_gpu: bool, processes: int = 1) -> int:
    """Workers where the config names none.

    A network on the CPU needs the same cores as the loader: batches made between its steps, on its own threads, cost
    the least, until there are so many cores that Python's lock keeps most of them waiting. A GPU leaves the cores idle.

    Args:
        on_gpu: whether the network is on a GPU.
        processes: of the run, on this machine: they share the cores.

    Returns:
        0 on fewer than 8 cores, then one an eighth of the cores, at most 4; beside a GPU all cores but one, 1 to 8.
    """
    own = cores() // processes
    return max(1, min(8, own - 1)) if on_gpu else min(4, own // 8)


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
    cache: bool | None = False,
    on_bad_image: Literal["fail", "skip"] = "fail",
    max_bad_share: float = 0.01,
    unreadable_before: int = 0,
    decode_on: torch.device | None = None,
    ranks: Ranks = ALONE,
) -> Loader:
    """Batches for the steps from `first_step` up to but without `last_step`, or this rank's part of each.

    Iterating raises DataError or ImageError for a picture that cannot be read, and DataError for too many of them.

    Args:
        images: the training set.
        plan: its order.
        first_step, last_step: optimizer steps, 0-based.
        augmentation, preprocessing: what happens to a crop.
        workers: threads that make batches ahead; 0 makes each when it is asked for, by as many threads as the network
            has; None is `default_workers`.
        pin_memory: the network is on a GPU: put batches where it can fetch them.
        cache: keep decoded crops; None keeps them where they fit `training.data.samples.CACHE_BYTES`.
        on_bad_image, max_bad_share: see `BadImages`.
        unreadable_before: samples left out in the epoch of `first_step`, before it.
        decode_on: CUDA device that decodes JPEG files; None decodes on the CPU.
        ranks: who shares the batches, in the order of ranks: together they are those of one rank.

    Raises:
        ConfigError: `decode_on` cannot decode.
    """
    decoder = None if decode_on is None else NvjpegDecoder(decode_on, preprocessing.template)
    make = BatchMaker(
        images,
        augmentation=augmentation,
        preprocessing=preprocessing,
        seed=plan.seed,
        cache=fits_cache(images, preprocessing.template, processes=ranks.local_size) if cache is None else cache,
        decoder=decoder,
    )
    return Loader(
        plan,
        make,
        steps=range(first_step, last_step),
        workers=default_workers(on_gpu=pin_memory, processes=ranks.local_size) if workers is None else workers,
        pin_memory=pin_memory,
        bad=BadImages(on_bad_image, max_bad_share, unreadable_before),
        ranks=ranks,
    )
