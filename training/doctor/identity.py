"""The same person in two sets that must be apart, by embedding, whatever their names.

Every person of one set is compared with every person of the other: millions of comparisons, of which the highest
cosines would be high by chance alone. So the number of pairs above a threshold is compared with what chance gives, and
chance is measured where it can be: between people whom one set itself calls different.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import poisson

from facemargin.doctor import Finding
from facemargin.errors import UnsupportedFmrError
from facemargin.metrics.calibration import Calibration
from training.doctor.case import Case, DataSet
from training.doctor.embedding import Templates, embeddable, templates
from training.doctor.names import normalised, reported_people

BY_CHANCE = 1.0
"""Pairs of different people above the threshold that the calibration expects among all comparisons."""

SIGNIFICANCE = 0.01
"""Largest probability of so many pairs by chance at which more are called a problem."""

_BLOCK = 1024


@dataclass(frozen=True)
class Match:
    """Two people whose templates are alike: numbers into the two lists of templates, and the cosine."""

    one: int
    other: int
    cosine: float


def identity_findings(case: Case) -> Iterator[Finding]:
    """One finding for every two sets that must be apart; needs a bundle."""
    if case.bundle is None:
        return
    ready = embeddable(case)
    for one, other in case.apart():
        subject = f"{one.name} and {other.name}: faces"
        if one not in ready or other not in ready:
            yield Finding(subject, "missing", "not compared: not all pictures are aligned crops", "align them first")
        elif case.bundle.manifest.calibration is None:
            yield Finding(
                subject, "missing", "not compared: the bundle has no calibration, so no threshold has a known FMR",
                "facemargin calibrate --bundle DIR --images DIR",
            )  # fmt: skip
        else:
            yield _compared(case, one, other, case.bundle.manifest.calibration, subject)


def _compared(case: Case, one: DataSet, other: DataSet, calibration: Calibration, subject: str) -> Finding:
    first, second = case.once(templates, one), case.once(templates, other)
    named = reported_people(one, other)
    first, second = (_without(found, data, named.keys()) for found, data in ((first, one), (second, other)))
    comparisons = len(first.rows) * len(second.rows)
    if not comparisons:
        return Finding(subject, "missing", "nobody is left to compare beside those with the same name")
    threshold, expected = _threshold(calibration, comparisons)
    # groups of a set that tells no people may be one person twice, whose likeness is not chance
    told = [found.rows for found, data in ((first, one), (second, other)) if data.tells_people]
    rate = within_rate(told, threshold)
    chance = max(expected, rate * comparisons)
    matches = best_matches(first.rows, second.rows, threshold)
    said = (
        f"{len(first.rows):,} people against {len(second.rows):,}: {len(matches)} pairs of people above cosine "
        f"{threshold:.3f}; chance alone gives about {chance:.1f} (calibration {expected:.1f}, people whom a set itself "
        f"calls different {rate * comparisons:.1f})"
    )
    pairs = tuple(_called(match, (one, first), (other, second)) for match in matches)
    if not matches:
        return Finding(subject, "ok", f"{said}; a weak model sees only some of the shared people")
    if poisson.sf(len(matches) - 1, chance) > SIGNIFICANCE:
        return Finding(
            subject, "note", f"{said}: no more than chance", "look at the pictures of the first few pairs", pairs
        )
    return Finding(
        subject, "problem", f"{said}: clearly more than chance, and a weak model sees only some of the shared people",
        "look at the pictures of each pair; remove who is in both from one set", pairs,
    )  # fmt: skip


def _without(found: Templates, data: DataSet, names: Collection[str]) -> Templates:
    """Templates of the people whose name is not among these: the check of names has reported them."""
    kept = np.array([normalised(data.person(int(place))) not in names for place in found.places], dtype=np.bool_)
    return Templates(found.labels[kept], found.rows[kept], found.places[kept])


def _threshold(calibration: Calibration, comparisons: int) -> tuple[float, float]:
    """The cosine above which the calibration expects `BY_CHANCE` pairs, and how many it expects there."""
    wanted = min(1.0, BY_CHANCE / comparisons)
    try:
        found = calibration.threshold(wanted, extrapolate=True)
    except UnsupportedFmrError as error:
        found = calibration.threshold(error.smallest_supported, extrapolate=True)
    return found.value, found.fmr * comparisons


def within_rate(sets: Sequence[NDArray[np.float32]], threshold: float) -> float:
    """Share of the pairs of different people within the sets whose cosine reaches the threshold; 0 without a pair."""
    pairs = sum(len(rows) * (len(rows) - 1) // 2 for rows in sets)
    found = 0
    for rows in sets:
        for start in range(0, len(rows), _BLOCK):
            cosines = rows[start : start + _BLOCK] @ rows[start:].T
            found += int(np.count_nonzero(np.triu(cosines >= threshold, 1)))
    return found / pairs if pairs else 0.0


def best_matches(one: NDArray[np.float32], other: NDArray[np.float32], threshold: float) -> list[Match]:
    """Pairs of rows at or above the threshold, the highest cosine first and everyone at most once.

    Everyone once, so that one face that resembles everybody counts once.
    """
    above = []
    for start in range(0, len(one), _BLOCK):
        cosines = one[start : start + _BLOCK] @ other.T
        rows, columns = np.nonzero(cosines >= threshold)
        above += [Match(start + int(i), int(j), float(cosines[i, j])) for i, j in zip(rows, columns, strict=True)]
    above.sort(key=lambda match: -match.cosine)
    seen: tuple[set[int], set[int]] = (set(), set())
    kept = []
    for match in above:
        if match.one not in seen[0] and match.other not in seen[1]:
            kept.append(match)
            seen[0].add(match.one)
            seen[1].add(match.other)
    return kept


def _called(match: Match, one: tuple[DataSet, Templates], other: tuple[DataSet, Templates]) -> str:
    names = [
        data.called(int(found.places[number])) for (data, found), number in ((one, match.one), (other, match.other))
    ]
    return f"{names[0]} ~ {names[1]} ({match.cosine:.3f})"
