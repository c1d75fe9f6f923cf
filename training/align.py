"""A folder of photographs, one sub-folder a person -> the same folder of aligned crops.

Owns the walk, the worker processes, the choice among several faces and the report; the pictures themselves are the
business of ``facemargin.preprocessing``, so that training crops are made exactly as the service makes them.
"""

import contextlib
import hashlib
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import cv2
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from facemargin.errors import DataError, ImageError
from facemargin.preprocessing import (
    IMAGE_SUFFIXES,
    Detector,
    Face,
    ImageLimits,
    align,
    central_face,
    encode_jpeg,
    encode_png,
    one_face,
    read_image,
    template_named,
)

REPORT_NAME = "align-report.json"

FacePolicy = Literal["central", "largest"]
CropFormat = Literal["png", "jpeg"]

_SUFFIX: dict[CropFormat, str] = {"png": ".png", "jpeg": ".jpg"}
_CHUNK = 16  # photographs a worker takes at once: about 0.1 s, so that Ctrl-C is answered at once
_REPORT_EVERY_S = 5.0
_NAMED_AT_MOST = 5
# A user's own photographs may be larger than what strangers may send to the service, up to what Pillow takes unasked.
_LIMITS = ImageLimits(max_bytes=100 * 1024 * 1024, max_side=32_768, max_pixels=89_000_000)


class AlignSettings(BaseModel):
    """What decides how a crop looks; a folder is only resumed with the settings it was begun with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str
    face: FacePolicy
    crop_format: CropFormat
    score_threshold: float
    detector_sha256: str


class Unreadable(BaseModel):
    """A file that is no usable picture, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    error: str


