"""Every two of several models compared: paired bootstrap over people, noise between seeds, Holm's correction.

Owns the statistics of a table of models, from numbers alone: which models, which pairs and how the table looks is the
caller's business. Another draw of people moves a figure, and so does another draw of seeds. The first is the bootstrap
over people, on which all models are scored alike; the second is the variance between seeds, pooled over the models,
since three seeds alone say little. They add up: value ± t √(σ²_people + Σ σ²_seeds / S), t Student's with the degrees
of freedom of Welch and Satterthwaite, and the p-value comes from the same t. Where no model has two seeds, or seeds do
not differ, interval and p-value are the percentiles of the resamples, and then say nothing about another training run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr, stdtrit  # scipy.stats takes long to import, and the service loads this package

from facemargin.metrics.intervals import Floats, Interval, Statistic, percentile_interval, resampled


@dataclass(frozen=True, eq=False)
class ModelScores:
    """One figure of one model, over its seeds.

    Attributes:
        name: of the model.
        resampled: float64 (R,), the figure in each resample of the people, averaged over the seeds; NaN where a
            resample gives none.
        per_seed: float64 (S,), the figure of each seed on the pairs as they are.
    """

    name: str
    resampled: Floats
    per_seed: Floats

    def __post_init__(self) -> None:
        """Refuse what is not one figure."""
        for field, values in (("resampled", self.resampled), ("per_seed", self.per_seed)):
            if values.ndim != 1 or not values.size:
                raise ValueError(f"{field} of {self.name} must be one-dimensional and not empty, got {values.shape}")
        if not np.isfinite(self.per_seed).all():
            raise ValueError(f"per_seed of {self.name} must be finite")

    @classmethod
    def of(
        cls, name: str, similarities: ArrayLike, same: ArrayLike, *, statistic: Statistic, weights: NDArray[Any]
    ) -> Self:
        """Score the seeds of one model.

        Args:
            name: of the model.
            similarities: (S, P), one row a seed.
            same: (P,) bool.
            statistic: as in `facemargin.metrics.intervals`.
            weights: (R, P) of `people_weights`, the same for every model.

        Raises:
            ValueError: similarities, labels or weights of the wrong form.
        """
        seeds, once = np.atleast_2d(np.asarray(similarities)), np.ones((1, np.asarray(same).size))
        return cls(
            name,
            np.mean([resampled(statistic, scores, same, weights) for scores in seeds], axis=0),
            np.array([resampled(statistic, scores, same, once)[0] for scores in seeds]),
        )

    @property
    def value(self) -> float:
        """Mean over the seeds."""
        return float(self.per_seed.mean())


@dataclass(frozen=True)
class SeedNoise:
    """How much one training run differs from another.

    Attributes:
        variance: of one run's figure between seeds, pooled over the models.
        freedom: degrees of freedom behind it, Σ (S - 1); 0 where no model has two seeds.
    """

    variance: float
    freedom: int


@dataclass(frozen=True)
class Comparison:
    """Two models of a table.

    Attributes:
        first: name of one.
        second: name of the other.
        difference: figure of the first less that of the second.
        p: two-sided p-value of that difference alone; below 1 - level exactly where the interval excludes zero.
        adjusted_p: after Holm's correction for all pairs of the table.
        over_seeds: whether interval and p-value hold the noise of seeds; if not, they are about these very runs.
    """

    first: str
    second: str
    difference: Interval
    p: float
    adjusted_p: float
    over_seeds: bool

    @property
    def shown(self) -> bool:
        """Whether the two may be called different."""
        return self.adjusted_p < 1 - self.difference.level and self.difference.excludes_zero

    @property
    def verdict(self) -> str:
        """In words: ``no difference shown``, or which figure is the higher."""
        if not self.shown:
            return "no difference shown"
        return f"{self.first if self.difference.value > 0 else self.second} higher"


def compare_all(models: Sequence[ModelScores], *, level: float = 0.95) -> tuple[Comparison, ...]:
    """Compare every two models, m (m - 1) / 2 pairs, in the order (0, 1), (0, 2), …

    Args:
        models: at least two, of different names, scored under the same R resamples.
        level: of each interval; 1 - level bounds the chance that any difference is wrongly called one.

    Raises:
        ValueError: models or level of the wrong form; or, where p-values are percentiles, so few resamples that no
            difference could ever be shown (see `resamples_needed`).
    """
    _require_comparable(models, level)
    noise = seed_noise(models)
    needed = resamples_needed(len(models), level=level)
    if noise.variance == 0 and models[0].resampled.size < needed:
        raise ValueError(
            f"resamples must be at least {needed} to compare {len(models)} models, got {models[0].resampled.size}"
        )
    pairs = list(combinations(models, 2))
    found = [_difference(one, other, noise, level) for one, other in pairs]
    adjusted = holm([p for _, p in found])
    return tuple(
        Comparison(one.name, other.name, difference, p, float(corrected), over_seeds=noise.variance > 0)
        for (one, other), (difference, p), corrected in zip(pairs, found, adjusted, strict=True)
    )


def model_interval(model: ModelScores, noise: SeedNoise, *, level: float = 0.95) -> Interval:
    """The mean over seeds of one model, with its interval over people and seeds.

    Raises:
        ValueError: a level outside (0, 1), or no resample with a value.
    """
    return _with_seeds(model.value, model.resampled, noise.variance / model.per_seed.size, noise.freedom, level)[0]


def seed_noise(models: Sequence[ModelScores]) -> SeedNoise:
    """Variance between seeds, pooled: Σ (S - 1) s² / Σ (S - 1) over the models with S >= 2 seeds."""
    several = [model.per_seed for model in models if model.per_seed.size > 1]
    freedom = sum(values.size - 1 for values in several)
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in several)
    return SeedNoise(squares / freedom if freedom else 0.0, freedom)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down correction: of the ascending p(1) … p(m), the k-th becomes max over j <= k of (m - j + 1) p(j).

    Rejecting where the result is below α bounds the chance of any wrong rejection by α, whatever the dependence.

    Args:
        p_values: (m,) in [0, 1], at least one.

    Returns:
        float64 (m,), in the order given, at most 1 and never below the p-value itself.

    Raises:
        ValueError: anything else.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not p.size or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values must be a list of numbers in [0, 1], got {p.tolist()}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def bootstrap_p_value(differences: ArrayLike) -> float:
    """Two-sided p-value of a resampled difference: the smallest 1 - level whose percentile interval excludes zero.

    With q the highest and q' the lowest share at which the (interpolated) quantile of the differences may be zero,
    p = 2 min(q, 1 - q'), at most 1, and at least 2 / (R + 1), since R resamples know no smaller share.

    Args:
        differences: (R,) of the same two models under R resamples; NaN is left out.

    Raises:
        ValueError: no finite difference.
    """
    ordered = np.sort(np.asarray(differences, dtype=np.float64).ravel())
    ordered = ordered[np.isfinite(ordered)]
    if not ordered.size:
        raise ValueError("differences must hold at least one finite number")
    up_to_zero, from_zero = _share_below(ordered), _share_below(-ordered[::-1])
    return float(min(1.0, max(2 * min(up_to_zero, from_zero), 2 / (ordered.size + 1))))


def resamples_needed(models: int, *, level: float = 0.95) -> int:
    """The fewest resamples whose smallest percentile p-value 2 / (R + 1) stays below 1 - level after Holm's correction.

    The bare minimum: a difference is then shown only where all resamples agree. Some five times as many are better.

    >>> resamples_needed(8)
    1120
    """
    return math.floor(2 * math.comb(models, 2) / (1 - level) + 1e-9)


def _require_comparable(models: Sequence[ModelScores], level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
    names = [model.name for model in models]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"models must be at least 2, of different names, got {names}")
    sizes = sorted({model.resampled.size for model in models})
    if len(sizes) > 1:
        raise ValueError(f"models must be scored under the same resamples, got {sizes} of them")


def _difference(one: ModelScores, other: ModelScores, noise: SeedNoise, level: float) -> tuple[Interval, float]:
    between = noise.variance * (1 / one.per_seed.size + 1 / other.per_seed.size)
    return _with_seeds(one.value - other.value, one.resampled - other.resampled, between, noise.freedom, level)


def _with_seeds(value: float, values: Floats, between: float, freedom: int, level: float) -> tuple[Interval, float]:
    """Interval and two-sided p-value of a figure, `between` its variance due to seeds."""
    over_people = percentile_interval(value, values, level=level)
    if between == 0:
        return over_people, bootstrap_p_value(values)
    tail = (1 + level) / 2
    people = ((over_people.high - over_people.low) / (2 * float(ndtri(tail)))) ** 2
    welch = freedom * ((people + between) / between) ** 2
    deviation = math.sqrt(people + between)
    reach = float(stdtrit(welch, tail)) * deviation
    return replace(over_people, low=value - reach, high=value + reach), 2 * float(stdtr(welch, -abs(value) / deviation))


def _share_below(ordered: Floats) -> float:
    """The highest share at which the interpolated quantile of ascending numbers is at most zero; 0 without one."""
    count = int(np.searchsorted(ordered, 0.0, side="right"))
    if count in (0, ordered.size):
        return float(count > 0)
    below, above = ordered[count - 1], ordered[count]
    return float((count - 1 - below / (above - below)) / (ordered.size - 1))
