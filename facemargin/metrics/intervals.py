"""Bootstrap intervals over people, and for the difference of two models on the same pairs.

Pairs that share a person are not independent, so people are resampled, not pairs: person p is drawn m_p times, a
genuine pair of p weighs m_p and an impostor pair of p and q weighs m_p m_q (both ends). A statistic is recomputed
under each set of weights and the interval holds its middle 95 %. For impostor pairs this is the pigeonhole bootstrap
(Owen, Annals of Applied Statistics 1, 2007), whose intervals are a little wide rather than narrow.

A statistic takes similarities (P,), labels (P,) and weights (R, P) and returns (R,) values, NaN where a resample holds
no genuine or no impostor pair. With weights of 1 it equals its namesake in `facemargin.metrics.verification`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemargin.metrics.scores import Scores
from facemargin.metrics.verification import fold_numbers, labelled

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Statistic = Callable[[Scores, Bools, Floats], Floats]

_CHUNK_CELLS = 4_000_000  # weights handled at once: 32 MB an array


@dataclass(frozen=True)
class Interval:
    """A point estimate with its percentile interval.

    Attributes:
        value: the statistic of the pairs as they are.
        low: lower end.
        high: upper end.
        level: share of the resamples between the ends.
        resamples: how many resamples gave a value.
    """

    value: float
    low: float
    high: float
    level: float
    resamples: int

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference may be called one."""
        return self.low > 0 or self.high < 0


def people_weights(
    first: Sequence[str], second: Sequence[str], *, resamples: int = 1000, seed: int = 0
) -> NDArray[np.float32]:
    """Weight of every pair in every resample of the people.

    Args:
        first: person on one side of each of the P pairs.
        second: person on the other side.
        resamples: number R of resamples, at least 1.
        seed: of the random generator.

    Returns:
        float32 (R, P), whole numbers.

    Raises:
        ValueError: sides of different length, no pairs, or resamples < 1.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"first and second must be equally long and not empty, got {len(first)} and {len(second)}")
    names, numbers = np.unique(np.asarray([*first, *second], dtype=np.str_), return_inverse=True)
    one, other = numbers[: len(first)], numbers[len(first) :]
    drawn = draw_people(names.size, resamples=resamples, seed=seed)
    return np.where(one == other, drawn[:, one], drawn[:, one] * drawn[:, other])


def draw_people(people: int, *, resamples: int, seed: int) -> NDArray[np.float32]:
    """How often each of the people is drawn in each resample: float32 (R, people), whole numbers.

    Raises:
        ValueError: resamples < 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    random = np.random.default_rng(seed)
    return random.multinomial(people, np.full(people, 1 / people), size=resamples).astype(np.float32)


def interval(
    statistic: Statistic, similarity: ArrayLike, same: ArrayLike, weights: NDArray[Any], *, level: float = 0.95
) -> Interval:
    """Percentile interval of a statistic under the resamples of `people_weights`.

    Raises:
        ValueError: similarities, labels or weights of the wrong form, or no resample with pairs of both kinds.
    """
    scores, labels = labelled(similarity, same)
    return _percentiles(lambda w: statistic(scores, labels, w), scores.size, weights, level)


def resampled(statistic: Statistic, similarity: ArrayLike, same: ArrayLike, weights: NDArray[Any]) -> Floats:
    """The statistic under each resample, (R,); NaN where a resample lacks pairs of a kind.

    Raises:
        ValueError: similarities, labels or weights of the wrong form.
    """
    scores, labels = labelled(similarity, same)
    return _values(lambda w: statistic(scores, labels, w), scores.size, weights)


def difference_interval(
    statistic: Statistic,
    similarity: ArrayLike,
    other: ArrayLike,
    *,
    same: ArrayLike,
    weights: NDArray[Any],
    level: float = 0.95,
) -> Interval:
    """Paired bootstrap: the interval of statistic(similarity) - statistic(other), both under the same resamples.

    Raises:
        ValueError: as in `interval`, or two models scored on different numbers of pairs.
    """
    (a, labels), (b, _) = labelled(similarity, same), labelled(other, same)
    return _percentiles(lambda w: statistic(a, labels, w) - statistic(b, labels, w), a.size, weights, level)


def tar_statistic(far: float) -> Statistic:
    """TAR at the largest FMR <= far, as a statistic."""
    return partial(_tar, far)


def accuracy_statistic(fold: ArrayLike) -> Statistic:
    """Mean accuracy over the folds, each with the threshold of the other folds, as a statistic.

    A fold whose pairs, or whose other folds' pairs, all weigh 0 in a resample is left out of that resample's mean.

    Args:
        fold: (P,) integers, at least two different ones.

    Raises:
        ValueError: folds that are not integers, or fewer than two.
    """
    return partial(_accuracy, fold_numbers(fold))


def eer_statistic(scores: Scores, same: Bools, weights: Floats) -> Floats:
    """Equal error rate by interpolation."""
    fmr, fnmr = _error_rates(scores, same, weights)
    difference = fmr - fnmr
    k = (difference >= 0).sum(axis=1) - 1  # the difference never rises along the thresholds
    rows = np.arange(len(k))
    known = k >= 0
    k = np.where(known, k, 0)
    here, after = difference[rows, k], difference[rows, k + 1]
    with np.errstate(invalid="ignore"):
        value = fmr[rows, k] + here / (here - after) * (fmr[rows, k + 1] - fmr[rows, k])
    return np.where(known, value, np.nan)


