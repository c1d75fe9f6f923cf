"""Several seeds of one head and partition as one row: their mean, its interval over people and seeds, and what differs
from the first row of a comparison. Owns no training and no single run's figures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, t

from facemargin.metrics import Interval, accuracy_statistic, eer_statistic, interval, people_weights, tar_statistic
from facemargin.metrics.intervals import Bools, Floats, Statistic
from facemargin.metrics.scores import Scores
from training.data.pairs import Pairs


@dataclass(frozen=True)
class SeedsSummary:
    """One head with one partition over its seeds.

    Attributes:
        name: head and partition.
        seeds: how many.
        accuracy, tar, eer: means over the seeds; ``tar`` at FMR 1e-2.
        accuracy_std: sample standard deviation of accuracy between seeds; 0 for one seed.
        difference: accuracy less that of the first row; None for the first row.
    """

    name: str
    seeds: int
    accuracy: Interval
    accuracy_std: float
    tar: Interval
    eer: Interval
    difference: Interval | None


class _Noise(NamedTuple):
    """Variance of one run's figure between seeds, pooled over the rows, and its degrees of freedom."""

    variance: float
    freedom: int


def summarise(
    runs: Sequence[tuple[str, ArrayLike]], pairs: Pairs, *, resamples: int = 1000, seed: int = 0
) -> list[SeedsSummary]:
    """Mean over seeds of each head and partition, and its difference from the first.

    Another draw of people moves a mean, and so does another draw of seeds. The first is the bootstrap over people, on
    which all rows are scored alike; the second is the variance between seeds, pooled over the rows, since three seeds
    alone say little. They add up: value ± t·√(σ²_people + Σ σ²_seeds/S), t Student's with the degrees of freedom of
    Welch and Satterthwaite. An interval over people alone would call two runs of the very same loss different.

    Args:
        runs: name, and similarities (S, P) of S seeds on the P pairs.
        pairs: the test pairs.
        resamples: of the people.
        seed: of the resampling.
    """
    first, second = ([photo.name for photo in side] for side in (pairs.first, pairs.second))
    weights = people_weights(first, second, resamples=resamples, seed=seed)
    scored = [(name, list(np.asarray(similarities, dtype=np.float64))) for name, similarities in runs]
    accuracy, tar = accuracy_statistic(pairs.fold), tar_statistic(1e-2)
    figures = {"accuracy": accuracy, "tar": tar, "eer": eer_statistic}
    noise = {name: _noise(statistic, scored, pairs) for name, statistic in figures.items()}

    def estimate(statistic: Statistic, of: _Noise, *counts: int) -> Interval:
        over_people = interval(statistic, np.zeros(len(pairs)), pairs.same, weights)
        return _widened(over_people, of, counts)

    def row(name: str, seeds: list[Scores], reference: list[Scores]) -> SeedsSummary:
        mean, count = _mean(accuracy, seeds), len(seeds)
        less = _less(mean, _mean(accuracy, reference))
        return SeedsSummary(
            name=name,
            seeds=count,
            accuracy=estimate(mean, noise["accuracy"], count),
            accuracy_std=math.sqrt(_variance(accuracy, seeds, pairs)),
            tar=estimate(_mean(tar, seeds), noise["tar"], count),
            eer=estimate(_mean(eer_statistic, seeds), noise["eer"], count),
            difference=None if seeds is reference else estimate(less, noise["accuracy"], count, len(reference)),
        )

    return [row(name, seeds, scored[0][1]) for name, seeds in scored]


def seeds_markdown(rows: Sequence[SeedsSummary]) -> str:
    """The rows as a Markdown table, figures in per cent."""
    lines = [
        "| head, partition | seeds | accuracy % | std over seeds | TAR@FAR=1e-2 % | EER % | less the first |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [row.name, str(row.seeds), _per_cent(row.accuracy), f"{100 * row.accuracy_std:.2f}"]
        cells += [_per_cent(row.tar), _per_cent(row.eer), _difference(row.difference)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _variance(statistic: Statistic, seeds: Sequence[Scores], pairs: Pairs) -> float:
    """Between the seeds of one row; 0 for a single seed."""
    once = np.ones((1, len(pairs)))
    values = [float(statistic(scores, pairs.same, once)[0]) for scores in seeds]
    return float(np.var(values, ddof=1)) if len(values) > 1 else 0.0


def _noise(statistic: Statistic, scored: Sequence[tuple[str, list[Scores]]], pairs: Pairs) -> _Noise:
    several = [seeds for _, seeds in scored if len(seeds) > 1]
    freedom = sum(len(seeds) - 1 for seeds in several)
    if freedom == 0:
        return _Noise(0.0, 0)
    total = sum((len(seeds) - 1) * _variance(statistic, seeds, pairs) for seeds in several)
    return _Noise(total / freedom, freedom)


def _widened(over_people: Interval, noise: _Noise, counts: Sequence[int]) -> Interval:
    """An interval over people, widened by what other seeds would do; counts of the seeds behind each mean."""
    between = noise.variance * sum(1 / count for count in counts)
    if between == 0:
        return over_people
    tail = (1 + over_people.level) / 2
    people = ((over_people.high - over_people.low) / (2 * float(norm.ppf(tail)))) ** 2
    freedom = noise.freedom * ((people + between) / between) ** 2
    reach = float(t.ppf(tail, freedom)) * math.sqrt(people + between)
    return replace(over_people, low=over_people.value - reach, high=over_people.value + reach)


def _mean(statistic: Statistic, seeds: Sequence[Scores]) -> Statistic:
    """The statistic of each seed's own scores, averaged; the scores handed in stand for none of them."""

    def mean(_: Scores, same: Bools, weights: Floats) -> Floats:
        averaged: Floats = np.mean([statistic(scores, same, weights) for scores in seeds], axis=0)
        return averaged

    return mean


def _less(one: Statistic, other: Statistic) -> Statistic:
    return lambda scores, same, weights: one(scores, same, weights) - other(scores, same, weights)


def _per_cent(found: Interval) -> str:
    return f"{100 * found.value:.2f} ({100 * found.low:.1f}–{100 * found.high:.1f})"


def _difference(found: Interval | None) -> str:
    if found is None:
        return "-"
    shown = f"{100 * found.value:+.2f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    return shown if found.excludes_zero else f"{shown}, none shown"
