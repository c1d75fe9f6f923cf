"""Logistic regression of one variable, for tens of millions of pairs: Newton's method over blocks."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import CalibrationError
from facemargin.metrics.scores import Scores

_BLOCK = 1 << 20
_STEPS = 100
_HALVINGS = 30
_CONVERGED = 1e-10  # of the fall of the loss that a Newton step promises; the loss itself is of order 0.1


class Line(NamedTuple):
    """log-odds = slope * x + intercept."""

    slope: float
    intercept: float


class _Class(NamedTuple):
    """Scores of one kind with the weight of each and the probability it is drawn towards."""

    scores: Scores
    weight: float
    target: float


def fit_logistic(genuine: Scores, impostor: Scores, *, prior: float) -> Line:
    """Minimise the weighted cross-entropy of P(same | x) = sigmoid(slope x + intercept), slope >= 0.

    Each genuine pair weighs prior / G and each impostor pair (1 - prior) / I, so that the result assumes
    P(same) = prior however many pairs of each kind there are. Targets are (G+1)/(G+2) and 1/(I+2) in place of 1 and 0
    (Platt 1999), which keeps the optimum finite when the two kinds do not overlap. Where the optimum has a negative
    slope the best line with slope 0 is returned.

    Args:
        genuine: (G,) finite.
        impostor: (I,) finite.
        prior: in (0, 1).

    Raises:
        ValueError: a prior outside (0, 1).
        CalibrationError: scores that are all equal.
    """
    if not 0.0 < prior < 1.0:
        raise ValueError(f"prior must be in (0, 1), got {prior}")
    lowest, highest = min(genuine.min(), impostor.min()), max(genuine.max(), impostor.max())
    if lowest == highest:
        raise CalibrationError(f"every pair has the same similarity {lowest:g}: there is nothing to calibrate")
    g, i = genuine.size, impostor.size
    kinds = (_Class(genuine, prior / g, (g + 1) / (g + 2)), _Class(impostor, (1 - prior) / i, 1 / (i + 2)))
    middle, spread = (float(lowest) + float(highest)) / 2, (float(highest) - float(lowest)) / 2
    slope, intercept = _newton(kinds, middle, spread)
    if slope <= 0:
        same = prior * kinds[0].target + (1 - prior) * kinds[1].target
        return Line(0.0, math.log(same / (1 - same)))
    return Line(slope / spread, intercept - slope * middle / spread)


def _newton(kinds: tuple[_Class, ...], middle: float, spread: float) -> tuple[float, float]:
    """Slope and intercept in x' = (x - middle) / spread: Newton steps, halved until the loss falls."""
    at = np.zeros(2)
    loss, gradient, hessian = _derivatives(kinds, at, middle, spread)
    for _ in range(_STEPS):
        step = np.linalg.solve(hessian + 1e-12 * np.eye(2), gradient)
        if float(gradient @ step) < _CONVERGED:
            at = at - step  # so near the optimum a whole step squares the error; rounding hides any fall of the loss
            break
        for halving in range(_HALVINGS):
            candidate = at - step * 0.5**halving
            new = _derivatives(kinds, candidate, middle, spread)
            if new[0] <= loss:
                break
        else:
            break
        at, (loss, gradient, hessian) = candidate, new
    return float(at[0]), float(at[1])


def _derivatives(
    kinds: tuple[_Class, ...], at: NDArray[np.float64], middle: float, spread: float
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Weighted cross-entropy, its gradient (2,) and its Hessian (2, 2)."""
    loss, gradient, hessian = 0.0, np.zeros(2), np.zeros((2, 2))
    for kind in kinds:
        for begin in range(0, kind.scores.size, _BLOCK):
            x = (kind.scores[begin : begin + _BLOCK].astype(np.float64) - middle) / spread
            z = at[0] * x + at[1]
            p = 0.5 * (1.0 + np.tanh(0.5 * z))
            loss += kind.weight * float(np.logaddexp(0.0, z).sum() - kind.target * z.sum())
            residual, curvature = p - kind.target, p * (1.0 - p)
            gradient += kind.weight * np.array([residual @ x, residual.sum()])
            cross = curvature @ x
            hessian += kind.weight * np.array([[curvature @ (x * x), cross], [cross, curvature.sum()]])
    return loss, gradient, hessian
