"""Gains of the options on the validation pairs, called gains only where all of them together allow it."""

from collections.abc import Callable

import numpy as np
import pytest

from facemargin.metrics import kfold_accuracy
from training.report import resampling
from training.report.gains import Gain, gains
from training.report.results import HeadResult
from training.report.tables import gain_table

MakeResult = Callable[..., HeadResult]


def with_flipped(run: HeadResult, similarity: tuple[float, ...]) -> HeadResult:
    """The run with other cosines wherever the mirrored crop is added."""
    assert run.variants is not None
    variants = tuple(
        v.model_copy(update={"similarity": similarity}) if v.flip_sum else v for v in run.variants.variants
    )
    return run.model_copy(update={"variants": run.variants.model_copy(update={"variants": variants})})


def accuracy(runs: list[HeadResult], *, average: bool, flip_sum: bool) -> float:
    """Mean over the runs of the accuracy of one variant."""
    found = []
    for run in runs:
        assert run.variants is not None
        (variant,) = (v for v in run.variants.variants if (v.average, v.flip_sum) == (average, flip_sum))
        found.append(kfold_accuracy(variant.similarity, run.variants.same, run.variants.group).mean)
    return float(np.mean(found))


def test_an_option_is_compared_with_the_other_one_as_it_is_configured(make_result: MakeResult) -> None:
    runs = [make_result("softmax", seed, spread=0.9) for seed in range(3)]
    figures = {(a, f): accuracy(runs, average=a, flip_sum=f) for a in (False, True) for f in (False, True)}
    assert len(set(figures.values())) == 4
    mirrored, averaged = gains({"softmax": runs})
    assert [(gain.row, gain.option) for gain in (mirrored, averaged)] == [
        ("softmax", "mirrored crop"),
        ("softmax", "averaged weights"),
    ]
    assert (mirrored.without, mirrored.with_option) == pytest.approx((figures[True, False], figures[True, True]))
    assert (averaged.without, averaged.with_option) == pytest.approx((figures[False, True], figures[True, True]))
    for gain in (mirrored, averaged):
        assert gain.gain.value == pytest.approx(gain.with_option - gain.without)


def test_runs_without_averages_compare_what_they_have(make_result: MakeResult) -> None:
    run = make_result("softmax")
    assert run.variants is not None
    last_step = tuple(v for v in run.variants.variants if not v.average)
    run = run.model_copy(update={"variants": run.variants.model_copy(update={"average": False, "variants": last_step})})
    (mirrored,) = gains({"softmax": [run]})
    assert mirrored.without == pytest.approx(accuracy([run], average=False, flip_sum=False))
    assert mirrored.with_option == pytest.approx(accuracy([run], average=False, flip_sum=True))
    assert gains({"softmax": [run.model_copy(update={"variants": None})]}) == ()


def test_a_gain_is_shown_when_it_is_large(make_result: MakeResult) -> None:
    better = make_result("softmax", spread=0.3).test.similarity
    runs = [with_flipped(make_result("softmax", seed, spread=1.5), better) for seed in range(2)]
    mirrored = gains({"softmax": runs})[0]
    assert mirrored.shown
    assert mirrored.gain.low > 0


def small_gain(make_result: MakeResult, flips: int) -> list[HeadResult]:
    """A run whose mirrored crop puts right so many of its pairs, one of each person, and no other."""
    run = make_result("softmax", spread=0.9)
    assert run.variants is not None
    same = np.array(run.variants.same)
    plain = np.where(same, 0.6, 0.2)
    wrong = np.flatnonzero(same)[: 3 * flips]
    plain[wrong] = 0.1
    mended = plain.copy()
    mended[wrong[:flips]] = 0.6
    flipped = with_flipped(run, tuple(mended.tolist()))
    assert flipped.variants is not None
    variants = tuple(
        v if v.flip_sum else v.model_copy(update={"similarity": tuple(plain.tolist())})
        for v in flipped.variants.variants
    )
    return [flipped.model_copy(update={"variants": flipped.variants.model_copy(update={"variants": variants})})]


def test_a_gain_that_is_one_alone_need_not_be_one_among_many(make_result: MakeResult) -> None:
    found = gains({f"row {k}": small_gain(make_result, flips=5) for k in range(12)})
    mirrored = [gain for gain in found if gain.option == "mirrored crop"]
    assert len(found) == 24
    assert all(gain.gain.excludes_zero for gain in mirrored)
    assert not any(gain.shown for gain in mirrored)


def test_there_are_resamples_enough_for_the_corrected_level(
    make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {"softmax": [make_result("softmax", spread=0.9)]}
    assert [gain.gain.resamples for gain in gains(runs)] == [5 * 80, 5 * 80]
    monkeypatch.setattr(resampling, "MOST_RESAMPLES", 90)
    assert [gain.gain.resamples for gain in gains(runs)] == [150, 150]
    monkeypatch.setattr(resampling, "MOST_RESAMPLES", 79)
    judged: tuple[Gain, ...] = gains(runs)
    assert [gain.shown for gain in judged] == [None, None]
    table = gain_table(judged)
    assert [row[-1].text for row in table.rows] == ["not judged", "not judged"]
    assert table.notes == ("Too many gains to judge: compare fewer rows at a time.",)
