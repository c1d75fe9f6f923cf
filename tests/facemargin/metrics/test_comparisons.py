"""Holm against its definition, p-values against their intervals, and how often equal models are called different."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import norm
from scipy.stats import t as student

from facemargin.metrics import (
    Comparison,
    ModelScores,
    SeedNoise,
    auc,
    auc_statistic,
    bootstrap_p_value,
    compare_all,
    holm,
    model_interval,
    people_weights,
    resamples_needed,
    seed_noise,
)

exact = settings(max_examples=80, deadline=None)


def model(name: str, resampled: list[float] | np.ndarray, per_seed: list[float] | np.ndarray) -> ModelScores:
    return ModelScores(name, np.asarray(resampled, float), np.asarray(per_seed, float))


def holm_rejects(p_values: list[float], alpha: float) -> set[int]:
    """Holm's procedure as he states it: go up the p-values, stop at the first that is too large."""
    rejected: set[int] = set()
    for step, k in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        if p_values[k] * (len(p_values) - step) > alpha:
            break
        rejected.add(k)
    return rejected


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # .005·4, .01·3, .03·2, and .04·1 raised to .06
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.0, 1.0], [0.0, 1.0]),
    ],
)
def test_holm_by_hand(raw: list[float], adjusted: list[float]) -> None:
    assert_allclose(holm(raw), adjusted)


@exact
@given(st.lists(st.integers(0, 40).map(lambda k: k / 40), min_size=1, max_size=12), st.randoms())
def test_holm_is_the_smallest_level_at_which_the_procedure_rejects(raw: list[float], random) -> None:
    adjusted = holm(raw)
    levels = sorted({min(1.0, p * count) for p in raw for count in range(1, len(raw) + 1)} | {1.0})
    for k in range(len(raw)):
        assert adjusted[k] == min(level for level in levels if level == 1.0 or k in holm_rejects(raw, level))
    assert (adjusted >= raw).all()
    order = np.argsort(raw)
    assert (np.diff(adjusted[order]) >= 0).all()
    assert (adjusted <= np.minimum(1, len(raw) * np.array(raw))).all()  # never worse than Bonferroni
    shuffled = random.sample(range(len(raw)), len(raw))
    assert holm([raw[k] for k in shuffled]).tolist() == adjusted[shuffled].tolist()


@exact
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.sampled_from([0, 1, 6]))
def test_a_p_value_is_below_one_minus_the_level_exactly_where_the_interval_excludes_zero(
    seed: int, shift: float, digits: int
) -> None:
    """Also where many differences are exactly zero, as those of accuracies are."""
    values = np.round(np.random.default_rng(seed).normal(shift, 1.0, 201), digits)
    p = bootstrap_p_value(values)
    for alpha in (0.0101, 0.05, 0.1, 0.2, 0.5, 0.9):  # all above the smallest, 2 / 202
        low, high = np.quantile(values, [alpha / 2, 1 - alpha / 2])
        assert (low > 0 or high < 0) == (p < alpha) or abs(p - alpha) < 1e-9
    assert bootstrap_p_value(-values) == pytest.approx(p)


def test_p_values_by_hand() -> None:
    assert bootstrap_p_value(np.arange(1.0, 100.0)) == 2 / 100  # all above zero: no smaller than 99 resamples can tell
    assert bootstrap_p_value(np.arange(-1.0, 4.0)) == pytest.approx(0.5)  # zero is the quantile 1/4 of -1, 0, 1, 2, 3
    assert bootstrap_p_value(np.arange(-3.0, 16.0, 2.0)) == pytest.approx(1 / 3)  # half-way from rank 1 to 2 of 0 … 9
    assert bootstrap_p_value(np.zeros(50)) == 1.0
    assert bootstrap_p_value([-1.0, 0.0, 1.0, np.nan]) == 1.0


def test_seeds_widen_what_people_tell() -> None:
    """Two models with three seeds each; every number of the formula written out."""
    random = np.random.default_rng(0)
    one, other = (
        model("a", random.normal(0.9, 0.01, 999), [0.89, 0.90, 0.91]),
        model("b", random.normal(0.87, 0.01, 999), [0.88, 0.86, 0.87]),
    )
    [found] = compare_all([one, other])
    assert seed_noise([one, other]) == SeedNoise(pytest.approx(1e-4), 4)
    low, high = np.quantile(one.resampled - other.resampled, [0.025, 0.975])
    people, between = ((high - low) / (2 * norm.ppf(0.975))) ** 2, 1e-4 * (1 / 3 + 1 / 3)
    freedom = 4 * ((people + between) / between) ** 2
    reach = student.ppf(0.975, freedom) * math.sqrt(people + between)
    assert found.difference.value == pytest.approx(0.03)
    assert (found.difference.low, found.difference.high) == pytest.approx((0.03 - reach, 0.03 + reach))
    assert found.p == pytest.approx(2 * student.sf(0.03 / math.sqrt(people + between), freedom))
    assert (found.adjusted_p, found.over_seeds) == (found.p, True)
    alone = model_interval(one, seed_noise([one, other]))
    low, high = np.quantile(one.resampled, [0.025, 0.975])
    people, between = ((high - low) / (2 * norm.ppf(0.975))) ** 2, 1e-4 / 3
    freedom = 4 * ((people + between) / between) ** 2
    assert alone.high - alone.value == pytest.approx(student.ppf(0.975, freedom) * math.sqrt(people + between))


