"""Runs of one head with one partition as a row over its seeds, and which rows differ. No drawing, no files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemargin.metrics import (
    Comparison,
    Interval,
    ModelScores,
    accuracy_statistic,
    compare_all,
    eer_statistic,
    model_interval,
    resamples_needed,
    seed_noise,
    tar_statistic,
)
from facemargin.metrics.intervals import Statistic
from facemargin.metrics.verification import halves
from training.report import resampling
from training.report.comparable import require_comparable
from training.report.gains import Gain, gains
from training.report.results import HeadResult

QUOTED_FARS = (1e-1, 1e-2)


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
        results: at least one, all of one recipe and tested on the same pairs.

    Raises:
        DataError: as in `training.report.comparable.require_comparable`.
    """
    people = require_comparable(results)
    grouped = named_rows(results)
    over_seeds = seed_noise(_accuracies(grouped, np.ones((1, len(people.first))))).variance > 0
    resamples, not_compared = _resamples(len(grouped), over_seeds)
    weights = resampling.weights_of(people, resamples)
    accuracy = _accuracies(grouped, weights)
    tar = [_scored(grouped, tar_statistic(far), weights[: resampling.RESAMPLES]) for far in QUOTED_FARS]
    error = _scored(grouped, eer_statistic, weights[: resampling.RESAMPLES])
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


def _resamples(rows: int, over_seeds: bool) -> tuple[int, str]:
    """How many resamples; and why nothing can be compared, where single seeds would take too many."""
    if over_seeds or rows < 2:
        return resampling.RESAMPLES, ""
    found = resampling.enough_resamples(resamples_needed(rows))
    if found is None:
        return resampling.RESAMPLES, f"{rows} rows of one seed each are too many to compare; run several seeds"
    return found, ""


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
