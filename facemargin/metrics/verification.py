"""Verification (1:1): ROC, equal error rate, AUC, TAR@FAR and k-fold accuracy from similarities.

One convention everywhere: a pair is accepted when its similarity is **greater than or equal to** the threshold.
FMR (false match rate) is the share of impostor similarities >= threshold, FNMR the share of genuine similarities
< threshold, TAR = 1 - FNMR. Only the order of the similarities matters to every number here. Owns point estimates;
their intervals are in `facemargin.metrics.intervals`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemargin.metrics.scores import Scores, as_scores, highest_allowed, just_above, same_type

SUPPORTING_ERRORS = 30
"""Fewer impostor errors than this do not support a rate (the rule of 30: about +-30 % at 90 % confidence)."""


@dataclass(frozen=True)
class Roc:
    """The whole trade-off, one point per distinct similarity plus the one that rejects everything.

    Attributes:
        thresholds: (T,) ascending, finite.
        fmr: (T,) non-increasing, from 1 to 0.
        fnmr: (T,) non-decreasing, from 0 to 1.
    """

    thresholds: NDArray[np.float64]
    fmr: NDArray[np.float64]
    fnmr: NDArray[np.float64]

    @property
    def tar(self) -> NDArray[np.float64]:
        """True accept rate 1 - FNMR, (T,)."""
        return 1.0 - self.fnmr


@dataclass(frozen=True)
class TarAtFar:
    """The best true accept rate at a bounded false match rate.

    Attributes:
        far: the bound that was asked for.
        tar: share of genuine similarities >= threshold.
        threshold: the smallest floating-point number whose FMR is <= far.
        fmr: the FMR that the threshold really has; below `far` where ties or few impostors leave a gap.
        impostors: number of impostor similarities.
        errors: impostor similarities >= threshold.
        measurable: errors >= 1; without it, the threshold is only "above every impostor". Needs impostors * far >= 1.
        supported: errors >= 30; implies measurable. Needs impostors * far >= 30, and no larger tie at the threshold.
    """

    far: float
    tar: float
    threshold: float
    fmr: float
    impostors: int
    errors: int
    measurable: bool
    supported: bool


@dataclass(frozen=True)
class KFold:
    """Accuracy per fold, each with the threshold chosen on the other folds.

    Attributes:
        mean: mean accuracy of the K folds.
        std: sample standard deviation across folds (divisor K - 1).
        stderr: std / sqrt(K), the figure after the +- in LFW tables.
        per_fold: K accuracies, in the order of `folds`.
        thresholds: K thresholds.
        folds: K fold numbers, ascending.
    """

    mean: float
    std: float
    stderr: float
    per_fold: tuple[float, ...]
    thresholds: tuple[float, ...]
    folds: tuple[int, ...]


def roc(genuine: ArrayLike, impostor: ArrayLike) -> Roc:
    """FMR(t) = #{impostor >= t} / I and FNMR(t) = #{genuine < t} / G at every distinct similarity t.

    Args:
        genuine: (G,) similarities of pairs of one person, finite.
        impostor: (I,) similarities of pairs of two people, finite.

    Returns:
        A `Roc` whose first point accepts everything and whose last rejects everything.

    Raises:
        ValueError: an input that is empty, not one-dimensional or not finite, by name.

    >>> roc([0.9, 0.5], [0.1, 0.5]).fmr.tolist()
    [1.0, 0.5, 0.0, 0.0]
    """
    g, i = np.sort(as_scores("genuine", genuine)), np.sort(as_scores("impostor", impostor))
    values = np.unique(np.concatenate([g, i]))
    thresholds = np.append(values, just_above(values[-1]))
    return Roc(
        thresholds=thresholds.astype(np.float64),
        fmr=(i.size - np.searchsorted(i, thresholds, side="left")) / i.size,
        fnmr=np.searchsorted(g, thresholds, side="left") / g.size,
    )


def eer(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """Equal error rate: where FMR = FNMR on the ROC, joined by straight lines between its points.

    With d = FMR - FNMR falling from 1 to -1 along the thresholds, and k the last point with d >= 0,
    EER = FMR_k + w (FMR_{k+1} - FMR_k), w = d_k / (d_k - d_{k+1}).

    Raises:
        ValueError: as in `roc`.
    """
    curve = roc(genuine, impostor)
    difference = curve.fmr - curve.fnmr
    k = int(np.flatnonzero(difference >= 0)[-1])
    weight = difference[k] / (difference[k] - difference[k + 1])
    return float(curve.fmr[k] + weight * (curve.fmr[k + 1] - curve.fmr[k]))


def auc(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """Area under TAR over FMR: P(genuine > impostor) + P(genuine = impostor) / 2 for a random pair of scores.

    Raises:
        ValueError: as in `roc`.
    """
    g, i = as_scores("genuine", genuine), np.sort(as_scores("impostor", impostor))
    below, up_to = np.searchsorted(i, g, side="left"), np.searchsorted(i, g, side="right")
    return float((below.sum(dtype=np.float64) + up_to.sum(dtype=np.float64)) / (2.0 * g.size * i.size))


def tar_at_far(genuine: ArrayLike, impostor: ArrayLike, far: float) -> TarAtFar:
    """The largest TAR among all thresholds whose FMR is <= far.

    The threshold lies one floating-point step above the (n+1)-th largest impostor similarity, n = max{n: n / I <= far}
    (step of float32 when both inputs are float32, else of float64), so ties at that similarity are all rejected.

    Args:
        genuine: (G,) similarities of pairs of one person, finite.
        impostor: (I,) similarities of pairs of two people, finite.
        far: the bound, in (0, 1].

    Raises:
        ValueError: as in `roc`, or a far outside (0, 1].
    """
    g, i = same_type(as_scores("genuine", genuine), as_scores("impostor", impostor))
    if not 0.0 < far <= 1.0:
        raise ValueError(f"far must be in (0, 1], got {far}")
    allowed = allowed_errors(i.size, far)
    threshold = highest_allowed(i, allowed) if allowed < i.size else min(g.min(), i.min())
    errors = int(np.count_nonzero(i >= threshold))
    return TarAtFar(
        far=far,
        tar=float(np.count_nonzero(g >= threshold) / g.size),
        threshold=float(threshold),
        fmr=errors / i.size,
        impostors=i.size,
        errors=errors,
        measurable=errors >= 1,
        supported=errors >= SUPPORTING_ERRORS,
    )


def allowed_errors(impostors: int, far: float) -> int:
    """The largest n with n / impostors <= far, in floating point as it is written (29 of 100 at 0.29)."""
    n = int(impostors * far)
    if (n + 1) / impostors <= far:
        return n + 1
    return n if n / impostors <= far else n - 1


def best_threshold(similarity: ArrayLike, same: ArrayLike) -> float:
    """The threshold with the highest accuracy on these pairs.

    Candidates are the similarities themselves and one that rejects everything; among equally good ones the middle one
    (the lower of two) is taken.

    Raises:
        ValueError: similarities that are empty or not finite, or labels of another shape.
    """
    scores, labels = labelled(similarity, same)
    order = np.argsort(scores, kind="stable")
    ordered, positive = scores[order], labels[order]
    first = np.append(np.flatnonzero(np.diff(ordered, prepend=-np.inf) > 0), ordered.size)
    genuine_below = np.concatenate([[0], np.cumsum(positive)])[first]
    impostors_below = first - genuine_below
    correct = impostors_below + (positive.sum() - genuine_below)
    best = np.flatnonzero(correct == correct.max())
    chosen = first[best[(best.size - 1) // 2]]
    return float(just_above(ordered[-1]) if chosen == ordered.size else ordered[chosen])


def accuracy_at(similarity: ArrayLike, same: ArrayLike, threshold: float) -> float:
    """Share of pairs that are decided rightly when similarity >= threshold means "same".

    Raises:
        ValueError: similarities that are empty or not finite, or labels of another shape.
    """
    scores, labels = labelled(similarity, same)
    return float(np.mean((scores >= threshold) == labels))


def kfold_accuracy(similarity: ArrayLike, same: ArrayLike, fold: ArrayLike) -> KFold:
    """LFW's accuracy: each fold is decided with the best threshold of all the *other* folds given.

    Of a part of a protocol (say folds 6-10) the thresholds come from the other folds of that part only.

    Args:
        similarity: (P,) finite.
        same: (P,) bool.
        fold: (P,) integers, at least two different ones; for one fold there is `halves_accuracy`.

    Raises:
        ValueError: similarities empty or not finite, labels or folds of another form, or fewer than two folds.
    """
    scores, labels = labelled(similarity, same)
    folds = fold_numbers(fold)
    if folds.shape != scores.shape:
        raise ValueError(f"fold must have the shape of similarity, {scores.shape}, got {folds.shape}")
    numbers = np.unique(folds)
    thresholds = [best_threshold(scores[folds != k], labels[folds != k]) for k in numbers]
    per_fold = [
        accuracy_at(scores[folds == k], labels[folds == k], t) for k, t in zip(numbers, thresholds, strict=True)
    ]
    std = float(np.std(per_fold, ddof=1))
    return KFold(
        mean=float(np.mean(per_fold)),
        std=std,
        stderr=std / float(np.sqrt(numbers.size)),
        per_fold=tuple(per_fold),
        thresholds=tuple(thresholds),
        folds=tuple(int(k) for k in numbers),
    )


def fold_numbers(fold: ArrayLike) -> NDArray[np.int64]:
    """The fold of each pair, checked: with a single fold no threshold could come from another.

    Raises:
        ValueError: numbers that are not whole, or fewer than two different ones.
    """
    folds = np.asarray(fold)
    if not np.issubdtype(folds.dtype, np.integer):
        raise ValueError(f"fold must be an array of integers, got {folds.dtype}")
    if np.unique(folds).size < 2:
        raise ValueError("fold must hold at least 2 different folds, got 1: use halves_accuracy for a single fold")
    return folds.astype(np.int64)


def halves_accuracy(similarity: ArrayLike, same: ArrayLike) -> KFold:
    """Accuracy inside one fold: its first half decided with the best threshold of the second, and the other way round.

    The halves are the first and the second half, in the order given, of the genuine and of the impostor pairs each;
    in LFW's files, sorted by name, this keeps most people in one half. Not comparable with `kfold_accuracy`: fewer
    pairs set the threshold, and the two halves may share people.

    Args:
        similarity: (P,) finite.
        same: (P,) bool, at least two of each kind.

    Returns:
        A `KFold` with the "folds" 1 and 2.

    Raises:
        ValueError: similarities empty or not finite, labels of another shape, or fewer than two pairs of a kind.
    """
    return kfold_accuracy(similarity, same, halves(same))


def halves(same: ArrayLike) -> NDArray[np.int64]:
    """1 for the first and 2 for the second half of the genuine and of the impostor pairs, as in `halves_accuracy`.

    Args:
        same: (P,) bool, at least two of each kind.

    Raises:
        ValueError: fewer than two pairs of a kind.
    """
    labels = np.asarray(same, dtype=np.bool_)
    half = np.ones(labels.shape, dtype=np.int64)
    for kind, places in (("genuine", np.flatnonzero(labels)), ("impostor", np.flatnonzero(~labels))):
        if places.size < 2:
            raise ValueError(f"same must hold at least 2 {kind} pairs to halve them, got {places.size}")
        half[places[places.size // 2 :]] = 2
    return half


def labelled(similarity: ArrayLike, same: ArrayLike) -> tuple[Scores, NDArray[np.bool_]]:
    """Similarities and bool labels of one shape, checked.

    Raises:
        ValueError: anything else, naming the argument.
    """
    scores, labels = as_scores("similarity", similarity), np.asarray(same)
    if labels.shape != scores.shape:
        raise ValueError(f"same must have the shape of similarity, {scores.shape}, got {labels.shape}")
    if labels.dtype != np.bool_:
        raise ValueError(f"same must be an array of bool, got {labels.dtype}")
    return scores, labels