@exact
@given(st.integers(0, 2**32 - 1), st.floats(0, 4))
def test_with_seeds_too_p_and_interval_agree(seed: int, distance: float) -> None:
    random = np.random.default_rng(seed)
    models = [model(name, random.normal(0, 1, 200), random.normal(0, 1, 3)) for name in "ab"]
    models[1] = model("b", models[1].resampled + distance, models[1].per_seed + distance)
    [found] = compare_all(models)
    assert (found.p < 0.05) == found.difference.excludes_zero
    assert found.shown == found.difference.excludes_zero


def test_every_two_models_once_in_order() -> None:
    random = np.random.default_rng(1)
    models = [model(name, random.normal(k, 0.1, 500), [k, k + 0.1]) for k, name in enumerate("abcde")]
    found = compare_all(models)
    assert [(row.first, row.second) for row in found] == list(itertools.combinations("abcde", 2))
    assert [row.adjusted_p for row in found] == holm([row.p for row in found]).tolist()
    assert [row.difference.value for row in found] == pytest.approx(
        [k - j for k, j in itertools.combinations(range(5), 2)]
    )
    assert {row.verdict for row in found if row.first == "a"} == {f"{name} higher" for name in "bcde"}


def test_no_difference_is_shown_that_holm_takes_back() -> None:
    """Of 15 differences one has p about .03 and an interval above zero; among fifteen that happens by chance."""
    resamples = np.random.default_rng(2).normal(0, 1, (6, 5000))
    resamples[0] += 2.17 * math.sqrt(2) - (resamples[0] - resamples[1]).mean()
    found = compare_all([model(name, row, [row.mean()]) for name, row in zip("abcdef", resamples, strict=True)])
    assert 0.02 < found[0].p < 0.04
    assert found[0].difference.excludes_zero
    assert found[0].adjusted_p > 0.05
    assert (found[0].shown, found[0].verdict, found[0].over_seeds) == (False, "no difference shown", False)


def test_the_same_scores_differ_in_nothing() -> None:
    random = np.random.default_rng(3)
    resampled = random.normal(0, 1, 100)
    for seeds in ([0.5], [0.4, 0.6]):
        [found] = compare_all([model(name, resampled, seeds) for name in "ab"])
        assert (found.difference.value, found.p, found.shown) == (0.0, 1.0, False)


