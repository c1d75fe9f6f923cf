"""A folder of photographs, one sub-folder a person -> the same folder of aligned crops, resumable."""

import hashlib
import os
import time
from pathlib import Path
from typing import get_args

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from facemargin.errors import DataError
from facemargin.preprocessing import Detector, template_named
from training.align.report import (
    CROP_SUFFIXES,
    REPORT_NAME,
    AlignReport,
    AlignSettings,
    CropFormat,
    FacePolicy,
)
from training.align.state import State
from training.align.walk import Walk, walk_people
from training.align.workers import Work, outcomes

_CHUNK = 16  # photographs a worker takes at once: about 0.1 s, so that Ctrl-C is answered at once
_REPORT_EVERY_S = 5.0


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
    if crop_format not in CROP_SUFFIXES:
        raise ValueError(f"crop_format must be one of {', '.join(CROP_SUFFIXES)}; got {crop_format!r}")
    if face not in (policies := get_args(FacePolicy)):
        raise ValueError(f"face must be one of {', '.join(policies)}; got {face!r}")
    template_named(template)
    _check_apart(source.resolve(), target.resolve())
    walk = walk_people(source.resolve(), CROP_SUFFIXES[crop_format])
    model = Detector(detector, score_threshold).model  # fails here rather than in every worker
    settings = AlignSettings(
        template=template,
        face=face,
        crop_format=crop_format,
        score_threshold=score_threshold,
        detector_sha256=hashlib.sha256(model.read_bytes()).hexdigest(),
    )
    work = Work(source.resolve(), target.resolve(), model.resolve(), settings)
    earlier = _earlier_report(work) if resume else None
    if not resume:
        _remove_crops(work, walk)
    state = State(walk, work, earlier)
    if earlier is None:
        state.save()  # the settings are on disk before the first crop, so that no other ones can join it
    _run(state, workers or os.cpu_count() or 1, console)
    return state.save()


def _run(state: State, workers: int, console: Console | None) -> None:
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
            for found in outcomes(chunks, state.work, workers):
                for outcome in found:
                    state.record(outcome)
                rate = state.looked_at / (time.monotonic() - state.started)
                progress.update(task, advance=len(found), rate=rate, missed=len(state.not_detected))
                if time.monotonic() - saved > _REPORT_EVERY_S:
                    state.save()
                    saved = time.monotonic()
        except KeyboardInterrupt:
            state.save()
            raise


def _check_apart(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    if source == target or source in target.parents or target in source.parents:
        raise DataError(f"source {source} and target {target} must not lie in one another")


def _earlier_report(work: Work) -> AlignReport | None:
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


def _remove_crops(work: Work, walk: Walk) -> None:
    (work.target / REPORT_NAME).unlink(missing_ok=True)
    for job in walk.jobs:
        for suffix in CROP_SUFFIXES.values():
            (work.target / job.crop).with_suffix(suffix).unlink(missing_ok=True)
