"""False match and false non-match rates by group of people, at one threshold for everybody, and how far they differ.

Owns the rates, their intervals over people and the largest ratio between two groups (the differentials of NIST's Face
Recognition Vendor Test, part 3, NISTIR 8280). Which threshold, and who is in which group, is the caller's business.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import ndtri

from facemargin.metrics.intervals import Bools, Floats, Interval, chunks, draw_people, percentile_interval
from facemargin.metrics.verification import SUPPORTING_ERRORS, labelled

_UNGROUPED = -1
_SMALLEST_SHARE_KNOWN = 0.95  # of the resamples that a ratio's interval may be built from


@dataclass(frozen=True)
class Rate:
    """Errors among the pairs of one kind.

    Attributes:
        errors: pairs that were decided wrongly.
        pairs: pairs of that kind.
        interval: over people, the threshold held; None without pairs, without errors or with nothing but errors, where
            every resample says the same and the bootstrap knows nothing.
    """

    errors: int
    pairs: int
    interval: Interval | None

    @property
    def value(self) -> float | None:
        """Errors over pairs; None without pairs."""
        return self.errors / self.pairs if self.pairs else None

    @property
    def supported(self) -> bool:
        """Whether at least 30 errors stand behind the rate."""
        return self.errors >= SUPPORTING_ERRORS


@dataclass(frozen=True)
class GroupErrors:
    """What happens to the people of one group.

    Attributes:
        group: its name.
        people: how many of its people are in the pairs.
        fnmr: of the genuine pairs of its people.
        fmr: of the impostor pairs of two of its people.
    """

    group: str
    people: int
    fnmr: Rate
    fmr: Rate


@dataclass(frozen=True)
class CrossErrors:
    """Impostor pairs of one person of each of two groups.

    Attributes:
        first: name of one group, before `second` in the alphabet.
        second: name of the other.
        fmr: of these pairs.
    """

    first: str
    second: str
    fmr: Rate


@dataclass(frozen=True)
class Differential:
    """The largest ratio of one rate between two groups, of those with at least 30 errors.

    Attributes:
        highest: the group with the highest rate; None where fewer than two groups have 30 errors.
        lowest: the group with the lowest.
        ratio: highest over lowest. Its interval is wide enough for all pairs of groups at once (Bonferroni), because
            the two were picked for lying furthest apart. None is "not supported": fewer than two groups with 30
            errors, or errors of so few people that resamples without any are common.
        left_out: groups with fewer than 30 errors.
    """

    highest: str | None
    lowest: str | None
    ratio: Interval | None
    left_out: tuple[str, ...]

    @property
    def supported(self) -> bool:
        """Whether a ratio can be stated."""
        return self.ratio is not None

    @property
    def shown(self) -> bool:
        """Whether the groups may be said to differ: the interval lies above 1."""
        return self.ratio is not None and self.ratio.low > 1


@dataclass(frozen=True)
class GroupReport:
    """Error rates by group at one threshold.

    Attributes:
        threshold: pairs with similarity >= threshold were accepted.
        groups: every group of the mapping, by name, also those without a pair.
        cross: every two groups, by name.
        across: all impostor pairs of people of different groups together.
        fnmr_ratio: the largest ratio of the groups' FNMR.
        fmr_ratio: the largest ratio of the groups' FMR within the group.
        ungrouped: people of the pairs without a group, sorted.
        ungrouped_pairs: pairs that were left out because of them.
    """

    threshold: float
    groups: tuple[GroupErrors, ...]
    cross: tuple[CrossErrors, ...]
    across: Rate
    fnmr_ratio: Differential
    fmr_ratio: Differential
    ungrouped: tuple[str, ...]
    ungrouped_pairs: int


def errors_by_group(
    similarity: ArrayLike,
    same: ArrayLike,
    *,
    first: Sequence[str],
    second: Sequence[str],
    groups: Mapping[str, str],
    threshold: float,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> GroupReport:
    """FNMR and FMR of each group, FMR between groups, and the largest ratios, at one threshold.

    Intervals resample people, as in `facemargin.metrics.intervals`: a genuine pair of p weighs m_p, an impostor pair
    of p and q weighs m_p m_q, the threshold is held. A ratio r has the interval r exp(±z s), s the standard deviation
    of log r over the resamples and z the normal quantile of 1 - (1 - level) / (k (k - 1)) for k supported groups.

    Args:
        similarity: (P,) finite.
        same: (P,) bool.
        first: person on one side of each pair.
        second: person on the other side; the same person exactly where `same` is true.
        groups: group of each person; who is not in it is left out and named.
        threshold: a pair is accepted when similarity >= threshold.
        resamples: of the people, at least 1.
        seed: of the resampling.
        level: of the intervals, in (0, 1).

    Raises:
        ValueError: arguments of another form, or people that contradict `same`.
    """
    scores, labels = labelled(similarity, same)
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
    people, one, other = _sides(first, second, labels)
    names = sorted(set(groups.values()))
    number = {name: k for k, name in enumerate(names)}
    of = np.array([number[groups[person]] if person in groups else _UNGROUPED for person in people])
    a, b = np.minimum(of[one], of[other]), np.maximum(of[one], of[other])
    counted = a != _UNGROUPED
    wrong = np.where(labels, scores < threshold, scores >= threshold)
    drawn = draw_people(len(people), resamples=resamples, seed=seed)

    def rate(chosen: Bools) -> tuple[Rate, Floats]:
        return _rate(one[chosen], other[chosen], wrong[chosen], drawn, level)

    fnmr = [rate(labels & (a == k) & counted) for k in range(len(names))]
    fmr = [rate(~labels & (a == k) & (b == k)) for k in range(len(names))]
    return GroupReport(
        threshold=threshold,
        groups=tuple(
            GroupErrors(name, int(np.count_nonzero(of == k)), fnmr[k][0], fmr[k][0]) for k, name in enumerate(names)
        ),
        cross=tuple(
            CrossErrors(names[j], names[k], rate(~labels & (a == j) & (b == k))[0])
            for j, k in combinations(range(len(names)), 2)
        ),
        across=rate(~labels & counted & (a != b))[0],
        fnmr_ratio=_differential(names, fnmr, level),
        fmr_ratio=_differential(names, fmr, level),
        ungrouped=tuple(person for person, group in zip(people, of, strict=True) if group == _UNGROUPED),
        ungrouped_pairs=int(np.count_nonzero(~counted)),
    )


def _sides(
    first: Sequence[str], second: Sequence[str], same: Bools
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Names of the people, sorted, and the number of the person on each side of each pair."""
    if not len(first) == len(second) == same.size:
        raise ValueError(
            f"first and second must name a person for each of the {same.size} pairs, got {len(first)} and {len(second)}"
        )
    names, numbers = np.unique(np.asarray([*first, *second], dtype=np.str_), return_inverse=True)
    one, other = numbers[: same.size], numbers[same.size :]
    against = np.flatnonzero((one == other) != same)
    if against.size:
        k = int(against[0])
        raise ValueError(f"same[{k}] is {same[k]}, but first and second are {first[k]!r} and {second[k]!r}")
    return [str(name) for name in names], one, other


