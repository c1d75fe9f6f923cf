"""Photograph -> crop, in one process or several. Owns the processes and what becomes of each photograph."""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import cv2

from facemargin.errors import DataError, ImageError
from facemargin.preprocessing import (
    Detector,
    Face,
    ImageLimits,
    align,
    central_face,
    encode_jpeg,
    encode_png,
    one_face,
    read_image,
)
from training.align.report import AlignSettings, FacePolicy
from training.align.walk import Job
from training.whole_file import write_whole

# A user's own photographs may be larger than what strangers may send to the service, up to what Pillow takes unasked.
PHOTOGRAPH_LIMITS = ImageLimits(max_bytes=100 * 1024 * 1024, max_side=32_768, max_pixels=89_000_000)


class Outcome(NamedTuple):
    """What became of one photograph: faces found, or why it could not be read."""

    photograph: str
    faces: int
    error: str | None


class Work(NamedTuple):
    """All that a worker process needs to know."""

    source: Path
    target: Path
    detector: Path
    settings: AlignSettings


def outcomes(chunks: Sequence[Sequence[Job]], work: Work, workers: int) -> Iterator[list[Outcome]]:
    """Results of the chunks as they come in."""
    workers = min(workers, len(chunks))
    if workers <= 1:
        detector = _make_detector(work)
        yield from ([align_one(job, work, detector) for job in chunk] for chunk in chunks)
        return
    # Spawned, not forked: OpenCV's thread pool and a forked copy of it do not get on.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (work,))
    waiting: set[Future[list[Outcome]]] = set()
    try:
        for chunk in chunks:
            waiting.add(pool.submit(_align_chunk, chunk))
            if len(waiting) >= 2 * workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process ended unexpectedly (out of memory?); run again to go on, with fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: tuple[Work, Detector] | None = None  # of a worker process, set once when it starts


def _start_worker(work: Work) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it stops handing out work
    cv2.setNumThreads(1)
    _worker = (work, _make_detector(work))


def _align_chunk(chunk: Sequence[Job]) -> list[Outcome]:
    if _worker is None:
        raise RuntimeError("the worker process was not started by _start_worker")
    work, detector = _worker
    return [align_one(job, work, detector) for job in chunk]


def _make_detector(work: Work) -> Detector:
    return Detector(work.detector, work.settings.score_threshold)


def align_one(job: Job, work: Work, detector: Detector) -> Outcome:
    """Read, detect, align and write one photograph."""
    try:
        image = read_image(work.source / job.photograph, PHOTOGRAPH_LIMITS)
    except (ImageError, DataError) as error:
        return Outcome(job.photograph, 0, str(error).removeprefix(f"{work.source / job.photograph}: "))
    faces = detector.detect(image)
    if faces:
        chosen = _chosen(faces, image.shape[:2], work.settings.face)
        crop = align(image, chosen.landmarks, work.settings.template)
        encode = encode_png if work.settings.crop_format == "png" else encode_jpeg
        write_output(work.target / job.crop, encode(crop))
    return Outcome(job.photograph, len(faces), None)


def _chosen(faces: Sequence[Face], size: tuple[int, int], policy: FacePolicy) -> Face:
    return central_face(faces, size) if policy == "central" else one_face(faces, "largest")


def write_output(path: Path, data: bytes) -> None:
    """Write a whole file or none, and its folder where there is none yet.

    Raises:
        DataError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data, sync=False)  # a wait for the disk a crop would take longer than finding the face
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
