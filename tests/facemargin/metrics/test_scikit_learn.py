"""Every verification and identification figure, plain and weighted, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import brentq
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, det_curve, roc_auc_score, roc_curve, top_k_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut

from facemargin.metrics import (
    accuracy_at,
    accuracy_statistic,
    auc,
    auc_statistic,
    best_threshold,
    cmc,
    eer,
    eer_statistic,
    identify,
    kfold_accuracy,
    roc,
    tar_at_far,
    tar_statistic,
)
from facemargin.metrics.logistic import fit_logistic

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]
FARS = (0.001, 0.01, 0.05, 0.1, 0.5)


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    """Scores, labels and whole weights: with few ties, with many, with a single pair of a kind, or all equal."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    genuine, impostor = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    same = random.permutation(np.repeat([True, False], [genuine, impostor]))
    scores = np.round(random.normal(0.5 * same, 0.5), draw(st.sampled_from([0, 1, 8])))
    weights = random.integers(0, 4, same.size).astype(float)
    weights[[np.flatnonzero(same)[0], np.flatnonzero(~same)[0]]] = 1.0
    return draw(st.sampled_from([scores, scores, np.zeros_like(scores)])), same, weights


checked = settings(max_examples=60, deadline=None)


def rates(scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    return roc_curve(same, scores, drop_intermediate=False, sample_weight=weights)


def crossing(fmr: np.ndarray, tar: np.ndarray) -> float:
    """Where the ROC, joined by straight lines, meets FMR = 1 - TAR: by bisection along the curve's own length."""
    along = np.arange(fmr.size)
    at = brentq(lambda x: np.interp(x, along, fmr) - 1 + np.interp(x, along, tar), 0, fmr.size - 1, xtol=1e-13)
    return float(np.interp(at, along, fmr))


@checked
@given(drawn())
def test_the_roc(found: Drawn) -> None:
    scores, same, _ = found
    fmr, tar, thresholds = rates(scores, same)
    mine = roc(scores[same], scores[~same])
    assert mine.fmr.tolist() == fmr[::-1].tolist()  # bit for bit: both divide whole numbers once
    assert_allclose(mine.tar, tar[::-1], atol=1e-15)
    assert mine.thresholds[:-1].tolist() == thresholds[:0:-1].tolist()
    assert set(zip(*det_curve(same, scores)[:2], strict=True)) <= set(zip(mine.fmr, mine.fnmr, strict=True))


@checked
@given(drawn())
def test_auc_and_eer(found: Drawn) -> None:
    scores, same, _ = found
    assert auc(scores[same], scores[~same]) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
    assert eer(scores[same], scores[~same]) == pytest.approx(crossing(*rates(scores, same)[:2]), abs=1e-9)


@checked
@given(drawn(), st.sampled_from(FARS))
def test_tar_at_far(found: Drawn, far: float) -> None:
    scores, same, _ = found
    fmr, tar, _ = rates(scores, same)
    mine = tar_at_far(scores[same], scores[~same], far)
    assert mine.tar == pytest.approx(tar[fmr <= far].max(), abs=1e-15)
    assert mine.fmr == fmr[fmr <= far].max()


@checked
@given(drawn())
def test_the_best_threshold(found: Drawn) -> None:
    scores, same, _ = found
    accuracies = [np.mean(same == (scores >= t)) for t in rates(scores, same)[2]]
    threshold = best_threshold(scores, same)
    assert accuracy_at(scores, same, threshold) == max(accuracies) == accuracy_score(same, scores >= threshold)


def folds_of(size: int) -> np.ndarray:
    return np.arange(size) % 3


@checked
@given(drawn().filter(lambda found: found[0].size >= 6))
def test_k_fold_accuracy_over_groups_left_out_one_by_one(found: Drawn) -> None:
    scores, same, _ = found
    fold = folds_of(scores.size)
    mine = kfold_accuracy(scores, same, fold)
    for k, (others, tested) in enumerate(LeaveOneGroupOut().split(scores, same, fold)):
        best = max(np.mean(same[others] == (scores[others] >= t)) for t in [*np.unique(scores[others]), np.inf])
        assert accuracy_score(same[others], scores[others] >= mine.thresholds[k]) == best
        assert mine.per_fold[k] == accuracy_score(same[tested], scores[tested] >= mine.thresholds[k])


@checked
@given(drawn())
def test_weighted_auc_and_eer(found: Drawn) -> None:
    scores, same, weights = found
    expected = roc_auc_score(same, scores, sample_weight=weights)
    assert auc_statistic(scores, same, weights[None])[0] == pytest.approx(expected, abs=1e-12)
    expected = crossing(*rates(scores, same, weights)[:2])
    assert eer_statistic(scores, same, weights[None])[0] == pytest.approx(expected, abs=1e-9)


@checked
@given(drawn(), st.sampled_from(FARS))
def test_weighted_tar_at_far(found: Drawn, far: float) -> None:
    scores, same, weights = found
    fmr, tar, _ = rates(scores, same, weights)
    assert tar_statistic(far)(scores, same, weights[None])[0] == pytest.approx(tar[fmr <= far].max(), abs=1e-12)


@checked
@given(drawn().filter(lambda found: found[0].size >= 6))
def test_weighted_k_fold_accuracy(found: Drawn) -> None:
    scores, same, weights = found
    fold, per_fold = folds_of(scores.size), []
    for others, tested in LeaveOneGroupOut().split(scores, same, fold):
        if weights[others].sum() and weights[tested].sum():
            candidates = [*np.unique(scores[others]), np.inf]
            right = [weights[others] @ (same[others] == (scores[others] >= t)) for t in candidates]
            best = np.flatnonzero(right == np.max(right))
            threshold = candidates[best[(best.size - 1) // 2]]
            per_fold.append(accuracy_score(same[tested], scores[tested] >= threshold, sample_weight=weights[tested]))
    mine = accuracy_statistic(fold)(scores, same, weights[None])[0]
    assert mine == pytest.approx(np.mean(per_fold), abs=1e-12)


def test_rank_k() -> None:
    random = np.random.default_rng(0)
    gallery, probes = random.normal(size=(30, 6)), random.normal(size=(200, 6))
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    labels = random.integers(0, 30, 200)
    names = [f"p{k:02}" for k in range(30)]
    found = identify(gallery, names, probes=probes, probe_people=[names[k] for k in labels])
    expected = [top_k_accuracy_score(labels, probes @ gallery.T, k=k, labels=np.arange(30)) for k in range(1, 30)]
    assert_allclose(cmc(found, ranks=29), expected)


@pytest.mark.parametrize("prior", [0.5, 0.01])
def test_the_logistic_curve(prior: float) -> None:
    """Soft targets y are two samples, one of each class, weighing y and 1 - y."""
    random = np.random.default_rng(1)
    genuine, impostor = random.normal(0.5, 0.2, 300), random.normal(0.1, 0.2, 2000)
    scores = np.concatenate([genuine, impostor])
    share = np.repeat([prior / 300, (1 - prior) / 2000], [300, 2000])
    target = np.repeat([301 / 302, 1 / 2002], [300, 2000])
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    weights = 1000 * np.concatenate([share * target, share * (1 - target)])
    peer.fit(np.tile(scores, 2)[:, None], np.repeat([1, 0], scores.size), sample_weight=weights)
    line = fit_logistic(genuine, impostor, prior=prior)
    assert line.slope == pytest.approx(peer.coef_[0, 0], rel=1e-4)
    assert line.intercept == pytest.approx(peer.intercept_[0], rel=1e-4)
