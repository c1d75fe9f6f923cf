"""Whether a bundle, a config and the pictures agree on the preprocessing: size, template, colour order, mean and std.

Fields are compared where two descriptions exist. Where only the model can tell, it is asked: with the right
preprocessing pictures of one person lie nearer together than with a wrong one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemargin.bundle import Bundle
from facemargin.doctor import Finding
from facemargin.embedder import Embedder
from facemargin.metrics import all_pairs, auc
from facemargin.preprocessing import Preprocessing
from training.doctor.case import Case, DataSet
from training.doctor.embedding import embed_places, embeddable
from training.doctor.reading import measured

PICTURES = 600
"""Pictures of a set on which alternatives are tried: of people with two or more, at most `OF_ONE` of each."""

OF_ONE = 6
GROUPS = 10
"""The people are dealt into so many groups; the area under the ROC of each is one observation."""

FEWEST_PEOPLE = 40
SURE = 4.0
"""Least gain of an alternative in units of its standard error over the groups."""

GAIN = 0.01
"""Least gain in the area under the ROC that is worth a word."""

LOW_AUC = 0.7

ALTERNATIVES: dict[str, dict[str, Any]] = {
    "(v − 127.5) / 127.5": {"mean": 127.5, "std": 127.5},
    "v / 255": {"mean": 0.0, "std": 255.0},
    "v from 0 to 255 as it is": {"mean": 0.0, "std": 1.0},
    "ImageNet's mean and std": {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
}
"""Normalisations that models are trained with, v a value 0 … 255."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One preprocessing on one set: its name and the area under the ROC in each group of people."""

    name: str
    areas: NDArray[np.float64]


def agreement_findings(case: Case) -> Iterator[Finding]:
    """Descriptions against each other, then the model against the pictures of the largest usable set."""
    if case.expected is not None and case.bundle is not None:
        theirs = case.bundle.manifest.preprocessing
        if theirs is not case.expected:
            yield _fields("config and bundle: preprocessing", case.expected, theirs, "the bundle")
    if case.expected is not None and case.start is not None:
        yield _fields("config and start_from: preprocessing", case.expected, case.start[1], case.start[0])
    if case.bundle is not None:
        for data in embeddable(case):
            yield _asked(case, case.bundle, data)


def _fields(subject: str, config: Preprocessing, other: Preprocessing, who: str) -> Finding:
    """Compare two descriptions field by field."""
    ours, theirs = config.model_dump(), other.model_dump()
    unlike = [key for key in ours if not _equal(ours[key], theirs[key])]
    if not unlike:
        return Finding(subject, "ok", f"the same in the config and in {who}")
    said = "; ".join(f"{key} {ours[key]} against {theirs[key]}" for key in unlike)
    return Finding(
        subject, "problem", f"the config differs from {who}: {said}",
        f"write the values of {who} into [preprocessing] of the config",
    )  # fmt: skip


def _equal(one: Any, other: Any) -> bool:
    """Equality of two values of a field; one number stands for the same number in every channel."""
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    return bool(np.all(np.equal(one, other)))


def alternatives(stated: Preprocessing) -> dict[str, Preprocessing]:
    """The stated preprocessing (under the empty name) and others worth trying."""
    other = "rgb" if stated.colour == "bgr" else "bgr"
    found = {"": stated, f"colour {other}": stated.model_copy(update={"colour": other})}
    for name, change in ALTERNATIVES.items():
        changed = stated.model_copy(update=change)
        if not (_equal(changed.mean, stated.mean) and _equal(changed.std, stated.std)):
            found[name] = changed
    return found


def _asked(case: Case, bundle: Bundle, data: DataSet) -> Finding:
    subject = f"{data.name}: preprocessing by the model"
    places = trial_places(data, case.once(measured, data).places)
    people = len(np.unique(data.images.labels[places]))
    if people < FEWEST_PEOPLE:
        return Finding(
            subject, "missing", f"only {people} people have two pictures; {FEWEST_PEOPLE} are needed to ask the model"
        )
    stated, *others = (
        Trial(name, _areas(case, bundle, data, places, preprocessing))
        for name, preprocessing in alternatives(bundle.manifest.preprocessing).items()
    )
    area = float(stated.areas.mean())
    measuredly = f"area under the ROC {area:.3f} on {len(places)} pictures of {people} people"
    better = sorted((trial for trial in others if clearly_better(trial, stated)), key=lambda trial: -trial.areas.mean())
    if better:
        gains = ", ".join(f"{trial.name} {trial.areas.mean():.3f}" for trial in better)
        return Finding(
            subject, "problem", f"{measuredly} as the bundle says, but clearly more with {gains}",
            "export or import the bundle anew with that preprocessing, or swap the pictures if they are what is wrong",
        )  # fmt: skip
    if area < LOW_AUC:
        return Finding(
            subject, "problem", f"{measuredly}: the bundle hardly tells these people apart, whichever normalisation",
            "check the alignment and labels of the pictures, and that the bundle is the one you mean",
        )  # fmt: skip
    return Finding(subject, "ok", f"{measuredly}; no other colour order, mean or std is clearly better")


def clearly_better(trial: Trial, stated: Trial) -> bool:
    """Whether the gain is at least `GAIN` and at least `SURE` standard errors over the groups of people."""
    gain = trial.areas - stated.areas
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return bool(gain.mean() >= GAIN and gain.mean() >= SURE * error)


def trial_places(data: DataSet, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pictures of people who have two or more of them, whole people at random with a fixed seed."""
    labels = data.images.labels[places]
    classes, counts = np.unique(labels, return_counts=True)
    order = np.random.default_rng(0).permutation(classes[counts >= 2])
    chosen: list[int] = []
    for label in order:
        if len(chosen) >= PICTURES:
            break
        chosen += places[labels == label][:OF_ONE].tolist()
    return np.array(chosen, dtype=np.int64)


def _areas(
    case: Case, bundle: Bundle, data: DataSet, places: NDArray[np.int64], preprocessing: Preprocessing
) -> NDArray[np.float64]:
    changed = Bundle(bundle.path, bundle.manifest.model_copy(update={"preprocessing": preprocessing}))
    rows = embed_places(case, data, places, Embedder(changed))
    labels = data.images.labels[places]
    group = np.unique(labels, return_inverse=True)[1] % GROUPS
    areas = []
    for number in range(GROUPS):
        mine = group == number
        scores = all_pairs(rows[mine], [str(label) for label in labels[mine]])
        areas.append(auc(scores.genuine, scores.impostor))
    return np.array(areas)