class AlignReport(BaseModel):
    """The state of an aligned folder, written to ``align-report.json`` in it. Files are named ``person/file``.

    Attributes:
        settings: how the crops were made.
        complete: every photograph was looked at.
        people: person folders in the source.
        images: photographs in the source.
        aligned: crops in the target.
        aligned_before: of these, how many an earlier run had made.
        not_detected: photographs in which no face was found; they have no crop.
        unreadable: files with the ending of a picture that could not be decoded.
        several_faces: photographs with more than one face and how many; the crop is the face that the policy chose.
        people_without_faces: people none of whose photographs gave a crop; they have no folder in the target.
        other_files: files that are no pictures by their ending, skipped.
        seconds: duration of this run.
        images_per_second: photographs looked at in this run per second.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: AlignSettings
    complete: bool
    people: int
    images: int
    aligned: int
    aligned_before: int
    not_detected: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]
    several_faces: dict[str, int]
    people_without_faces: tuple[str, ...]
    other_files: int
    seconds: float
    images_per_second: float

    @property
    def detection_rate(self) -> float:
        """Share of the readable photographs looked at so far in which a face was found; 0 when there is none."""
        looked_at = self.aligned + len(self.not_detected)
        return self.aligned / looked_at if looked_at else 0.0


class _Job(NamedTuple):
    """One photograph and its crop, as paths relative to source and target."""

    photograph: str
    crop: str


class _Walk(NamedTuple):
    people: tuple[str, ...]
    jobs: tuple[_Job, ...]
    other_files: int


class _Outcome(NamedTuple):
    """What became of one photograph: faces found, or why it could not be read."""

    photograph: str
    faces: int
    error: str | None


class _Work(NamedTuple):
    """All that a worker process needs to know."""

    source: Path
    target: Path
    detector: Path
    settings: AlignSettings


class _State:
    """What is known so far; turns into the report."""

    def __init__(self, walk: _Walk, work: _Work, earlier: AlignReport | None) -> None:
        self.walk = walk
        self.work = work
        known = {job.photograph for job in walk.jobs}
        self.done = {job.photograph for job in walk.jobs if (work.target / job.crop).is_file()}
        self.aligned_before = len(self.done)
        self.not_detected: set[str] = set()
        self.unreadable: dict[str, str] = {}
        self.several: dict[str, int] = {}
        if earlier is not None:
            self.not_detected = {name for name in earlier.not_detected if name in known} - self.done
            self.several = {name: count for name, count in earlier.several_faces.items() if name in self.done}
        self.looked_at = 0
        self.started = time.monotonic()

    def pending(self) -> list[_Job]:
        """Photographs still to be looked at; unreadable ones are tried again, they may have been replaced."""
        return [job for job in self.walk.jobs if job.photograph not in self.done | self.not_detected]

    def record(self, outcome: _Outcome) -> None:
        self.looked_at += 1
        if outcome.error is not None:
            self.unreadable[outcome.photograph] = outcome.error
        elif outcome.faces == 0:
            self.not_detected.add(outcome.photograph)
        else:
            self.done.add(outcome.photograph)
            if outcome.faces > 1:
                self.several[outcome.photograph] = outcome.faces

    def report(self) -> AlignReport:
        seconds = time.monotonic() - self.started
        complete = len(self.done) + len(self.not_detected) + len(self.unreadable) == len(self.walk.jobs)
        people_done = {name.split("/")[0] for name in self.done}
        return AlignReport(
            settings=self.work.settings,
            complete=complete,
            people=len(self.walk.people),
            images=len(self.walk.jobs),
            aligned=len(self.done),
            aligned_before=self.aligned_before,
            not_detected=tuple(sorted(self.not_detected)),
            unreadable=tuple(Unreadable(file=file, error=error) for file, error in sorted(self.unreadable.items())),
            several_faces=dict(sorted(self.several.items())),
            people_without_faces=tuple(name for name in self.walk.people if name not in people_done)
            if complete
            else (),
            other_files=self.walk.other_files,
            seconds=round(seconds, 3),
            images_per_second=round(self.looked_at / seconds, 1) if seconds > 0 else 0.0,
        )

    def save(self) -> AlignReport:
        report = self.report()
        _write(self.work.target / REPORT_NAME, report.model_dump_json(indent=2).encode() + b"\n")
        return report


def align_folder(
    source: Path,
    target: Path,
    *,
    detector: Path | None = None,
    template: str = "arcface-112",
    workers: int = 0,
    face: FacePolicy = "central",
    crop_format: CropFormat = "png",
    score_threshold: float = 0.6,
    resume: bool = True,
    console: Console | None = None,
) -> AlignReport:
    """Detect and align every photograph of a folder with one sub-folder a person.

    Every crop and the report are written atomically; an interrupted run (Ctrl-C, a kill, a full disk) leaves only whole
    files, and the next call goes on where it stopped.

    Args:
        source: folder of person folders of photographs.
        target: where the crops go, ``person/stem.png``; made when missing.
        detector: YuNet file; by default the one that `facemargin models pull yunet` fetched.
        template: alignment template, a name in `facemargin.preprocessing.TEMPLATES`.
        workers: processes; 0 takes one for each processor; 1 works in this process.
        face: which one of several: "central" is the nearest to the centre in its own size (in LFW the named person),
            "largest" the largest box.
        crop_format: "png" is lossless; "jpeg" (quality 95, full colour resolution) takes a third of the space.
        score_threshold: lowest confidence of a detection.
        resume: keep what an earlier run with the same settings made; False makes everything anew.
        console: where the progress bar goes; None shows none.

    Returns:
        The report, as it lies in the target.

    Raises:
        DataError: the source has no people, a person has no photograph, source and target overlap, the target was begun
            with other settings, or a file cannot be written.
        ModelNotFoundError: there is no detector.
        ValueError: a wrong value.
    """
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    if crop_format not in _SUFFIX:
        raise ValueError(f"crop_format must be one of {', '.join(_SUFFIX)}; got {crop_format!r}")
    if face not in (policies := get_args(FacePolicy)):
        raise ValueError(f"face must be one of {', '.join(policies)}; got {face!r}")
    template_named(template)
    _check_apart(source.resolve(), target.resolve())
    walk = _walk(source.resolve(), _SUFFIX[crop_format])
    model = Detector(detector, score_threshold).model  # fails here rather than in every worker
    settings = AlignSettings(
        template=template,
        face=face,
        crop_format=crop_format,
        score_threshold=score_threshold,
        detector_sha256=hashlib.sha256(model.read_bytes()).hexdigest(),
    )
    work = _Work(source.resolve(), target.resolve(), model.resolve(), settings)
    earlier = _earlier_report(work) if resume else None
    if not resume:
        _remove_crops(work, walk)
    state = _State(walk, work, earlier)
    if earlier is None:
        state.save()  # the settings are on disk before the first crop, so that no other ones can join it
    _run(state, workers or os.cpu_count() or 1, console)
    return state.save()


def _run(state: _State, workers: int, console: Console | None) -> None:
    pending = state.pending()
    chunks = [pending[start : start + _CHUNK] for start in range(0, len(pending), _CHUNK)]
    columns = (
        TextColumn("aligning"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f}/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[missed]} without a face"),
    )
    saved = time.monotonic()
    with Progress(*columns, console=console, disable=console is None) as progress:
        looked_at_before = len(state.walk.jobs) - len(pending)
        task = progress.add_task(
            "", total=len(state.walk.jobs), completed=looked_at_before, rate=0.0, missed=len(state.not_detected)
        )
        try:
            for outcomes in _outcomes(chunks, state.work, workers):
                for outcome in outcomes:
                    state.record(outcome)
                rate = state.looked_at / (time.monotonic() - state.started)
                progress.update(task, advance=len(outcomes), rate=rate, missed=len(state.not_detected))
                if time.monotonic() - saved > _REPORT_EVERY_S:
                    state.save()
                    saved = time.monotonic()
        except KeyboardInterrupt:
            state.save()
            raise


def _outcomes(chunks: Sequence[Sequence[_Job]], work: _Work, workers: int) -> Iterator[list[_Outcome]]:
    """Results of the chunks as they come in."""
    workers = min(workers, len(chunks))
    if workers <= 1:
        detector = _make_detector(work)
        yield from ([_align_one(job, work, detector) for job in chunk] for chunk in chunks)
        return
    # Spawned, not forked: OpenCV's thread pool and a forked copy of it do not get on.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (work,))
    waiting: set[Future[list[_Outcome]]] = set()
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


_worker: tuple[_Work, Detector] | None = None  # of a worker process, set once when it starts


def _start_worker(work: _Work) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it stops handing out work
    cv2.setNumThreads(1)
    _worker = (work, _make_detector(work))


def _align_chunk(chunk: Sequence[_Job]) -> list[_Outcome]:
    if _worker is None:
        raise RuntimeError("the worker process was not started by _start_worker")
    work, detector = _worker
    return [_align_one(job, work, detector) for job in chunk]


def _make_detector(work: _Work) -> Detector:
    return Detector(work.detector, work.settings.score_threshold)


def _align_one(job: _Job, work: _Work, detector: Detector) -> _Outcome:
    try:
        image = read_image(work.source / job.photograph, _LIMITS)
    except (ImageError, DataError) as error:
        return _Outcome(job.photograph, 0, str(error).removeprefix(f"{work.source / job.photograph}: "))
    faces = detector.detect(image)
    if faces:
        chosen = _chosen(faces, image.shape[:2], work.settings.face)
        crop = align(image, chosen.landmarks, work.settings.template)
        encode = encode_png if work.settings.crop_format == "png" else encode_jpeg
        _write(work.target / job.crop, encode(crop))
    return _Outcome(job.photograph, len(faces), None)


def _chosen(faces: Sequence[Face], size: tuple[int, int], policy: FacePolicy) -> Face:
    return central_face(faces, size) if policy == "central" else one_face(faces, "largest")


def _check_apart(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    if source == target or source in target.parents or target in source.parents:
        raise DataError(f"source {source} and target {target} must not lie in one another")


def _walk(source: Path, suffix: str) -> _Walk:
    """All photographs, people and files in the order of their names; hidden files count as other files."""
    jobs: list[_Job] = []
    people: list[str] = []
    empty: list[str] = []
    other = 0
    for folder in sorted(source.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            other += 1
            continue
        names = sorted(path.name for path in folder.iterdir())
        pictures = [name for name in names if _is_picture(name)]
        other += len(names) - len(pictures)
        people.append(folder.name)
        if not pictures:
            empty.append(folder.name)
        jobs.extend(_jobs(folder.name, pictures, suffix))
    if not people:
        raise DataError(f"{source}: no person folders (expected {source.name}/<person>/<photograph>)")
    if empty:
        named = ", ".join(empty[:_NAMED_AT_MOST]) + (", …" if len(empty) > _NAMED_AT_MOST else "")
        raise DataError(
            f"{source}: {len(empty)} person folder(s) without a photograph: {named}; "
            f"add photographs ({', '.join(sorted(IMAGE_SUFFIXES))}) or remove the folder"
        )
    return _Walk(tuple(people), tuple(jobs), other)


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _jobs(person: str, pictures: Sequence[str], suffix: str) -> Iterator[_Job]:
    """Photographs with their crops; where two differ only in the ending, the crop keeps the ending in its name."""
    stems = Counter(Path(name).stem for name in pictures)
    for name in pictures:
        stem = Path(name).stem
        yield _Job(f"{person}/{name}", f"{person}/{stem if stems[stem] == 1 else name}{suffix}")


def _earlier_report(work: _Work) -> AlignReport | None:
    path = work.target / REPORT_NAME
    if not path.is_file():
        return None
    advice = "choose another target, or align anew without resuming"
    try:
        report = AlignReport.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path} is no report that can be resumed from; {advice}") from error
    if report.settings != work.settings:
        changed = [
            name for name, value in report.settings.model_dump().items() if value != getattr(work.settings, name)
        ]
        raise DataError(f"{work.target} was aligned with other settings ({', '.join(changed)}); {advice}")
    return report


def _remove_crops(work: _Work, walk: _Walk) -> None:
    (work.target / REPORT_NAME).unlink(missing_ok=True)
    for job in walk.jobs:
        for suffix in _SUFFIX.values():
            (work.target / job.crop).with_suffix(suffix).unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    """Write a whole file or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
