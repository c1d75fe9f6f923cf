"""Verification metrics against slow loops, by hand, and under transformations that must not matter."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from facemargin.metrics import auc, eer, halves_accuracy, kfold_accuracy, roc, tar_at_far
from facemargin.metrics.verification import accuracy_at, allowed_errors, best_threshold, halves

# Coarse values make ties within and between the two kinds likely.
coarse = st.lists(st.integers(-8, 8).map(lambda k: k / 8), min_size=1, max_size=30)
exact = settings(max_examples=60, deadline=None)


def slow_rates(genuine: list[float], impostor: list[float], threshold: float) -> tuple[float, float]:
    fmr = sum(score >= threshold for score in impostor) / len(impostor)
    fnmr = sum(score < threshold for score in genuine) / len(genuine)
    return fmr, fnmr


def slow_tar_at_far(genuine: list[float], impostor: list[float], far: float) -> float:
    """Try every threshold that could matter: each score, and a little above each."""
    candidates = [*genuine, *impostor] + [score + 1e-9 for score in (*genuine, *impostor)]
    return max(1 - fnmr for t in candidates for fmr, fnmr in [slow_rates(genuine, impostor, t)] if fmr <= far)


def slow_eer(genuine: list[float], impostor: list[float]) -> float:
    points = [slow_rates(genuine, impostor, t) for t in sorted({*genuine, *impostor})] + [(0.0, 1.0)]
    for (fmr_a, fnmr_a), (fmr_b, fnmr_b) in itertools.pairwise(points):
        if fmr_a >= fnmr_a and fmr_b < fnmr_b:
            share = (fmr_a - fnmr_a) / ((fmr_a - fnmr_a) + (fnmr_b - fmr_b))
            return fmr_a + share * (fmr_b - fmr_a)
    raise AssertionError("the rates never cross")


@exact
@given(coarse, coarse)
def test_roc_agrees_with_a_loop(genuine: list[float], impostor: list[float]) -> None:
    curve = roc(genuine, impostor)
    for threshold, fmr, fnmr in zip(curve.thresholds, curve.fmr, curve.fnmr, strict=True):
        assert_allclose((fmr, fnmr), slow_rates(genuine, impostor, threshold), atol=1e-12)
    assert (curve.fmr[0], curve.fnmr[0]) == (1.0, 0.0)
    assert (curve.fmr[-1], curve.fnmr[-1]) == (0.0, 1.0)
    assert_allclose(curve.tar, 1 - curve.fnmr)


@exact
@given(coarse, coarse)
def test_roc_is_monotone(genuine: list[float], impostor: list[float]) -> None:
    curve = roc(genuine, impostor)
    assert (np.diff(curve.thresholds) > 0).all()
    assert (np.diff(curve.fmr) <= 0).all()
    assert (np.diff(curve.fnmr) >= 0).all()


@exact
@given(coarse, coarse, st.sampled_from([0.01, 0.1, 0.25, 0.5, 1.0]))
def test_tar_at_far_is_the_best_of_all_thresholds(genuine: list[float], impostor: list[float], far: float) -> None:
    found = tar_at_far(genuine, impostor, far)
    assert found.tar == pytest.approx(slow_tar_at_far(genuine, impostor, far))
    fmr, fnmr = slow_rates(genuine, impostor, found.threshold)
    assert fmr == pytest.approx(found.fmr)
    assert found.fmr <= far
    assert 1 - fnmr == pytest.approx(found.tar)


@exact
@given(coarse, coarse)
def test_eer_agrees_with_a_loop(genuine: list[float], impostor: list[float]) -> None:
    assert eer(genuine, impostor) == pytest.approx(slow_eer(genuine, impostor), abs=1e-12)


@exact
@given(coarse, coarse)
def test_auc_counts_every_pair_of_scores(genuine: list[float], impostor: list[float]) -> None:
    wins = [(g > i) + 0.5 * (g == i) for g in genuine for i in impostor]
    assert auc(genuine, impostor) == pytest.approx(sum(wins) / len(wins))
    curve = roc(genuine, impostor)
    assert auc(genuine, impostor) == pytest.approx(np.trapezoid(curve.tar[::-1], curve.fmr[::-1]))


@exact
@given(coarse, coarse)
def test_only_the_order_of_the_similarities_matters(genuine: list[float], impostor: list[float]) -> None:
    g, i = np.exp(3 * np.array(genuine)) - 7, np.exp(3 * np.array(impostor)) - 7
    assert eer(g, i) == pytest.approx(eer(genuine, impostor), abs=1e-12)
    assert auc(g, i) == pytest.approx(auc(genuine, impostor), abs=1e-12)
    assert tar_at_far(g, i, 0.1).tar == tar_at_far(genuine, impostor, 0.1).tar


@exact
@given(coarse, coarse)
def test_swapping_the_kinds_and_the_sign_changes_nothing(genuine: list[float], impostor: list[float]) -> None:
    swapped = [-score for score in impostor], [-score for score in genuine]
    assert eer(*swapped) == pytest.approx(eer(genuine, impostor), abs=1e-12)
    assert auc(*swapped) == pytest.approx(auc(genuine, impostor), abs=1e-12)


@exact
@given(coarse, coarse)
def test_best_threshold_is_the_best_of_all(genuine: list[float], impostor: list[float]) -> None:
    scores, same = np.array(genuine + impostor), np.array([True] * len(genuine) + [False] * len(impostor))
    best = max(np.mean((scores >= t) == same) for t in [*scores, scores.max() + 1])
    assert accuracy_at(scores, same, best_threshold(scores, same)) == pytest.approx(best)


def test_figures_by_hand() -> None:
    genuine, impostor = [0.9, 0.8, 0.7, 0.3], [0.6, 0.4, 0.2, 0.1]
    assert eer(genuine, impostor) == pytest.approx(0.25)
    assert auc(genuine, impostor) == pytest.approx(14 / 16)
    found = tar_at_far(genuine, impostor, 0.25)
    assert (found.tar, found.errors, found.fmr) == (0.75, 1, 0.25)
    assert 0.4 < found.threshold < 0.4 + 1e-12


def test_figures_by_hand_with_ties() -> None:
    """Thresholds .1, .2, .5, .7, .9 and above accept 5, 4, 2, 1, 0, 0 of 5 impostors and miss 0, 0, 1, 1, 3, 4 of 4."""
    genuine, impostor = [0.9, 0.7, 0.7, 0.2], [0.7, 0.5, 0.2, 0.2, 0.1]
    curve = roc(genuine, impostor)
    assert curve.fmr.tolist() == [1, 0.8, 0.4, 0.2, 0, 0]
    assert curve.fnmr.tolist() == [0, 0, 0.25, 0.25, 0.75, 1]
    # Between .5 (FMR .40, FNMR .25) and .7 (.20, .25) the rates meet at .25.
    assert eer(genuine, impostor) == pytest.approx(0.25)
    # .9 beats 5; each .7 beats 4 and ties with 1; .2 beats 1 and ties with 2: 5 + 4.5 + 4.5 + 2 of 20.
    assert auc(genuine, impostor) == pytest.approx(16 / 20)
    # The two impostors tied at .2 are accepted both or not at all.
    expected = {0.19: (0.25, 0), 0.2: (0.75, 1), 0.4: (0.75, 2), 0.6: (0.75, 2), 0.8: (1.0, 4), 1.0: (1.0, 5)}
    assert {far: (f.tar, f.errors) for far in expected for f in [tar_at_far(genuine, impostor, far)]} == expected
    scores, same = np.array(genuine + impostor), np.array([True] * 4 + [False] * 5)
    # Right of 9 at the six thresholds: 4, 5, 6, 7, 6, 5.
    assert best_threshold(scores, same) == 0.7
    assert accuracy_at(scores, same, 0.7) == pytest.approx(7 / 9)


def test_k_fold_accuracy_by_hand() -> None:
    """Fold 1 is decided at .4 (all right in folds 2 and 3), fold 2 at .6; for fold 3 both .4 and .9 leave one wrong."""
    scores = [0.9, 0.5, 0.4, 0.3, 0.6, 0.2]
    found = kfold_accuracy(scores, np.array([True, False] * 3), [1, 1, 2, 2, 3, 3])
    assert found.thresholds == (0.4, 0.6, 0.4)
    assert found.per_fold == (0.5, 0.5, 1.0)
    assert found.mean == pytest.approx(2 / 3)
    assert found.std == pytest.approx(math.sqrt(1 / 12))
    assert found.stderr == pytest.approx(1 / 6)


def test_one_pair_of_a_kind() -> None:
    assert (eer([0.6], [0.4]), auc([0.6], [0.4])) == (0.0, 1.0)
    found = tar_at_far([0.6], [0.4], 0.5)
    assert (found.tar, found.errors, found.fmr, found.measurable, found.supported) == (1.0, 0, 0.0, False, False)
    assert tar_at_far([0.6], [0.4, 0.7], 0.5).measurable
    assert kfold_accuracy([0.6, 0.4], np.array([True, False]), [1, 2]).per_fold == (1.0, 1.0)


def test_equal_scores_say_nothing() -> None:
    genuine, impostor = [0.5] * 2, [0.5] * 1000
    curve = roc(genuine, impostor)
    assert (curve.fmr.tolist(), curve.fnmr.tolist()) == ([1, 0], [0, 1])
    assert (eer(genuine, impostor), auc(genuine, impostor)) == (0.5, 0.5)
    found = tar_at_far(genuine, impostor, 0.5)
    assert (found.tar, found.errors, found.fmr) == (0.0, 0, 0.0)
    assert not found.measurable  # 500 errors were allowed, but the tie leaves only "above every impostor"
    assert not found.supported
    scores, same = np.full(5, 0.5), np.array([True, True, False, False, False])
    assert best_threshold(scores, same) > 0.5
    assert accuracy_at(scores, same, best_threshold(scores, same)) == 0.6


def test_perfect_and_useless_scores() -> None:
    assert (eer([0.9], [0.1]), auc([0.9], [0.1])) == (0.0, 1.0)
    assert (eer([0.5, 0.5], [0.5]), auc([0.5, 0.5], [0.5])) == (0.5, 0.5)
    assert (eer([0.1], [0.9]), auc([0.1], [0.9])) == (1.0, 0.0)


def test_a_float32_threshold_is_exact_in_float32() -> None:
    random = np.random.default_rng(0)
    genuine, impostor = random.random(500, dtype=np.float32), random.random(1000, dtype=np.float32)
    found = tar_at_far(genuine, impostor, 0.05)
    assert np.float32(found.threshold) == found.threshold
    below = np.nextafter(np.float32(found.threshold), np.float32(-1))
    assert np.count_nonzero(impostor >= np.float32(found.threshold)) == found.errors == 50
    assert np.count_nonzero(impostor >= below) == 51


@pytest.mark.parametrize(
    ("impostors", "measurable", "supported"), [(99, False, False), (100, True, False), (3000, True, True)]
)
def test_what_stands_behind_a_rate(impostors: int, measurable: bool, supported: bool) -> None:
    found = tar_at_far([0.5], np.linspace(0, 1, impostors), 0.01)
    assert (found.measurable, found.supported, found.impostors) == (measurable, supported, impostors)


@pytest.mark.parametrize(("errors", "supported"), [(29, False), (30, True), (31, True)])
@pytest.mark.parametrize("far", [1e-1, 1e-2, 1e-3])
def test_thirty_errors_support_a_rate_and_twenty_nine_do_not(errors: int, supported: bool, far: float) -> None:
    impostor = np.random.default_rng(errors).permutation(np.arange(round(errors / far)))
    found = tar_at_far([0.0], impostor, far)
    assert (found.errors, found.measurable, found.supported) == (errors, True, supported)
    one_less = tar_at_far([0.0], impostor[:-1], far)  # a single pair fewer, and the last error is no longer allowed
    assert (one_less.errors, one_less.supported) == (errors - 1, errors - 1 >= 30)


@exact
@given(coarse, coarse, st.floats(1e-9, 1.0))
def test_what_the_impostors_cannot_support_is_always_marked(
    genuine: list[float], impostor: list[float], far: float
) -> None:
    """Also at ties: without an impostor at the threshold, nothing was measured."""
    found = tar_at_far(genuine, impostor, far)
    assert found.measurable == (found.errors >= 1) == (found.fmr > 0)
    assert found.supported == (found.errors >= 30)
    if len(impostor) * far < 1 - 1e-9:
        assert not found.measurable
    if len(impostor) * far < 30 - 1e-9:
        assert not found.supported


def test_far_one_accepts_everything() -> None:
    assert tar_at_far([0.1, 0.9], [0.5], 1.0).tar == 1.0


@pytest.mark.parametrize(("impostors", "far", "errors"), [(100, 0.29, 29), (30, 0.1, 3), (10, 0.05, 0), (7, 1.0, 7)])
def test_allowed_errors_survive_rounding(impostors: int, far: float, errors: int) -> None:
    assert allowed_errors(impostors, far) == errors


def slow_kfold(scores: np.ndarray, same: np.ndarray, fold: np.ndarray) -> list[float]:
    accuracies = []
    for k in sorted(set(fold.tolist())):
        others, tested = fold != k, fold == k
        candidates = sorted(set(scores[others].tolist()))
        right = [np.sum((scores[others] >= t) == same[others]) for t in [*candidates, np.inf]]
        equally_good = [t for t, count in zip([*candidates, np.inf], right, strict=True) if count == max(right)]
        threshold = equally_good[(len(equally_good) - 1) // 2]
        accuracies.append(float(np.mean((scores[tested] >= threshold) == same[tested])))
    return accuracies


@pytest.mark.parametrize("seed", range(5))
def test_kfold_accuracy_agrees_with_a_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    same, fold = np.tile([True, False], 100), np.repeat(np.arange(6, 11), 40)
    scores = np.round(random.normal(0.3 * same, 0.2), 2)
    found, expected = kfold_accuracy(scores, same, fold), slow_kfold(scores, same, fold)
    assert found.per_fold == pytest.approx(expected)
    assert found.folds == (6, 7, 8, 9, 10)
    assert found.mean == pytest.approx(np.mean(expected))
    assert found.std == pytest.approx(np.std(expected, ddof=1))
    assert found.stderr == pytest.approx(np.std(expected, ddof=1) / np.sqrt(5))


def test_a_fold_never_chooses_its_own_threshold() -> None:
    same = np.array([True, False] * 2)
    scores, fold = np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 1, 2, 2])
    assert kfold_accuracy(scores, same, fold).per_fold == (0.5, 0.5)


def leaky(scores: np.ndarray, same: np.ndarray, fold: np.ndarray) -> float:
    """What a cheat reports: each fold at the threshold that is best for itself."""
    folds = [(scores[fold == k], same[fold == k]) for k in np.unique(fold)]
    return float(np.mean([accuracy_at(s, y, best_threshold(s, y)) for s, y in folds]))


def test_a_threshold_that_leaks_would_be_seen() -> None:
    """Scores of fold k lie around k: inside a fold the kinds are told apart perfectly, across folds not at all."""
    same, fold = np.tile([True, False], 100), np.repeat([0, 1, 2, 3], 50)
    scores = fold + np.where(same, 0.1, -0.1)
    assert leaky(scores, same, fold) == 1.0
    assert kfold_accuracy(scores, same, fold).per_fold == (0.5, 0.5, 0.5, 0.5)
    together = best_threshold(scores, same)  # one threshold of all folds leaks too
    assert accuracy_at(scores, same, together) > 0.6


@exact
@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.floats(-2, 2), st.floats(0.1, 10))
def test_nothing_in_a_fold_moves_its_threshold(seed: int, tested: int, shift: float, scale: float) -> None:
    random = np.random.default_rng(seed)
    same, fold = random.random(60) < 0.5, random.permutation(np.arange(60) % 4)
    scores = random.normal(0.3 * same, 0.3)
    other_scores, other_same = scores.copy(), same.copy()
    other_scores[fold == tested] = scale * random.permutation(scores[fold == tested]) + shift
    other_same[fold == tested] = random.permutation(same[fold == tested])
    before, after = kfold_accuracy(scores, same, fold), kfold_accuracy(other_scores, other_same, fold)
    assert before.thresholds[tested] == after.thresholds[tested]


def test_halves_are_the_first_and_the_second_of_each_kind() -> None:
    same = np.array([True] * 4 + [False] * 6)
    assert halves(same).tolist() == [1, 1, 2, 2, 1, 1, 1, 2, 2, 2]
    scores = np.random.default_rng(0).random(10)
    assert halves_accuracy(scores, same) == kfold_accuracy(scores, same, halves(same))


NUMBERS = [0.1, 0.2]


@pytest.mark.parametrize("bad", [[], [0.1, np.nan], [np.inf], [[0.1]], ["high"]])
@pytest.mark.parametrize("measure", [roc, eer, auc, lambda g, i: tar_at_far(g, i, 0.1)])
def test_wrong_scores_are_named(measure, bad) -> None:
    with pytest.raises(ValueError, match="genuine must"):
        measure(bad, NUMBERS)
    with pytest.raises(ValueError, match="impostor must"):
        measure(NUMBERS, bad)


@pytest.mark.parametrize("far", [0.0, -0.1, 1.1, np.nan])
def test_a_far_out_of_range_is_refused(far: float) -> None:
    with pytest.raises(ValueError, match="far must be in"):
        tar_at_far(NUMBERS, NUMBERS, far)


def test_labels_and_folds_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match="same must have the shape"):
        kfold_accuracy(NUMBERS, [True], [1, 2])
    with pytest.raises(ValueError, match="same must be an array of bool"):
        kfold_accuracy(NUMBERS, [1, 0], [1, 2])
    with pytest.raises(ValueError, match="fold must have the shape"):
        kfold_accuracy(NUMBERS, [True, False], [1, 2, 1])
    with pytest.raises(ValueError, match="fold must be an array of integers, got float64"):
        kfold_accuracy(NUMBERS, [True, False], [1.0, 2.5])
    with pytest.raises(ValueError, match="halves_accuracy"):
        kfold_accuracy(NUMBERS, [True, False], [5, 5])
    with pytest.raises(ValueError, match="at least 2 impostor pairs"):
        halves_accuracy([0.1, 0.2, 0.3], [True, True, False])
