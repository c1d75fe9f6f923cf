"""The impostor distribution beyond what was observed: a generalised Pareto tail that ends at cosine 1.

Pickands-Balkema-de Haan: the excess over a high threshold tends to a generalised Pareto law, whose excess over any
higher threshold is again one with the same shape (Coles, An Introduction to Statistical Modeling of Extreme Values,
2001, chapter 4).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize_scalar

from facemargin.metrics.scores import Scores

TAIL_SHARE = 0.01
"""Share of the impostors, from the top, that the tail is fitted to (but at least 100 of them, or a tenth)."""

_SMALLEST_SHAPE = -0.5  # below it the maximum-likelihood estimate is not regular
_SMALLEST_EXCESS = 1e-9
_REFUSED = 1e6  # above any loss of an allowed shape


class Tail(BaseModel):
    """P(cosine >= c | cosine >= start) for impostors.

    G(c) = (1 + shape (c - start) / scale)^(-1/shape), exponential for shape 0, is cut at cosine 1:
    survival(c) = (G(c) - G(1)) / (1 - G(1)). So it is 1 at `start`, falls strictly, and is 0 only at cosine 1.

    Attributes:
        start: the cosine where the observed table ends and the tail begins.
        shape: ξ of the generalised Pareto law, >= -1/2.
        scale: σ at `start`, > 0.
        exceedances: impostor pairs that the two were fitted to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    start: float = Field(lt=1)
    shape: float
    scale: float = Field(gt=0)
    exceedances: int = Field(ge=1)

    def survival(self, cosine: float) -> float:
        """Share of the impostors beyond `start` that reach this cosine."""
        if cosine >= 1.0:
            return 0.0
        end = self._pareto(1.0)
        return min(1.0, max(0.0, (self._pareto(cosine) - end) / (1.0 - end)))

    def quantile(self, share: float) -> float:
        """The cosine that this share, in (0, 1], of the impostors beyond `start` reach: the inverse of `survival`."""
        end = self._pareto(1.0)
        log_survival = math.log(end + share * (1.0 - end))
        z = -log_survival if self.shape == 0 else math.expm1(-self.shape * log_survival) / self.shape
        return min(1.0, self.start + self.scale * z)

    def _pareto(self, cosine: float) -> float:
        """G(c), before the cut."""
        z = (cosine - self.start) / self.scale
        if self.shape == 0:
            return math.exp(-z)
        return math.exp(-math.log1p(self.shape * z) / self.shape) if self.shape * z > -1.0 else 0.0


def fit_tail(ordered: Scores, *, start: float) -> Tail | None:
    """Fit the top 1 % of the impostors by maximum likelihood and move the law up to `start`.

    The shape is bounded below so that no cosine under 1 is called impossible: the law's end lies at 1 or beyond.

    Args:
        ordered: (I,) impostor cosines, ascending.
        start: where the tail shall begin, at or above the top 1 %.

    Returns:
        The tail, or None where the top impostors do not spread, or reach up to cosine 1.
    """
    count = max(math.ceil(TAIL_SHARE * ordered.size), min(100, ordered.size // 10))
    base = float(ordered[ordered.size - 1 - count])
    excess = ordered[ordered.size - count :].astype(np.float64) - base
    excess = excess[excess > 0]
    if start >= 1.0 or excess.size < 2 or excess.mean() < _SMALLEST_EXCESS:
        return None
    shape, scale = fit_generalised_pareto(excess, least_end=1.0 - base)
    moved = scale + shape * (start - base)
    return Tail(start=start, shape=shape, scale=moved, exceedances=int(excess.size)) if moved > 0 else None


def fit_generalised_pareto(excess: NDArray[np.floating[Any]], *, least_end: float) -> tuple[float, float]:
    """Shape ξ and scale σ of highest likelihood among those whose law ends at `least_end` or beyond, with ξ >= -1/2.

    By Grimshaw's profile: with θ = ξ/σ the best shape is ξ(θ) = mean log(1 + θx), and the log-likelihood per
    sample is -log(ξ(θ)/θ) - ξ(θ) - 1, a function of θ alone (Technometrics 35, 1993).

    Args:
        excess: (K,) positive excesses, not all tiny.
        least_end: smallest end point -1/θ that is allowed for a negative shape.
    """
    mean = float(excess.mean())
    lowest = -mean / max(least_end, 1.001 * float(excess.max()))

    def loss(relative: float) -> float:
        shape, scale = _profile(excess, relative / mean)
        # Not infinity, which the minimiser's parabola would turn into NaN.
        return math.log(scale) + shape if shape >= _SMALLEST_SHAPE else _REFUSED - shape

    grid = np.unique([*np.linspace(lowest, 0.0, 30), *np.geomspace(1e-2, 10.0, 20)])
    losses = [loss(relative) for relative in grid]
    best = int(np.argmin(losses))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)]
    refined = float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-7}).x)
    relative = refined if loss(refined) < losses[best] else float(grid[best])
    return _profile(excess, relative / mean)


def _profile(excess: NDArray[np.floating[Any]], theta: float) -> tuple[float, float]:
    """The best shape and its scale for a given θ = shape / scale."""
    if abs(theta) * float(excess.max()) < 1e-8:
        return 0.0, float(excess.mean())
    shape = float(np.log1p(theta * excess).mean())
    return shape, shape / theta
