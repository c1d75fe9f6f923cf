"""Whether red and blue of a set of faces are where they should be: the one rule of ``data inspect`` and ``doctor``.

Skin is redder than blue in nearly any light, so a set saved with red and blue exchanged gives itself away.
"""

from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

ColourVerdict = Literal["rgb", "bgr", "mixed", "grey", "cannot tell"]

GREY_CHROMA = 1.5
"""Mean |red − blue| in levels below which a picture is grey and says nothing about the order."""

COLD = -10.0
"""Red minus blue of the central region, in levels, below which a single picture looks exchanged (docs/doctor.md)."""

MANY_COLD = 0.02
"""Share of cold pictures above which some of a set are taken for exchanged; real sets have 0.02 % to 0.2 %."""

FEWEST = 5
"""Coloured pictures that a verdict needs, and cold ones that make a set mixed."""


class PictureColour(NamedTuple):
    """The colour of one picture, in levels of 0 … 255.

    Attributes:
        warmth: mean red minus mean blue over the central face region.
        chroma: mean |red − blue| over the whole picture; near 0 for a grey one.
    """

    warmth: float
    chroma: float


class ColourOrder(BaseModel):
    """Whether red and blue of a set are where they should be.

    Attributes:
        verdict: ``bgr`` is exchanged, ``mixed`` in some of the pictures.
        coloured, grey: pictures with and without colour.
        cold: coloured pictures that look exchanged.
        warmth: median of red minus blue over the coloured pictures, in levels; None where there is none.
        reason: in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: ColourVerdict
    coloured: int
    grey: int
    cold: int
    warmth: float | None
    reason: str


def picture_colour(image: NDArray[np.uint8]) -> PictureColour:
    """The colour of a picture, uint8 (H, W, 3), RGB."""
    height, width = image.shape[:2]
    centre = image[int(height * 0.3) : int(height * 0.75) + 1, int(width * 0.3) : int(width * 0.7) + 1]
    red, _, blue = cv2.mean(centre)[:3]
    return PictureColour(red - blue, float(cv2.mean(cv2.absdiff(image[..., 0], image[..., 2]))[0]))


def cold_pictures(warmth: NDArray[np.float64], chroma: NDArray[np.float64]) -> NDArray[np.intp]:
    """Which coloured pictures look exchanged, the coldest first; both arguments (N,), as in `PictureColour`."""
    cold = np.flatnonzero((chroma >= GREY_CHROMA) & (warmth < COLD))
    return cold[np.argsort(warmth[cold], kind="stable")]


def colour_order(warmth: NDArray[np.float64], chroma: NDArray[np.float64]) -> ColourOrder:
    """The verdict on a set from the colours of its N pictures; both arguments (N,), as in `PictureColour`."""
    coloured = warmth[chroma >= GREY_CHROMA]
    counts = {
        "coloured": len(coloured),
        "grey": len(warmth) - len(coloured),
        "cold": len(cold_pictures(warmth, chroma)),
    }
    middle = float(np.median(coloured)) if coloured.size else None
    verdict, reason = _verdict(**counts, warmth=middle)
    return ColourOrder(verdict=verdict, **counts, warmth=middle, reason=reason)


def _verdict(*, coloured: int, grey: int, cold: int, warmth: float | None) -> tuple[ColourVerdict, str]:
    also = f"; {grey:,} are grey" if grey else ""
    if warmth is None or coloured < FEWEST:
        return (
            "grey" if grey > coloured else "cannot tell",
            f"only {coloured:,} coloured pictures{also}: the order cannot be told",
        )
    if warmth < 0:
        return "bgr", f"red and blue look swapped: the median face is {-warmth:.0f} levels bluer than red{also}"
    if cold >= FEWEST and cold > MANY_COLD * coloured:
        return "mixed", f"{cold:,} of {coloured:,} coloured pictures look swapped (in real sets below 1 in 400){also}"
    return "rgb", f"the median face is {warmth:.0f} levels redder than blue, as RGB should be{also}"
