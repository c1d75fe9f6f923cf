"""A small painter: shapes in crop pixels, drawn twice as large and averaged down, so that edges are smooth."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

SCALE = 2
"""Drawing resolution per crop pixel."""

_SHIFT = 4


def smooth(points: Points, repetitions: int = 2) -> Points:
    """A closed polygon with its corners cut (Chaikin), which tends to a quadratic spline."""
    for _ in range(repetitions):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=1).reshape(-1, 2)
    return points


class Canvas:
    """A picture of ``size`` × ``size`` crop pixels under construction; points are (x, y) in crop pixels."""

    def __init__(self, background: NDArray[np.uint8], size: int) -> None:
        self.size = size
        side = size * SCALE
        self.pixels: NDArray[np.uint8] = cv2.resize(background, (side, side), interpolation=cv2.INTER_CUBIC)

    def _fixed(self, points: Points, scale: float = SCALE) -> NDArray[np.int32]:
        scaled = (np.asarray(points) + 0.5) * (scale * 2**_SHIFT) + 0.5 * (1 - 2**_SHIFT)
        fixed: NDArray[np.int32] = scaled.astype(np.int32)
        return fixed

    def polygon(self, points: Points, colour: Any) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.pixels, [self._fixed(points)], _tuple(colour), cv2.LINE_AA, _SHIFT)

    def line(self, points: Points, colour: Any, width: float, *, closed: bool = False) -> None:
        """Draw a line through points, ``width`` in crop pixels."""
        thickness = max(1, round(width * SCALE))
        cv2.polylines(self.pixels, [self._fixed(points)], closed, _tuple(colour), thickness, cv2.LINE_AA, _SHIFT)

    def mask(self, points: Points, blur: float = 0.0) -> tuple[tuple[slice, slice], NDArray[np.float32]] | None:
        """Coverage 0…1 of a polygon with edges softened by ``blur`` crop pixels, and where it lies; None outside.

        Wide blurs are computed at crop resolution: they have no detail to lose.
        """
        fine = SCALE if blur < 1 else 1
        fixed = self._fixed(points, fine)
        reach = int(2.6 * blur * fine) + 2
        low = np.maximum((fixed.min(axis=0) >> _SHIFT) - reach, 0)
        high = np.minimum((fixed.max(axis=0) >> _SHIFT) + reach + 1, self.size * fine)
        if (high <= low).any():
            return None
        coverage = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        cv2.fillPoly(coverage, [fixed - (low << _SHIFT).astype(np.int32)], (255,), cv2.LINE_AA, _SHIFT)
        if blur > 0:
            width = 2 * int(2.2 * blur * fine) + 1
            coverage = cv2.GaussianBlur(coverage, (width, width), blur * fine)
        if fine != SCALE:
            low, high = low * SCALE, high * SCALE
            coverage = cv2.resize(coverage, (int(high[0] - low[0]), int(high[1] - low[1])))
        weights = coverage.astype(np.float32) * np.float32(1 / 255)
        return (slice(low[1], high[1]), slice(low[0], high[0])), weights

    def blend(self, points: Points, colour: Any, *, alpha: float, blur: float = 0.0) -> None:
        """Tint a polygon: alpha·colour over what is there, with soft edges."""
        found = self.mask(points, blur)
        if found is not None:
            self._mix(*found, np.asarray(colour, np.float32), alpha)

    def clip(self, points: Points, other: "Canvas", *, alpha: float = 1.0) -> None:
        """Take over what lies inside the polygon from another canvas."""
        found = self.mask(points)
        if found is not None:
            self._mix(*found, other.pixels[found[0]].astype(np.float32), alpha)

    def _mix(
        self, where: tuple[slice, slice], weights: NDArray[np.float32], colour: NDArray[np.float32], alpha: float
    ) -> None:
        patch = self.pixels[where].astype(np.float32)
        patch += (weights * np.float32(alpha))[..., None] * (colour - patch)
        self.pixels[where] = patch.astype(np.uint8)

    def copy(self) -> "Canvas":
        """A second canvas with the same picture."""
        twin = object.__new__(Canvas)
        twin.size, twin.pixels = self.size, self.pixels.copy()
        return twin

    def finish(self) -> NDArray[np.uint8]:
        """The picture at crop resolution."""
        picture: NDArray[np.uint8] = cv2.resize(self.pixels, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return picture


def _tuple(colour: Any) -> tuple[int, int, int]:
    red, green, blue = (int(min(255, max(0, channel))) for channel in colour)
    return red, green, blue
