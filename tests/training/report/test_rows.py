"""Means over seeds, their intervals over people, and differences that are called one only where they are."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from facemargin.metrics import kfold_accuracy
from training.report import resampling
from training.report.results import HeadResult
from training.report.rows import named_rows, summarise

MakeResult = Callable[..., HeadResult]


def test_a_row_is_the_mean_over_its_seeds(make_result: MakeResult) -> None:
    runs = [make_result("softmax", seed) for seed in range(3)]
    summary = summarise(runs)
    (row,) = summary.rows
    each = [kfold_accuracy(run.test.similarity, run.test.same, run.test.fold).mean for run in runs]
    assert row.accuracy.value == pytest.approx(np.mean(each))
    assert row.accuracy_std == pytest.approx(np.std(each, ddof=1))
    assert row.accuracy.low < row.accuracy.value < row.accuracy.high
    assert row.eer.value == pytest.approx(np.mean([run.test.eer.value for run in runs]))
    assert [t.value for t in row.tar] == pytest.approx(
        [np.mean([run.test.tar[k].tar.value for run in runs]) for k in (0, 1)]
    )
    assert (summary.best, summary.differences, row.against_best) == ("softmax", (), None)


def test_a_difference_is_shown_only_where_it_is_one(make_result: MakeResult) -> None:
    runs = [make_result("softmax", seed) for seed in range(3)]
    runs += [make_result("modified", seed) for seed in range(3)]
    runs += [make_result("arcface", seed, spread=1.2) for seed in range(3)]
    summary = summarise(runs)
    verdicts = {(found.first, found.second): found.verdict for found in summary.differences}
    assert verdicts == {
        ("softmax", "modified"): "no difference shown",
        ("softmax", "arcface"): "softmax higher",
        ("modified", "arcface"): "modified higher",
    }
    best, alike, worse = summary.rows
    assert summary.over_seeds
    assert (summary.best, best.against_best) == ("softmax", None)
    assert alike.against_best is summary.differences[0]
    assert worse.against_best is summary.differences[1]


def test_intervals_hold_the_noise_between_seeds(make_result: MakeResult) -> None:
    steady = summarise([make_result("softmax", 0)]).rows[0].accuracy
    moved = [make_result("softmax", seed, spread=spread) for seed, spread in enumerate((0.2, 0.5, 1.0))]
    row = summarise(moved).rows[0]
    assert row.accuracy_std is not None
    assert row.accuracy.high - row.accuracy.value > 1.96 * row.accuracy_std / math.sqrt(3)
    assert row.accuracy.high - row.accuracy.low > steady.high - steady.low


def test_single_seeds_are_compared_over_people_alone(make_result: MakeResult) -> None:
    summary = summarise([make_result("softmax", 0), make_result("arcface", 0, spread=1.2)])
    assert not summary.over_seeds
    assert summary.rows[0].accuracy_std is None
    assert summary.differences[0].shown


def test_too_many_single_seeds_are_not_compared(make_result: MakeResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "MOST_RESAMPLES", 39)  # two rows need 40
    refused = summarise([make_result("softmax", 0), make_result("arcface", 0)])
    assert refused.differences == ()
    assert "2 rows of one seed each are too many" in refused.not_compared


def test_rows_are_called_by_what_differs(make_result: MakeResult) -> None:
    dense, sampled = make_result("softmax"), make_result("softmax", partition="sampled")
    other = make_result("arcface")
    assert list(named_rows([dense, other])) == ["softmax", "arcface"]
    assert list(named_rows([dense, sampled])) == ["dense", "sampled"]
    assert list(named_rows([dense, sampled, other])) == ["softmax, dense", "softmax, sampled", "arcface, dense"]
