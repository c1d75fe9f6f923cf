"""Arrays of similarities: the one place that checks them, and the smallest threshold that admits so many of them."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.floating[Any]]


def as_scores(name: str, values: ArrayLike) -> Scores:
    """A one-dimensional, non-empty, finite array; float32 stays float32, everything else becomes float64.

    Raises:
        ValueError: anything else, naming the argument.
    """
    scores = np.asarray(values)
    if scores.dtype != np.float32:
        try:
            scores = scores.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be numbers, got an array of {scores.dtype}") from error
    if scores.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {scores.shape}")
    if scores.size == 0:
        raise ValueError(f"{name} must not be empty")
    bad = scores.size - int(np.count_nonzero(np.isfinite(scores)))
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite of {scores.size}")
    return scores


def same_type(first: Scores, second: Scores) -> tuple[Scores, Scores]:
    """Both in the wider of their two types."""
    wider = np.result_type(first, second)
    return first.astype(wider, copy=False), second.astype(wider, copy=False)


def just_above(value: np.floating[Any]) -> np.floating[Any]:
    """The next floating-point number above, in the value's own type: a float32 cosine compares to it exactly."""
    above: np.floating[Any] = np.nextafter(value, value.dtype.type(np.inf))
    return above


def highest_allowed(scores: Scores, allowed: int) -> np.floating[Any]:
    """The smallest number that at most `allowed` (< size) of the scores reach: just above the next largest score."""
    place = scores.size - 1 - allowed
    return just_above(np.partition(scores, place)[place])
