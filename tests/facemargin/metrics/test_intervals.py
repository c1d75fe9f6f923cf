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


def test_intervals_cover_the_truth_when_people_differ() -> None:
    """Person effects make pairs dependent: resampling people must cover about 95 %, and here at least 88 %."""
    truth = np.mean([auc(s[y], s[~y]) for s, y, _, _ in (protocol(1000 + k) for k in range(200))])
    covered, widths, naive = 0, [], []
    for k in range(100):
        scores, same, first, second = protocol(k)
        found = interval(auc_statistic, scores, same, people_weights(first, second, resamples=100, seed=k))
        covered += found.low <= truth <= found.high
        widths.append(found.high - found.low)
        alone = [f"{n}" for n in range(scores.size)]  # as if every pair were of people of its own
        other = interval(auc_statistic, scores, same, people_weights(alone, alone, resamples=100, seed=k))
        naive.append(other.high - other.low)
    assert covered >= 88
    assert np.mean(widths) > 1.1 * np.mean(naive)


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
    started = time.perf_counter()
    weights = people_weights(first, second, resamples=1000)
    for statistic in (eer_statistic, auc_statistic, tar_statistic(0.01), accuracy_statistic(np.arange(3000) // 600)):
        interval(statistic, scores, same, weights)
    assert time.perf_counter() - started < 20  # about 1 s on two cores; a loop over resamples takes minutes


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="first and second must be equally long"):
        people_weights(["a"], [])
    with pytest.raises(ValueError, match="resamples must be at least 1"):
        people_weights(["a"], ["b"], resamples=0)
    with pytest.raises(ValueError, match=r"weights must have the shape \(resamples, 2\)"):
        interval(auc_statistic, [0.1, 0.2], [True, False], np.ones((3, 4)))
    with pytest.raises(ValueError, match="level must be in"):
        interval(auc_statistic, [0.1, 0.2], [True, False], np.ones((3, 2)), level=1.0)
