"""Runs of one head with one partition as a row over its seeds, and which rows differ. No drawing, no files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemargin.errors import DataError
from facemargin.metrics import (
    Comparison,
    Interval,
    ModelScores,
    accuracy_statistic,
    compare_all,
    eer_statistic,
    model_interval,
    people_weights,
    resamples_needed,
    seed_noise,
    tar_statistic,
)
from facemargin.metrics.intervals import Statistic
from facemargin.metrics.verification import halves
from training.report.results import HeadResult, PairPeople

QUOTED_FARS = (1e-1, 1e-2)
_RESAMPLES = 1000
_MOST_RESAMPLES = 20_000  # some 240 MB of weights on 3,000 pairs


@dataclass(frozen=True)
class Row:
    """One head with one partition over its seeds; figures of the test pairs with 95 % intervals over people and seeds.

    Attributes:
        name: of the row; the head, and the partition where there are several.
        runs: one a seed.
        accuracy: mean over the seeds.
        accuracy_std: sample standard deviation of accuracy between the seeds; None for one seed.
        tar: TAR at each FMR of `QUOTED_FARS`.
        eer: equal error rate.
        against_best: the comparison with the row of highest accuracy; None for that row itself, and where nothing was
            compared.
    """

    name: str
    runs: tuple[HeadResult, ...]
    accuracy: Interval
    accuracy_std: float | None
    tar: tuple[Interval, ...]
    eer: Interval
    against_best: Comparison | None


@dataclass(frozen=True)
class Gain:
    """What an option adds to the accuracy on the validation pairs, mean over the seeds, each seed with itself.

    Attributes:
        row: name of the row.
        option: "mirrored crop" or "averaged weights".
        without, with_option: accuracy.
        gain: with 95 % interval over people and seeds.
        shown: the interval that holds for all gains of the table together excludes zero.
    """

    row: str
    option: str
    without: float
    with_option: float
    gain: Interval
    shown: bool


@dataclass(frozen=True)
class Summary:
    """Everything that is computed from the runs of a comparison.

    Attributes:
        rows: in the order of the runs.
        best: name of the row of highest accuracy.
        differences: of accuracy between every two rows, Holm-corrected; empty for one row.
        not_compared: why there are no differences, where there could be.
        gains: of averaging and the mirrored crop; empty without validation pairs.
        resamples: of the people.
        over_seeds: whether the intervals hold the noise between seeds.
    """

    rows: tuple[Row, ...]
    best: str
    differences: tuple[Comparison, ...]
    not_compared: str
    gains: tuple[Gain, ...]
    resamples: int
    over_seeds: bool


def summarise(results: Sequence[HeadResult]) -> Summary:
    """Rows over seeds, the differences between them, and what the options gain.

    Another draw of people moves a mean and so does another draw of seeds; `facemargin.metrics.comparisons` says how
    the intervals hold both. Every row is measured under the same resamples of the people.

    Args:
        results: at least one, all tested on the same pairs.

    Raises:
        DataError: results of different pairs, or without the people of the pairs.
    """
    grouped = named_rows(results)
    people = _tested_alike(results)
    over_seeds = any(len(runs) > 1 for runs in grouped.values())
    resamples = _RESAMPLES if over_seeds or len(grouped) < 2 else max(_RESAMPLES, resamples_needed(len(grouped)))
    not_compared = ""
    if resamples > _MOST_RESAMPLES:
        resamples = _RESAMPLES
        not_compared = f"{len(grouped)} rows of one seed each are too many to compare; run several seeds"
    weights = _weights(people, resamples)
    scores = _scores(grouped, weights)
    compared = len(grouped) > 1 and not not_compared
    differences = compare_all(scores.accuracy) if compared else ()
    best = max(scores.accuracy, key=lambda model: model.value).name
    rows = []
    for k, (name, runs) in enumerate(grouped.items()):
        found = scores.accuracy[k]
        rows.append(
            Row(
                name=name,
                runs=tuple(runs),
                accuracy=model_interval(found, seed_noise(scores.accuracy)),
                accuracy_std=float(np.std(found.per_seed, ddof=1)) if len(runs) > 1 else None,
                tar=tuple(model_interval(tar[k], seed_noise(tar)) for tar in scores.tar),
                eer=model_interval(scores.eer[k], seed_noise(scores.eer)),
                against_best=next((d for d in differences if {d.first, d.second} == {name, best} != {best}), None),
            )
        )
    return Summary(tuple(rows), best, differences, not_compared, gains(grouped), resamples, over_seeds)


def named_rows(results: Sequence[HeadResult]) -> dict[str, list[HeadResult]]:
    """The runs by row, in the order in which they come."""
    several = len({result.partition for result in results}) > 1
    grouped: dict[str, list[HeadResult]] = {}
    for result in results:
        name = f"{result.head}, {result.partition}" if several else result.head
        grouped.setdefault(name, []).append(result)
    return grouped


def gains(grouped: dict[str, list[HeadResult]]) -> tuple[Gain, ...]:
    """What averaging and the mirrored crop gain on the validation pairs, for the rows whose runs have measured it."""
    found = [
        _Compared(name, option, *scores)
        for name, runs in grouped.items()
        for option in _OPTIONS
        if (scores := _with_and_without(runs, option)) is not None
    ]
    if not found:
        return ()
    level = 1 - 0.05 / len(found)  # Bonferroni: all the gains together
    noise = {option: seed_noise([c.difference for c in found if c.option == option]) for option in _OPTIONS}
    return tuple(
        Gain(
            row=each.row,
            option=each.option,
            without=each.without.value,
            with_option=each.with_option.value,
            gain=model_interval(each.difference, noise[each.option]),
            shown=model_interval(each.difference, noise[each.option], level=level).excludes_zero,
        )
        for each in found
    )


class _Scores(NamedTuple):
    accuracy: list[ModelScores]
    tar: list[list[ModelScores]]
    eer: list[ModelScores]


class _Compared(NamedTuple):
    row: str
    option: str
    without: ModelScores
    with_option: ModelScores

    @property
    def difference(self) -> ModelScores:
        """Each seed less itself, each resample less itself."""
        return ModelScores(
            name=f"{self.row}, {self.option}",
            resampled=self.with_option.resampled - self.without.resampled,
            per_seed=self.with_option.per_seed - self.without.per_seed,
        )


_Similarities = Callable[[HeadResult, bool], "tuple[float, ...] | None"]


def _mirrored(result: HeadResult, on: bool) -> tuple[float, ...] | None:
    scores = result.variants
    return None if scores is None else scores.similarity(average=scores.average, flip_sum=on)


def _averaged(result: HeadResult, on: bool) -> tuple[float, ...] | None:
    scores = result.variants
    return None if scores is None else scores.similarity(average=on, flip_sum=scores.flip_sum)


_OPTIONS: dict[str, _Similarities] = {"mirrored crop": _mirrored, "averaged weights": _averaged}
"""Each option with how to find a run's cosines with and without it; the other option stays as configured."""


