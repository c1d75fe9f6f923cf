"""Means over seeds, their intervals over people, and differences that are called one only where they are."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from facemargin.metrics import kfold_accuracy
from training.data.pairs import Pairs, Photo
from training.seeds import seeds_markdown, summarise

PEOPLE, FOLDS = 120, 3


def protocol() -> Pairs:
    names = [f"P{number:03}" for number in range(PEOPLE)]
    first = [Photo(name, 1) for name in names for _ in range(2)]
    second = [Photo(names[(k + shift) % PEOPLE], 2) for k in range(PEOPLE) for shift in (0, 1)]
    same = np.array([one.name == other.name for one, other in zip(first, second, strict=True)])
    fold = np.repeat(np.arange(PEOPLE) * FOLDS // PEOPLE + 1, 2)
    return Pairs(tuple(first), tuple(second), same, fold.astype(np.int64))


def scored(pairs: Pairs, spread: float, seeds: int, draw: int) -> NDArray[np.float64]:
    return pairs.same + np.random.default_rng(draw).normal(0, spread, (seeds, len(pairs)))


def test_a_row_is_the_mean_over_its_seeds() -> None:
    pairs = protocol()
    similarities = scored(pairs, 0.4, 3, 0)
    [row] = summarise([("a", similarities)], pairs, resamples=50)
    each = [kfold_accuracy(scores, pairs.same, pairs.fold).mean for scores in similarities]
    assert row.accuracy.value == pytest.approx(np.mean(each))
    assert row.accuracy_std == pytest.approx(np.std(each, ddof=1))
    assert row.accuracy.low < row.accuracy.value < row.accuracy.high
    assert (row.seeds, row.difference) == (3, None)


def test_a_difference_is_shown_only_where_its_interval_excludes_zero() -> None:
    pairs = protocol()
    base = scored(pairs, 0.4, 3, 0)
    runs = [("first", base), ("same", base), ("alike", scored(pairs, 0.4, 3, 1)), ("worse", scored(pairs, 0.9, 3, 2))]
    rows = summarise(runs, pairs, resamples=200)
    differences = {row.name: row.difference for row in rows}
    assert differences["same"] is not None
    assert differences["same"].low < 0 == differences["same"].value < differences["same"].high
    assert differences["worse"] is not None
    assert differences["worse"].high < 0
    table = seeds_markdown(rows).splitlines()
    assert table[2].startswith("| first | 3 |")
    assert table[2].endswith("| - |")
    assert "+0.00 (" in table[3]
    assert table[3].endswith("none shown |")
    assert "none shown" in table[4]
    assert "none shown" not in table[5]


def test_intervals_hold_the_noise_between_seeds_too() -> None:
    pairs = protocol()
    steady = np.repeat(scored(pairs, 0.4, 1, 0), 3, axis=0)
    moved = np.stack([scored(pairs, spread, 1, 9)[0] for spread in (0.2, 0.4, 0.8)])
    people_only = summarise([("a", steady)], pairs, resamples=100)[0]
    widened = summarise([("a", steady), ("b", moved)], pairs, resamples=100)
    each = [kfold_accuracy(scores, pairs.same, pairs.fold).mean for scores in moved]
    noise = math.sqrt(np.var(each, ddof=1) / 2 / 3)  # pooled over two rows, mean of three seeds
    assert widened[0].accuracy.high - widened[0].accuracy.value > 1.96 * noise
    assert widened[0].accuracy.high > people_only.accuracy.high
    assert widened[1].accuracy_std == pytest.approx(np.std(each, ddof=1))


def test_one_seed_has_no_spread_between_seeds() -> None:
    pairs = protocol()
    [row] = summarise([("a", scored(pairs, 0.4, 1, 0))], pairs, resamples=20)
    assert (row.seeds, row.accuracy_std) == (1, 0.0)
