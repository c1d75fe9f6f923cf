"""What the mirrored crop and averaged weights gain on the validation pairs. No drawing, no files."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemargin.metrics import Interval, ModelScores, accuracy_statistic, model_interval, seed_noise
from training.report import resampling
from training.report.results import HeadResult


@dataclass(frozen=True)
class Gain:
    """What an option adds to the accuracy on the validation pairs, mean over the seeds, each seed with itself.

    Attributes:
        row: name of the row.
        option: "mirrored crop" or "averaged weights".
        without, with_option: accuracy.
        gain: with 95 % interval over people and seeds.
        shown: the interval that holds for all gains of the table together excludes zero; None where there are more
            gains than resamples could tell from nothing.
    """

    row: str
    option: str
    without: float
    with_option: float
    gain: Interval
    shown: bool | None


def gains(grouped: Mapping[str, Sequence[HeadResult]]) -> tuple[Gain, ...]:
    """What averaging and the mirrored crop gain on the validation pairs, for the rows whose runs have measured it.

    Bonferroni's level for m gains is 1 - 0.05 / m. The ends of its interval are the quantiles 0.025 / m and
    1 - 0.025 / m, which fewer than 40 m resamples do not know, so there are five times as many, where that is possible.

    Args:
        grouped: runs by name of their row, all measured on the same validation pairs.
    """
    measured = [(name, option) for name, runs in grouped.items() for option in _OPTIONS if _is_measured(runs, option)]
    if not measured:
        return ()
    resamples = resampling.enough_resamples(math.floor(2 * len(measured) / 0.05 + 1e-9))
    people = next(run.variants.people for runs in grouped.values() for run in runs if run.variants is not None)
    weights = resampling.weights_of(people, resamples or resampling.RESAMPLES)
    found = [_compared(name, grouped[name], option, weights) for name, option in measured]
    noise = {option: seed_noise([c.difference for c in found if c.option == option]) for option in _OPTIONS}
    level = 1 - 0.05 / len(found)
    return tuple(
        Gain(
            row=each.row,
            option=each.option,
            without=each.without.value,
            with_option=each.with_option.value,
            gain=model_interval(each.difference, noise[each.option]),
            shown=None
            if resamples is None
            else model_interval(each.difference, noise[each.option], level=level).excludes_zero,
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


def _is_measured(runs: Sequence[HeadResult], option: str) -> bool:
    return all(_OPTIONS[option](run, on) is not None for run in runs for on in (False, True))


def _compared(row: str, runs: Sequence[HeadResult], option: str, weights: NDArray[np.float32]) -> _Compared:
    first = next(run.variants for run in runs if run.variants is not None)
    statistic = accuracy_statistic(first.group)
    sides = [[_OPTIONS[option](run, on) or () for run in runs] for on in (False, True)]
    without, with_option = (
        ModelScores.of(option, values, first.same, statistic=statistic, weights=weights) for values in sides
    )
    return _Compared(row, option, without, with_option)
