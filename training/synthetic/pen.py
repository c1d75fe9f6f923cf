"""What every part of the drawing holds: the person, the scene, the projection and the canvas; and simple shapes."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.synthetic.canvas import Canvas, Points
from training.synthetic.identity import Identity
from training.synthetic.scene import Projection, Scene

SIDES = (-1, 1)
FULL_TURN = 2 * np.pi


@dataclass(frozen=True, eq=False)
class Pen:
    """One picture in the making.

    Attributes:
        person: who is drawn.
        scene: how they are seen.
        at: face units to crop pixels.
        canvas: the picture so far.
    """

    person: Identity
    scene: Scene
    at: Projection
    canvas: Canvas


def arc(
    centre: tuple[float, float], radii: tuple[float, float], count: int, start: float = 0, end: float = FULL_TURN
) -> Points:
    """``count`` points of an ellipse from angle ``start`` to ``end`` in radians; the whole of it by default."""
    points: Points = _unit_arc(start, end, count) * radii + centre
    return points


@lru_cache
def _unit_arc(start: float, end: float, count: int) -> Points:
    angle = np.linspace(start, end, count)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def points(x: ArrayLike, y: ArrayLike) -> Points:
    """Points (K, 2) from their coordinates."""
    return np.column_stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])


def mirrored(x: ArrayLike, y: ArrayLike) -> Points:
    """A closed outline, left-right symmetric, from its right half going down or up; then the left half back."""
    right = points(x, y)
    outline: NDArray[np.float64] = np.concatenate([right, right[::-1] * (-1, 1)])
    return outline


def loop(x: ArrayLike, upper: ArrayLike, lower: ArrayLike) -> Points:
    """The closed outline between two curves over the same ``x``."""
    return np.concatenate([points(x, upper), points(x, lower)[::-1]])
