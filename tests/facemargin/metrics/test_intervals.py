"""The bootstrap over people: weights by hand, statistics against their unweighted namesakes, coverage by simulation."""

import time

import numpy as np
import pytest
from numpy.testing import assert_allclose

from facemargin.metrics import (
    accuracy_statistic,
    auc,
    auc_statistic,
    difference_interval,
    eer,
    eer_statistic,
    interval,
    kfold_accuracy,
    people_weights,
    tar_at_far,
    tar_statistic,
)
from facemargin.metrics.intervals import Statistic


def protocol(seed: int, people: int = 60, pairs: int = 400) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Rounded similarities with ties, in which each person has an effect of its own."""
    random = np.random.default_rng(seed)
    first = random.integers(0, people, pairs)
    same = np.arange(pairs) % 2 == 0
    second = np.where(same, first, (first + random.integers(1, people, pairs)) % people)
    ease = random.normal(0, 0.1, people)
    scores = np.round(random.normal(0.3 * same, 0.2) + ease[first] + ease[second], 2)
    return scores, same, [f"p{k}" for k in first], [f"p{k}" for k in second]


@pytest.mark.parametrize("seed", range(4))
def test_statistics_equal_their_namesakes_on_repeated_pairs(seed: int) -> None:
    """A pair of weight w counts as w pairs; weight 1 everywhere is the plain figure."""
    scores, same, _, _ = protocol(seed)
    fold = np.arange(scores.size) // 80
    weights = np.random.default_rng(seed + 10).integers(0, 4, scores.size).astype(float)
    repeated = np.repeat(np.arange(scores.size), weights.astype(int))
    for pairs, given in ((np.arange(scores.size), np.ones(scores.size)), (repeated, weights)):
        s, y, f = scores[pairs], same[pairs], fold[pairs]
        expected = {
            "eer": (eer_statistic, eer(s[y], s[~y])),
            "auc": (auc_statistic, auc(s[y], s[~y])),
            "tar 0.1": (tar_statistic(0.1), tar_at_far(s[y], s[~y], 0.1).tar),
            "tar 0.01": (tar_statistic(0.01), tar_at_far(s[y], s[~y], 0.01).tar),
        }
        if given.max() == 1:
            expected["accuracy"] = (accuracy_statistic(f), kfold_accuracy(s, y, f).mean)
        for name, (statistic, value) in expected.items():
            assert statistic(scores, same, given[None])[0] == pytest.approx(value, abs=1e-9), name


def test_weighted_accuracy_agrees_with_a_loop() -> None:
    scores, same, _, _ = protocol(3)
    fold = np.arange(scores.size) % 4
    weights = np.random.default_rng(0).integers(0, 3, scores.size).astype(float)
    accuracies = []
    for k in range(4):
        others, tested = fold != k, fold == k
        candidates = [*sorted(set(scores[others])), np.inf]
        right = [weights[others] @ ((scores[others] >= t) == same[others]) for t in candidates]
        best = [t for t, count in zip(candidates, right, strict=True) if count == max(right)]
        threshold = best[(len(best) - 1) // 2]
        accuracies.append(np.average((scores[tested] >= threshold) == same[tested], weights=weights[tested]))
    found = accuracy_statistic(fold)(scores, same, weights[None])
    assert_allclose(found, [np.mean(accuracies)])


def test_a_weighted_fold_never_chooses_its_own_threshold() -> None:
    """The set of `kfold_accuracy`'s test: a cheat has accuracy 1, whatever the weights; honest thresholds have ½."""
    same, fold = np.tile([True, False], 100), np.repeat([0, 1, 2, 3], 50)
    scores = fold + np.where(same, 0.1, -0.1)
    weights = np.random.default_rng(0).integers(1, 4, (20, 100)).repeat(2, axis=1).astype(float)
    assert_allclose(accuracy_statistic(fold)(scores, same, weights), 0.5)