def _with_and_without(runs: Sequence[HeadResult], option: str) -> tuple[ModelScores, ModelScores] | None:
    first = runs[0].variants
    sides = [[_OPTIONS[option](run, on) for run in runs] for on in (False, True)]
    if first is None or any(side is None for values in sides for side in values):
        return None
    statistic, weights = accuracy_statistic(first.group), _weights(first.people, _RESAMPLES)
    without, with_option = (
        ModelScores.of(option, values, first.same, statistic=statistic, weights=weights) for values in sides
    )
    return without, with_option


def _tested_alike(results: Sequence[HeadResult]) -> PairPeople:
    """The people of the test pairs, which all results must have in common."""
    first = results[0]
    for result in results:
        if (result.test.protocol, result.test.same) != (first.test.protocol, first.test.same):
            raise DataError(
                f"{result.head} seed {result.seed} was tested on {result.test.protocol}, {first.head} seed "
                f"{first.seed} on {first.test.protocol}; only runs tested on the same pairs can be compared"
            )
        if result.people is None or result.people != first.people:
            raise DataError(f"the result of {result.head} seed {result.seed} does not say whose photographs its pairs are")
    return first.people or PairPeople(first=(), second=())


def _weights(people: PairPeople, resamples: int) -> NDArray[np.float32]:
    first, second = ([str(number) for number in side] for side in (people.first, people.second))
    return people_weights(first, second, resamples=resamples)


def _scores(grouped: dict[str, list[HeadResult]], weights: NDArray[np.float32]) -> _Scores:
    test = next(iter(grouped.values()))[0].test
    group: ArrayLike = test.fold if len(test.folds) > 1 else halves(test.same)

    def each(statistic: Statistic) -> list[ModelScores]:
        return [
            ModelScores.of(name, [r.test.similarity for r in runs], test.same, statistic=statistic, weights=weights)
            for name, runs in grouped.items()
        ]

    return _Scores(each(accuracy_statistic(group)), [each(tar_statistic(far)) for far in QUOTED_FARS], each(eer_statistic))
