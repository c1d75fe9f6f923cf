"""The demo's people: drawn ones, or those of a folder of photographs; always three sets that share nobody.

Owns the sizes of the sets and their folders ``train``, ``validation`` and ``test`` of aligned crops.
"""

import multiprocessing
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from facemargin.errors import DataError
from training.align import REPORT_NAME, AlignReport, align_folder
from training.data.folder import images_of, people_of
from training.synthetic import write_synthetic

SETS = ("train", "validation", "test")

PEOPLE_PER_SET = 8
"""Fewest people with two photographs that validation and test need; the calibration needs 300 pairs of two people."""

_SHARE = 0.15


@dataclass(frozen=True)
class Sizes:
    """How much is drawn and how long the training is.

    Attributes:
        people: number of drawn people in training, validation and test.
        images: pictures of each.
        presentations: images that training shows the network, over all epochs.
        enrolled: people of the test set that are enrolled; as many others are strangers, where there are as many.
    """

    people: tuple[int, int, int]
    images: tuple[int, int, int]
    presentations: int
    enrolled: int


FULL = Sizes(people=(260, 60, 60), images=(20, 10, 10), presentations=16_000, enrolled=20)
QUICK = Sizes(people=(12, 8, 8), images=(6, 6, 6), presentations=144, enrolled=4)


@dataclass(frozen=True)
class People:
    """Three disjoint sets of people.

    Attributes:
        crops: folder with the folders `SETS` of aligned crops.
        photographs: the folder of whole photographs that the crops come from; None for drawn people.
        source: whose pictures these are, in words.
        count: people and pictures of each set.
        alignment: what became of the photographs; None for drawn people.
    """

    crops: Path
    photographs: Path | None
    source: str
    count: dict[str, tuple[int, int]]
    alignment: AlignReport | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the people are drawn."""
        return self.photographs is None

    def images(self, name: str) -> dict[str, list[Path]]:
        """The people of one set with their crops."""
        return people_of(self.crops / name)

    def sent(self, crop: Path) -> Path:
        """The file that goes to the service for a crop: the crop itself, or the photograph that it was cut from."""
        if self.photographs is None:
            return crop
        originals = images_of(self.photographs / crop.parent.name)
        return next(path for path in originals if crop.stem in (path.stem, path.name))


def draw_people(crops: Path, sizes: Sizes, seed: int, console: Console) -> People:
    """Draw the three sets; numbers of people never overlap."""
    count = {}
    first = 0
    with progress_bar(console) as progress:
        total = sum(people * images for people, images in zip(sizes.people, sizes.images, strict=True))
        task = progress.add_task("drawing", total=total)
        for name, people, images in zip(SETS, sizes.people, sizes.images, strict=True):
            written = write_synthetic(
                crops / name,
                people,
                images,
                seed,
                first_person=first,
                workers=_workers(people * images),
                progress=lambda done: progress.advance(task, done),
            )
            count[name] = (people, written)
            first += people
    return People(crops, None, "synthetic drawn people (facemargin demo)", count)


def _workers(images: int) -> int:
    """Processes for drawing: starting some pays only for many pictures."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else multiprocessing.cpu_count()
    return min(cores, 8) if images > 500 else 1


def align_people(photographs: Path, crops: Path, detector: Path | None, seed: int, console: Console) -> People:
    """Detect and align a folder of photographs and split its people.

    Of the people with two or more aligned faces, 15 % (at least `PEOPLE_PER_SET`) go to validation and as many to test;
    all others go to training.

    Raises:
        DataError: no usable folder, or too few people with two faces for three sets.
        ModelNotFoundError: there is no detector.
    """
    total = people_of(photographs)
    _require_people(photographs, sum(len(images) > 1 for images in total.values()), "photographs")
    aligned = crops / "aligned"
    report = align_folder(photographs, aligned, detector=detector, console=console if console.is_terminal else None)
    people = people_of(aligned)
    several = sorted(name for name, images in people.items() if len(images) > 1)
    _require_people(photographs, len(several), "detected faces")
    shuffled = [several[place] for place in np.random.default_rng(seed).permutation(len(several))]
    size = max(PEOPLE_PER_SET, round(_SHARE * len(several)))
    chosen = {"validation": shuffled[:size], "test": shuffled[size : 2 * size]}
    kept_apart = {name for names in chosen.values() for name in names}
    chosen["train"] = [name for name in people if name not in kept_apart]
    for name in SETS:
        (crops / name).mkdir()
        for person in chosen[name]:
            (aligned / person).rename(crops / name / person)
    shutil.move(aligned / REPORT_NAME, crops / REPORT_NAME)
    aligned.rmdir()
    count = {name: (len(chosen[name]), sum(len(people[person]) for person in chosen[name])) for name in SETS}
    return People(crops, photographs, f"people of {photographs.name}", count, report)


def _require_people(photographs: Path, found: int, what: str) -> None:
    needed = 3 * PEOPLE_PER_SET
    if found < needed:
        raise DataError(
            f"the demo needs at least {needed} people with two or more {what} ({PEOPLE_PER_SET} each for training, "
            f"validation and test, who must be different people); {photographs} has {found}"
        )


def progress_bar(console: Console) -> Progress:
    """A bar on a terminal, nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