def test_the_weight_of_a_fold_never_moves_its_own_threshold() -> None:
    """Of two folds each has the other's threshold, so that a fold's own total weight cannot matter: it cancels."""
    scores, same, _, _ = protocol(5)
    fold = np.arange(scores.size) // (scores.size // 2)
    weights = np.random.default_rng(1).integers(0, 4, (30, scores.size)).astype(float)
    statistic = accuracy_statistic(fold)
    before = statistic(scores, same, weights)
    for heavy in (0, 1):
        assert_allclose(statistic(scores, same, np.where(fold == heavy, 1000 * weights, weights)), before)
    assert np.ptp(before) > 0.02
    only_one = [accuracy_at_other(scores, same, fold, w, tested=1) for w in weights]
    only_zero = [accuracy_at_other(scores, same, fold, w, tested=0) for w in weights]
    assert_allclose(before, np.mean([only_zero, only_one], axis=0))


def accuracy_at_other(
    scores: np.ndarray, same: np.ndarray, fold: np.ndarray, weights: np.ndarray, *, tested: int
) -> float:
    others = fold != tested
    candidates = [*np.unique(scores[others]), np.inf]
    right = [weights[others] @ ((scores[others] >= t) == same[others]) for t in candidates]
    best = np.flatnonzero(right == np.max(right))
    threshold = candidates[best[(best.size - 1) // 2]]
    return float(np.average((scores >= threshold)[~others] == same[~others], weights=weights[~others]))


def test_a_fold_without_weight_is_left_out_and_chooses_no_threshold() -> None:
    scores, same, fold = np.array([0.9, 0.1, 0.8, 0.7]), np.array([True, False, True, False]), np.array([1, 1, 2, 2])
    statistic = accuracy_statistic(fold)
    assert statistic(scores, same, np.ones((1, 4)))[0] == 0.75  # fold 1 at .8: both right; fold 2 at .9: one
    none = statistic(scores, same, np.array([[1.0, 1.0, 0.0, 0.0]]))  # fold 1 has nowhere to take a threshold from
    assert np.isnan(none[0])


def test_weights_of_a_resample() -> None:
    weights = people_weights(["a", "a", "b"], ["a", "b", "c"], resamples=500, seed=1)
    assert weights.shape == (500, 3)
    drawn_a = weights[:, 0]
    assert set(np.unique(drawn_a)) <= {0.0, 1.0, 2.0, 3.0}
    assert drawn_a.mean() == pytest.approx(1.0, abs=0.1)
    drawn_b_from_ab = weights[drawn_a > 0, 1] / drawn_a[drawn_a > 0]
    drawn_c = 3 - drawn_a[drawn_a > 0] - drawn_b_from_ab  # three people are drawn in all
    assert_allclose(weights[drawn_a > 0, 2], drawn_b_from_ab * drawn_c)


def test_the_seed_decides() -> None:
    scores, same, first, second = protocol(0)

    def run(seed: int) -> object:
        return interval(auc_statistic, scores, same, people_weights(first, second, resamples=50, seed=seed))

    assert run(1) == run(1)
    assert run(1) != run(2)


def hard_people(seed: int, people: int, each: int) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Each person has `each` genuine and impostor pairs, and some people are harder than others in all of theirs."""
    random = np.random.default_rng(seed)
    hardness = random.normal(0, 0.15, people)
    first = np.repeat(np.arange(people), 2 * each)
    same = np.arange(first.size) % 2 == 0
    second = np.where(same, first, (first + random.integers(1, people, first.size)) % people)
    scores = random.normal(0.4 * same, 0.2) + hardness[first] * np.where(same, -1, 1)
    return scores, same, [f"p{k}" for k in first], [f"p{k}" for k in second]


def coverage(statistic: Statistic, draws: int) -> tuple[float, float]:
    """How often the interval over people holds the truth, and the one over pairs."""
    scores, same, _, _ = hard_people(10**6, 20_000, 4)
    truth = statistic(scores, same, np.ones((1, scores.size)))[0]
    held = np.zeros(2)
    for seed in range(draws):
        scores, same, first, second = hard_people(seed, 40, 8)
        pairs = [f"{n}" for n in range(scores.size)]  # as if every pair were of people of its own
        for k, sides in enumerate([(first, second), (pairs, pairs)]):
            found = interval(statistic, scores, same, people_weights(*sides, resamples=200, seed=seed))
            held[k] += found.low <= truth <= found.high
    return tuple(held / draws)


def test_intervals_over_people_hold_the_truth_where_those_over_pairs_do_not() -> None:
    over_people, over_pairs = coverage(auc_statistic, 60)
    assert over_people >= 0.88
    assert over_pairs <= 0.75


@pytest.mark.slow
@pytest.mark.parametrize(
    "statistic", [auc_statistic, eer_statistic, tar_statistic(0.1)], ids=["AUC", "EER", "TAR@FAR=0.1"]
)
def test_intervals_over_people_hold_the_truth_about_as_often_as_they_say(statistic: Statistic) -> None:
    over_people, over_pairs = coverage(statistic, 500)
    assert 0.92 <= over_people <= 0.985
    assert over_pairs <= 0.75


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    scores, same, first, second = protocol(0, people=100, pairs=1000)
    weaker = scores - 0.04 * same
    weights = people_weights(first, second, resamples=300)
    difference = difference_interval(auc_statistic, scores, weaker, same=same, weights=weights)
    alone = interval(auc_statistic, scores, same, weights)
    assert difference.value == pytest.approx(
        auc(scores[same], scores[~same]) - auc(weaker[same], weaker[~same]), abs=1e-9
    )
    assert difference.excludes_zero
    assert difference.high - difference.low < alone.high - alone.low
    none = difference_interval(auc_statistic, scores, scores, same=same, weights=weights)
    assert (none.value, none.low, none.high, none.excludes_zero) == (0, 0, 0, False)


def test_resamples_without_a_kind_are_left_out() -> None:
    scores, same = np.array([0.9, 0.8, 0.1]), np.array([True, True, False])
    found = interval(eer_statistic, scores, same, people_weights(["a", "b", "a"], ["a", "b", "b"], resamples=200))
    assert 0 < found.resamples < 200
    assert (found.value, found.low, found.high) == (0, 0, 0)
    for statistic in (auc_statistic, tar_statistic(0.1), eer_statistic):
        with pytest.raises(ValueError, match="too few people"):
            interval(statistic, scores, same, np.zeros((5, 3)))


def test_three_thousand_pairs_take_seconds() -> None:
    scores, same, first, second = protocol(0, people=2000, pairs=3000)
    started = time.process_time()
    weights = people_weights(first, second, resamples=1000)
    for statistic in (eer_statistic, auc_statistic, tar_statistic(0.01), accuracy_statistic(np.arange(3000) // 600)):
        interval(statistic, scores, same, weights)
    assert time.process_time() - started < 20  # about 1 s on two cores; a loop over resamples takes minutes


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="first and second must be equally long"):
        people_weights(["a"], [])
    with pytest.raises(ValueError, match="resamples must be at least 1"):
        people_weights(["a"], ["b"], resamples=0)
    with pytest.raises(ValueError, match=r"weights must have the shape \(resamples, 2\)"):
        interval(auc_statistic, [0.1, 0.2], [True, False], np.ones((3, 4)))
    with pytest.raises(ValueError, match="at least 2 different folds"):
        accuracy_statistic([1, 1, 1])
    with pytest.raises(ValueError, match="fold must have the shape"):
        interval(accuracy_statistic([1, 2, 3]), [0.1, 0.2], [True, False], np.ones((3, 2)))
    with pytest.raises(ValueError, match="level must be in"):
        interval(auc_statistic, [0.1, 0.2], [True, False], np.ones((3, 2)), level=1.0)
