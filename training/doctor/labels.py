"""Labels: people and numbers without a picture, people with one picture, extreme imbalance."""

from collections.abc import Iterator

import numpy as np

from facemargin.doctor import Finding
from training.data.pictures import MOST_GAPS
from training.doctor.case import Case, DataSet

MOST_TIMES_MEAN = 20
"""A person with more than this many times the mean number of pictures is worth a note."""


def label_findings(case: Case) -> Iterator[Finding]:
    """Findings on the labels of every set; reads no pictures and looks at all labels, not at a sample."""
    for data in case.sets:
        yield _empty(data)
        yield from _gaps(data)
        yield from _counts(data)


def _empty(data: DataSet) -> Finding:
    subject = f"{data.name}: labels"
    labels, people = data.images.labels, data.images.people
    counts = np.bincount(labels, minlength=len(people))
    empty = tuple(people[k] for k in np.flatnonzero(counts == 0))
    if empty:
        return Finding(
            subject, "problem", f"{len(empty):,} of {len(people):,} people have no picture",
            "remove them or add their pictures: a class that is never the target still takes part in every softmax sum",
            empty,
        )  # fmt: skip
    return Finding(subject, "ok", f"{len(labels):,} pictures of {len(people):,} people, everyone has a picture")


def _gaps(data: DataSet) -> Iterator[Finding]:
    """Numbers that the source leaves out; a note, because every reader numbers the people anew."""
    gaps = data.images.gaps
    if gaps:
        least = "at least " if len(gaps) >= MOST_GAPS else ""
        yield Finding(
            f"{data.name}: label gaps", "note",
            f"{least}{len(gaps):,} labels below the largest have no picture; training here numbers the people anew, "
            "0 … C−1, but a program that takes the largest label for the number of classes gets empty ones",
            "make sure that no part of the set is missing; `facemargin data convert` to .rec closes the gaps",
            tuple(map(str, gaps)),
        )  # fmt: skip


def _counts(data: DataSet) -> Iterator[Finding]:
    people = data.images.people
    counts = np.bincount(data.images.labels, minlength=len(people))
    single = tuple(people[k] for k in np.flatnonzero(counts == 1))
    if single:
        yield Finding(
            f"{data.name}: people with one picture", "note",
            f"{len(single):,} of {len(people):,}: no genuine pair comes from them; in training their class vector "
            "follows one picture, and they help only as somebody else to be told from",
            "keep them in a test as impostors; in training try data.min_images = 2 and compare on the validation set",
            single,
        )  # fmt: skip
    if counts.sum() and counts.max() > MOST_TIMES_MEAN * counts.mean():
        largest = np.argsort(-counts, kind="stable")[:10]
        yield Finding(
            f"{data.name}: imbalance", "note",
            f"the largest person has {counts.max():,} pictures, {counts.max() / counts.mean():.0f} times the mean "
            f"({counts.mean():.1f}), {counts.max() / counts.sum():.0%} of the set",
            "limit pictures a person, or weight classes (class_weights); give test results over people, not pairs",
            tuple(f"{people[k]} {counts[k]:,}" for k in largest),
        )  # fmt: skip