def test_scores_of_seeds_are_averaged_under_the_same_people() -> None:
    random = np.random.default_rng(4)
    same = np.arange(60) % 2 == 0
    first = [f"p{k}" for k in np.arange(60) // 4]
    second = [name if y else f"q{name}" for name, y in zip(first, same, strict=True)]
    similarities = random.normal(0.5 * same, 0.3, (3, 60))
    weights = people_weights(first, second, resamples=20)
    found = ModelScores.of("a", similarities, same, statistic=auc_statistic, weights=weights)
    assert_allclose(found.per_seed, [auc(scores[same], scores[~same]) for scores in similarities])
    each = [auc_statistic(scores, same, weights.astype(float)) for scores in similarities]
    assert_allclose(found.resampled, np.mean(each, axis=0))
    assert found.value == pytest.approx(found.per_seed.mean())


@pytest.mark.parametrize(("models", "needed"), [(2, 40), (3, 120), (8, 1120)])
def test_enough_resamples_for_one_difference_to_be_shown_at_all(models: int, needed: int) -> None:
    """At 1,000 resamples no two of eight models with one seed could ever be told apart: 28 · 2/1001 is above .05."""
    assert resamples_needed(models) == needed
    assert 2 * math.comb(models, 2) / (needed + 1) < 0.05 <= 2 * math.comb(models, 2) / needed + 1e-12
    apart = [model(f"{k}", np.full(needed, k), [k]) for k in range(models)]
    assert all(row.shown for row in compare_all(apart))
    with pytest.raises(ValueError, match=f"resamples must be at least {needed} to compare {models} models"):
        compare_all([model(row.name, row.resampled[1:], row.per_seed) for row in apart])


def test_with_seeds_few_resamples_do() -> None:
    random = np.random.default_rng(5)
    found = compare_all([model(f"{k}", random.normal(k, 0.01, 100), [k, k + 0.01]) for k in range(8)])
    assert all(row.shown for row in found)


def table_of_equals(
    seed: int, *, models: int, seeds: int, resamples: int, spread: float = 0.03, apart: float = 0.0
) -> list[ModelScores]:
    """Models that are equally good in truth; but people differ, also in which model suits them, and so do seeds."""
    random = np.random.default_rng(seed)
    people, each = 30, 4
    first = np.repeat(np.arange(people), 2 * each)
    same = np.arange(first.size) % 2 == 0
    second = np.where(same, first, (first + random.integers(1, people, first.size)) % people)
    weights = people_weights([f"{k}" for k in first], [f"{k}" for k in second], resamples=resamples, seed=seed)
    hardness = random.normal(0, 0.1, people)[first] * np.where(same, -1, 1)
    scored = []
    for k in range(models):
        suits = random.normal(0, 0.1, people)[first] * np.where(same, -1, 1)
        skill = random.normal(0.4 + apart * k, spread, (seeds, 1))
        scores = random.normal(0, 0.2, (seeds, first.size)) + skill * same + hardness + suits
        scored.append(ModelScores.of(f"{k}", scores, same, statistic=auc_statistic, weights=weights))
    return scored


def tables(draws: int) -> Iterator[list[ModelScores]]:
    return (table_of_equals(seed, models=4, seeds=3, resamples=250, spread=0.08) for seed in range(draws))


def one_run_each(table: list[ModelScores]) -> list[ModelScores]:
    """The same figures, as if each came from a single run."""
    return [model(row.name, row.resampled, [row.value]) for row in table]


def share_with_a_winner(found: Iterable[Sequence[Comparison]]) -> float:
    return float(np.mean([any(row.shown for row in table) for table in found]))


def test_equal_models_are_rarely_called_different() -> None:
    drawn = list(tables(40))
    assert share_with_a_winner(map(compare_all, drawn)) <= 0.1  # at most 4 of 40, where 5 % promise 2
    # Without the noise of seeds another draw of seeds passes for a difference.
    assert share_with_a_winner(compare_all(one_run_each(table)) for table in drawn) >= 0.2


@pytest.mark.slow
def test_equal_models_are_called_different_in_no_more_than_one_table_of_twenty() -> None:
    assert share_with_a_winner(map(compare_all, tables(600))) <= 0.06


@pytest.mark.slow
def test_equal_single_runs_are_rarely_called_different() -> None:
    """One seed each and no noise of seeds: the percentiles over people alone. Without Holm, it is twice as often."""
    found = [compare_all(table_of_equals(k, models=4, seeds=1, resamples=500, spread=0.0)) for k in range(400)]
    assert share_with_a_winner(found) <= 0.07
    raw = np.mean([any(row.difference.excludes_zero for row in table) for table in found])
    assert raw >= 2 * share_with_a_winner(found)


def test_models_that_differ_are_found() -> None:
    found = compare_all(table_of_equals(0, models=3, seeds=3, resamples=150, apart=0.2))
    assert {(row.first, row.second): row.verdict for row in found}["0", "2"] == "2 higher"


def test_wrong_input_is_named() -> None:
    good = model("a", np.zeros(50), [0.0, 1.0])
    with pytest.raises(ValueError, match=r"of different names, got \['a', 'a'\]"):
        compare_all([good, good])
    with pytest.raises(ValueError, match="at least 2"):
        compare_all([good])
    with pytest.raises(ValueError, match=r"same resamples, got \[40, 50\]"):
        compare_all([good, model("b", np.zeros(40), [0.0, 1.0])])
    with pytest.raises(ValueError, match="level must be in"):
        compare_all([good, model("b", np.zeros(50), [0.0])], level=1.0)
    with pytest.raises(ValueError, match="no resample"):
        compare_all([good, model("b", np.full(50, np.nan), [0.0])])
    with pytest.raises(ValueError, match="per_seed of b must be one-dimensional and not empty"):
        model("b", np.zeros(50), [])
    with pytest.raises(ValueError, match="per_seed of b must be finite"):
        model("b", np.zeros(50), [np.nan])
    for wrong in ([], [0.5, 1.5], [np.nan], [[0.5]]):
        with pytest.raises(ValueError, match="p_values must be"):
            holm(wrong)
    with pytest.raises(ValueError, match="at least one finite number"):
        bootstrap_p_value([np.nan])