def auc_statistic(scores: Scores, same: Bools, weights: Floats) -> Floats:
    """Area under TAR over FMR, ties counted half."""
    fmr, fnmr = _error_rates(scores, same, weights)
    area: Floats = ((fmr[:, :-1] - fmr[:, 1:]) * (1 - (fnmr[:, :-1] + fnmr[:, 1:]) / 2)).sum(axis=1)
    return area


def _tar(far: float, scores: Scores, same: Bools, weights: Floats) -> Floats:
    fmr, fnmr = _error_rates(scores, same, weights)
    first = (fmr <= far).argmax(axis=1)
    tar: Floats = np.where(np.isnan(fmr[:, 0]), np.nan, 1 - fnmr[np.arange(len(first)), first])
    return tar


def _accuracy(fold: NDArray[np.int64], scores: Scores, same: Bools, weights: Floats) -> Floats:
    if fold.shape != scores.shape:
        raise ValueError(f"fold must have the shape of similarity, {scores.shape}, got {fold.shape}")
    per_fold = [_fold_accuracy(fold == k, scores, same, weights) for k in np.unique(fold)]
    known = np.isfinite(per_fold)
    counted = known.sum(axis=0)
    total = np.where(known, per_fold, 0.0).sum(axis=0)
    mean: Floats = np.where(counted > 0, total / np.maximum(counted, 1), np.nan)
    return mean


def _fold_accuracy(tested: Bools, scores: Scores, same: Bools, weights: Floats) -> Floats:
    """Weighted accuracy of the tested pairs at the best threshold of the others (the middle one of equally good)."""
    values, genuine_below, impostor_below = _below(scores[~tested], same[~tested], weights[:, ~tested])
    correct = impostor_below - genuine_below  # up to a constant
    best = correct == correct.max(axis=1, keepdims=True)
    rank = best.cumsum(axis=1)
    middle = (rank == (rank[:, -1:] - 1) // 2 + 1).argmax(axis=1)
    chosen, held_out = values[middle], weights[:, tested]
    right = (scores[tested] >= chosen[:, None]) == same[tested]
    total = held_out.sum(axis=1)
    usable = (total > 0) & (genuine_below[:, -1] + impostor_below[:, -1] > 0)
    accuracy: Floats = np.where(usable, (held_out * right).sum(axis=1) / np.where(usable, total, 1.0), np.nan)
    return accuracy


def _error_rates(scores: Scores, same: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """FMR and FNMR (R, T) at ascending thresholds; rows of NaN where a kind has no weight."""
    _, genuine_below, impostor_below = _below(scores, same, weights)
    genuine, impostor = genuine_below[:, -1:], impostor_below[:, -1:]
    usable = (genuine > 0) & (impostor > 0)
    fnmr = np.where(usable, genuine_below / np.where(usable, genuine, 1.0), np.nan)
    # Whole numbers over whole numbers: rounded once, as in `allowed_errors`, so that comparing with a bound is exact.
    fmr = np.where(usable, (impostor - impostor_below) / np.where(usable, impostor, 1.0), np.nan)
    return fmr, fnmr


def _below(scores: Scores, same: Bools, weights: Floats) -> tuple[Scores, Floats, Floats]:
    """Thresholds (T,), and the weight of genuine and impostor pairs (R, T) below each.

    The thresholds are the distinct scores, ascending, and infinity.
    """
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    first = np.append(np.flatnonzero(np.diff(ordered, prepend=-np.inf) > 0), ordered.size)
    sides = []
    for side in (same[order], ~same[order]):
        running = np.zeros((len(weights), ordered.size + 1))
        np.cumsum(weights[:, order] * side, axis=1, out=running[:, 1:])
        sides.append(running[:, first])
    return np.append(ordered, np.inf)[first], sides[0], sides[1]


def _percentiles(statistic: Callable[[Floats], Floats], pairs: int, weights: NDArray[Any], level: float) -> Interval:
    values = _values(statistic, pairs, weights)
    return percentile_interval(float(statistic(np.ones((1, pairs)))[0]), values, level=level)


def _values(statistic: Callable[[Floats], Floats], pairs: int, weights: NDArray[Any]) -> Floats:
    if weights.ndim != 2 or weights.shape[1] != pairs or not len(weights):
        raise ValueError(f"weights must have the shape (resamples, {pairs}), got {weights.shape}")
    return np.concatenate([statistic(chunk) for chunk in chunks(weights)])


def chunks(weights: NDArray[Any]) -> Iterator[Floats]:
    """The resamples as float64, so many rows at a time that they take some 32 MB."""
    rows = max(1, _CHUNK_CELLS // weights.shape[1])
    return (weights[k : k + rows].astype(np.float64) for k in range(0, len(weights), rows))


def percentile_interval(value: float, values: Floats, *, level: float) -> Interval:
    """The middle `level` of the resampled values, those that are NaN left out.

    Raises:
        ValueError: a level outside (0, 1), or no value at all.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
    known = values[np.isfinite(values)]
    if not known.size:
        raise ValueError("no resample holds both genuine and impostor pairs: there are too few people")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high), level=level, resamples=known.size)
