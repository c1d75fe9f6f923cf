"""Labels: classes without a picture, labels outside the classes, people with one picture, extreme imbalance."""

from collections.abc import Iterator

import numpy as np

from facemargin.doctor import Finding
from training.doctor.case import Case, DataSet

MOST_TIMES_MEAN = 20
"""A person with more than this many times the mean number of pictures is worth a note."""


def label_findings(case: Case) -> Iterator[Finding]:
    """Findings on the labels of every set; reads no pictures and looks at all labels, not at a sample."""
    for data in case.sets:
        yield _gaps(data)
        yield from _counts(data)


def _gaps(data: DataSet) -> Finding:
    subject = f"{data.name}: labels"
    labels, people = data.images.labels, data.images.people
    outside = np.unique(labels[(labels < 0) | (labels >= len(people))])
    if outside.size:
        return Finding(
            subject, "problem", f"{outside.size:,} labels are outside 0 … {len(people) - 1:,}",
            "number the people 0 … C−1 without gaps, as `facemargin data convert` does",
            tuple(str(label) for label in outside.tolist()),
        )  # fmt: skip
    counts = np.bincount(labels, minlength=len(people))
    empty = tuple(people[k] for k in np.flatnonzero(counts == 0))
    if empty:
        return Finding(
            subject, "problem", f"{len(empty):,} of {len(people):,} people have no picture",
            "remove them or add their pictures: a class that is never the target still takes part in every softmax sum",
            empty,
        )  # fmt: skip
    return Finding(subject, "ok", f"{len(labels):,} pictures of {len(people):,} people, everyone has a picture")


def _counts(data: DataSet) -> Iterator[Finding]:
    people = data.images.people
    labels = data.images.labels
    counts = np.bincount(labels[(labels >= 0) & (labels < len(people))], minlength=len(people))
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
