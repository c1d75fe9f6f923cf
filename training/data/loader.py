"""Batches for training: order, augmentation and normalisation are functions of (seed, epoch, sample) alone.

So a run that stops and resumes sees the same batches, with any number of workers. Owns the order, who makes the
batches when, and what happens to a picture that cannot be read; `training.data.samples` makes them.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch

from facemargin.errors import DataError
from facemargin.preprocessing import Preprocessing
from training.config import AugmentationConfig
from training.data.nvjpeg import NvjpegDecoder
from training.data.pictures import LabelledImages
from training.data.samples import BatchMaker, Key, Made, Unreadable, cores, fits_cache, joined

BATCHES_AHEAD = 2
"""Batches a worker has ready or in the making."""

_NAMED = 5


class Batch(NamedTuple):
    """What a training step takes.

    There is one for each planned step, in order. Where pictures cannot be read and ``data.on_bad_image`` is ``skip``,
    it is smaller, and may be empty: a network with batch norm cannot train on fewer than two samples, so the caller
    counts such a step and goes on.

    Attributes:
        crops: float32 (n, 3, H, W), normalised.
        labels: int64 (n,).
        unreadable: one line for each sample that is missing: its file and why it cannot be read.
        decoded_on_cpu: with ``data.decode = "cuda"``, pictures that were left to the CPU.
    """

    crops: torch.Tensor
    labels: torch.Tensor
    unreadable: tuple[str, ...] = ()
    decoded_on_cpu: int = 0


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


class Loader:
    """The batches of the steps from ``first_step`` up to but without ``last_step``; see `make_loader`."""

    def __init__(
        self,
        plan: BatchPlan,
        make: BatchMaker,
        *,
        steps: range,
        workers: int,
        worker_kind: Literal["thread", "process"],
        pin_memory: bool,
        bad: BadImages,
    ) -> None:
        self.plan, self.make, self.steps, self.bad = plan, make, steps, bad
        self.workers, self.worker_kind, self.pin_memory = workers, worker_kind, pin_memory

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Generator[Batch, None, None]:
        left_out: list[Unreadable] = []
        before = self.bad.before
        for step, made in zip(self.steps, self._made(), strict=True):
            if step % self.plan.steps_per_epoch == 0 and step != self.steps.start:
                left_out, before = [], 0
            left_out += made.unreadable
            self._refuse(left_out, before, step // self.plan.steps_per_epoch)
            crops, labels = made.crops, made.labels
            if self.pin_memory:
                crops, labels = crops.pin_memory(), labels.pin_memory()
            yield Batch(crops, labels, tuple(_one_line(error) for error in made.unreadable), made.decoded_on_cpu)

    def _refuse(self, left_out: list[Unreadable], before: int, epoch: int) -> None:
        """Raise where pictures that cannot be read are not, or no longer, to be left out."""
        if left_out and self.bad.on_bad_image == "fail":
            raise left_out[0]
        samples, count = self.plan.steps_per_epoch * self.plan.batch_size, before + len(left_out)
        if left_out and count > self.bad.max_bad_share * samples:
            named = "; ".join(_one_line(error) for error in left_out[:_NAMED])
            raise DataError(
                f"{count:,} of the {samples:,} images of epoch {epoch + 1} cannot be read, more than "
                f"data.max_bad_share = {self.bad.max_bad_share:g} allows: {named}"
                + ("; …" if len(left_out) > _NAMED else "")
            )

    def _made(self) -> Iterator[Made]:
        batches = self.plan.batches(self.steps.start, self.steps.stop)
        if self.workers == 0:
            yield from self._between_steps(batches)
            return
        pending: deque[Future[Made]] = deque()
        with self._pool() as pool:
            work = self.make if self.worker_kind == "thread" else _make_here
            try:
                for keys in batches:
                    pending.append(pool.submit(work, keys))
                    if len(pending) > BATCHES_AHEAD * self.workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            except BrokenProcessPool as error:
                raise DataError(
                    "a loader process ended unexpectedly (killed, or out of memory); go on with --resume, with a lower "
                    "data.workers, data.cache = false, or data.workers = 0 for none"
                ) from error

    def _between_steps(self, batches: Iterator[list[Key]]) -> Iterator[Made]:
        """Each batch when it is asked for, by as many threads as the network has: they wait for each other in turn."""
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads, "loader") as pool:
            for keys in batches:
                share = -(-len(keys) // threads)
                slices = [keys[start : start + share] for start in range(0, len(keys), share)]
                yield joined(list(pool.map(self.make, slices)))

    @contextmanager
    def _pool(self) -> Iterator[Executor]:
        pool: Executor
        if self.worker_kind == "thread":
            pool = ThreadPoolExecutor(self.workers, "loader")
        else:  # a forked OpenCV can wait for ever for its old threads
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(self.workers, context, _start_process, (self.make,))
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _one_line(error: Unreadable) -> str:
    return " ".join(str(error).split())


_maker: BatchMaker | None = None


def _start_process(make: BatchMaker) -> None:
    """Leave Ctrl-C to the training process, which saves; one thread a process; do not outlive the training process."""
    global _maker
    _maker = make
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make_here(keys: list[Key]) -> Made:
    if _maker is None:
        raise RuntimeError("the loader process was not started by _start_process")
    return _maker(keys)


def default_workers(*, on_gpu: bool) -> int:
    """Workers where the config names none.

    A network on the CPU needs the same cores as the loader: batches made between its steps, on its own threads, cost
    the least, until there are so many cores that Python's lock keeps most of them waiting. A GPU leaves the cores idle.

    Args:
        on_gpu: whether the network is on a GPU.

    Returns:
        0 on fewer than 8 cores, then one an eighth of the cores, at most 4; beside a GPU all cores but one, 1 to 8.
    """
    return max(1, min(8, cores() - 1)) if on_gpu else min(4, cores() // 8)


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
    worker_kind: Literal["thread", "process"] = "thread",
    on_bad_image: Literal["fail", "skip"] = "fail",
    max_bad_share: float = 0.01,
    unreadable_before: int = 0,
    decode_on: torch.device | None = None,
) -> Loader:
    """Batches for the steps from `first_step` up to but without `last_step`.

    Iterating raises DataError or ImageError for a picture that cannot be read, and DataError for too many of them or
    for a loader process that died.

    Args:
        images: the training set.
        plan: its order.
        first_step, last_step: optimizer steps, 0-based.
        augmentation, preprocessing: what happens to a crop.
        workers: threads or processes that make batches ahead; 0 makes each when it is asked for, on the network's
            threads; None is `default_workers`.
        pin_memory: the network is on a GPU: put batches where it can fetch them.
        cache: keep decoded crops; None keeps them where they fit `training.data.samples.CACHE_BYTES`.
        worker_kind: what a worker is.
        on_bad_image, max_bad_share: see `BadImages`.
        unreadable_before: samples left out in the epoch of `first_step`, before it.
        decode_on: CUDA device that decodes JPEG files, by threads of this process; None decodes on the CPU.

    Raises:
        ConfigError: `decode_on` cannot decode.
    """
    decoder = None if decode_on is None else NvjpegDecoder(decode_on, preprocessing.template)
    make = BatchMaker(
        images,
        augmentation=augmentation,
        preprocessing=preprocessing,
        seed=plan.seed,
        cache=fits_cache(images, preprocessing.template) if cache is None else cache,
        decoder=decoder,
    )
    return Loader(
        plan,
        make,
        steps=range(first_step, last_step),
        workers=default_workers(on_gpu=pin_memory) if workers is None else workers,
        worker_kind="thread" if decoder is not None else worker_kind,
        pin_memory=pin_memory,
        bad=BadImages(on_bad_image, max_bad_share, unreadable_before),
    )