def _rate(
    one: NDArray[np.int64], other: NDArray[np.int64], wrong: Bools, drawn: NDArray[np.float32], level: float
) -> tuple[Rate, Floats]:
    """The rate of some pairs of one kind, and its value in each resample (R,); NaN in one without such a pair."""
    errors, pairs = int(np.count_nonzero(wrong)), int(wrong.size)
    failed, all_ = _weights(one[wrong], other[wrong], drawn), _weights(one, other, drawn)
    values = np.where(all_ > 0, failed / np.where(all_ > 0, all_, 1.0), np.nan)
    known = 0 < errors < pairs and bool(np.isfinite(values).any())
    return Rate(errors, pairs, percentile_interval(errors / pairs, values, level=level) if known else None), values


def _weights(one: NDArray[np.int64], other: NDArray[np.int64], drawn: NDArray[np.float32]) -> Floats:
    """Total weight of these pairs in each resample, (R,), all of them genuine or all impostor.

    Pairs are first counted by person or by two people, so that millions of pairs cost what their people cost.
    """
    people = drawn.shape[1]
    if not one.size:
        return np.zeros(len(drawn))
    if one[0] == other[0]:
        genuine = np.bincount(one, minlength=people).astype(np.float64)
        return np.concatenate([m @ genuine for m in chunks(drawn)])
    pairs: Any = csr_array((np.ones(one.size), (one, other)), shape=(people, people))
    return np.concatenate([np.einsum("rp,rp->r", m @ pairs, m) for m in chunks(drawn)])


def _differential(names: Sequence[str], rates: Sequence[tuple[Rate, Floats]], level: float) -> Differential:
    left_out = tuple(name for name, (rate, _) in zip(names, rates, strict=True) if not rate.supported)
    shares = {
        name: (rate.errors / rate.pairs, values)
        for name, (rate, values) in zip(names, rates, strict=True)
        if rate.supported
    }
    if len(shares) < 2:
        return Differential(None, None, None, left_out)
    lowest, *_, highest = sorted(shares, key=lambda name: shares[name][0])
    (low, low_values), (high, high_values) = shares[lowest], shares[highest]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(high_values) - np.log(low_values)
    logs = logs[np.isfinite(logs)]
    if logs.size < max(2, _SMALLEST_SHARE_KNOWN * low_values.size):
        return Differential(highest, lowest, None, left_out)
    ratio, comparisons = high / low, math.comb(len(shares), 2)
    reach = math.exp(-float(ndtri((1 - level) / 2 / comparisons)) * float(logs.std(ddof=1)))
    return Differential(highest, lowest, Interval(ratio, ratio / reach, ratio * reach, level, logs.size), left_out)
