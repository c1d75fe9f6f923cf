"""Runs of one head with one partition as a row over its seeds, and which rows differ. No drawing, no files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
_FOLD_OF_NEEDED = 5  # with the bare minimum a difference is shown only where every single resample agrees
_MOST_RESAMPLES = 20_000  # some 240 MB of weights on 3,000 pairs; enough for 32 rows


@dataclass(frozen=True)
class Row:
    """One head with one partition over its seeds; figures of the test pairs with 95 % intervals over people and seeds.

    Attributes:
        name: of the row: head, partition or both.
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
        kind: what differs between the rows; see `row_kind`.
        rows: in the order of the runs.
        best: name of the row of highest accuracy.
        differences: of accuracy between every two rows, Holm-corrected; empty for one row.
        not_compared: why there are no differences, where there could be.
        gains: of averaging and the mirrored crop; empty without validation pairs.
        resamples: of the people.
        over_seeds: whether the intervals hold the noise between seeds.
    """

    kind: str
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
    over_seeds = seed_noise(_accuracies(grouped, np.ones((1, len(people.first))))).variance > 0
    resamples, not_compared = _resamples(len(grouped), over_seeds)
    weights = _weights(people, resamples)
    accuracy = _accuracies(grouped, weights)
    tar = [_scored(grouped, tar_statistic(far), weights[:_RESAMPLES]) for far in QUOTED_FARS]
    error = _scored(grouped, eer_statistic, weights[:_RESAMPLES])
    compared = len(grouped) > 1 and not not_compared
    differences = compare_all(accuracy) if compared else ()
    best = max(accuracy, key=lambda model: model.value).name
    rows = []
    for k, (name, runs) in enumerate(grouped.items()):
        found = accuracy[k]
        rows.append(
            Row(
                name=name,
                runs=tuple(runs),
                accuracy=model_interval(found, seed_noise(accuracy)),
                accuracy_std=float(np.std(found.per_seed, ddof=1)) if len(runs) > 1 else None,
                tar=tuple(model_interval(models[k], seed_noise(models)) for models in tar),
                eer=model_interval(error[k], seed_noise(error)),
                against_best=next((d for d in differences if {d.first, d.second} == {name, best} != {best}), None),
            )
        )
    return Summary(
        row_kind(results), tuple(rows), best, differences, not_compared, gains(grouped), resamples, over_seeds
    )


def named_rows(results: Sequence[HeadResult]) -> dict[str, list[HeadResult]]:
    """The runs by row, in the order in which they come; a row is called by what differs between the rows."""
    differing = row_kind(results).split(", ")
    grouped: dict[str, list[HeadResult]] = {}
    for result in results:
        name = ", ".join(str(getattr(result, field)) for field in differing)
        grouped.setdefault(name, []).append(result)
    return grouped


def row_kind(results: Sequence[HeadResult]) -> str:
    """What differs between rows: "head", "partition" or "head, partition"."""
    if len({result.partition for result in results}) == 1:
        return "head"
    return "partition" if len({result.head for result in results}) == 1 else "head, partition"


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
    sides = [[scores for run in runs if (scores := _OPTIONS[option](run, on)) is not None] for on in (False, True)]
    if first is None or any(len(values) < len(runs) for values in sides):
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
            raise DataError(f"the result of {result.head} seed {result.seed} does not say whose its pairs are")
    return first.people or PairPeople(first=(), second=())


def _weights(people: PairPeople, resamples: int) -> NDArray[np.float32]:
    first, second = ([str(number) for number in side] for side in (people.first, people.second))
    return people_weights(first, second, resamples=resamples)


def _resamples(rows: int, over_seeds: bool) -> tuple[int, str]:
    """How many resamples; and why nothing can be compared, where single seeds would take too many."""
    if over_seeds or rows < 2:
        return _RESAMPLES, ""
    needed = resamples_needed(rows)
    if needed > _MOST_RESAMPLES:
        return _RESAMPLES, f"{rows} rows of one seed each are too many to compare; run several seeds"
    return max(_RESAMPLES, min(_FOLD_OF_NEEDED * needed, _MOST_RESAMPLES)), ""


def _accuracies(grouped: dict[str, list[HeadResult]], weights: NDArray[Any]) -> list[ModelScores]:
    test = next(iter(grouped.values()))[0].test
    group: ArrayLike = test.fold if len(test.folds) > 1 else halves(test.same)
    return _scored(grouped, accuracy_statistic(group), weights)


def _scored(grouped: dict[str, list[HeadResult]], statistic: Statistic, weights: NDArray[Any]) -> list[ModelScores]:
    same = next(iter(grouped.values()))[0].test.same
    return [
        ModelScores.of(name, [run.test.similarity for run in runs], same, statistic=statistic, weights=weights)
        for name, runs in grouped.items()
    ]
