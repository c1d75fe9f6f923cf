"""Colours of the report, told apart by people with any colour vision, in a light and in a dark form.

A figure is drawn in the light colours; `training.report.svg` replaces each by its CSS variable, which the page defines.
"""

from typing import NamedTuple


class Tone(NamedTuple):
    """A colour by its use, on light and on dark ground."""

    light: str
    dark: str


INK = Tone("#1c2126", "#e8eaed")
MUTED = Tone("#5a636e", "#a3acb7")
GRID = Tone("#dfe3e8", "#363d46")
SURFACE = Tone("#fefefe", "#171b20")

SERIES = (
    Tone("#0067a5", "#62b5ee"),  # blue
    Tone("#c84a00", "#ff9155"),  # vermilion
    Tone("#00775c", "#3fcda2"),  # green
    Tone("#a8478a", "#e99bcd"),  # pink
    Tone("#8a6c00", "#e0c24c"),  # ochre
    Tone("#5747b8", "#ada2ff"),  # violet
    Tone("#3f8ea8", "#8fd8ec"),  # sky
    Tone("#6d4a34", "#cfae98"),  # brown
)
"""After Okabe and Ito's set, darkened or lightened to at least 3:1 against the ground."""

Dashes = str | tuple[float, tuple[float, ...]]

DASHES: tuple[Dashes, ...] = ("-", (0, (5, 1.6)), (0, (5, 1.4, 1.2, 1.4)), (0, (1.4, 1.2)))
"""Line styles, so that no line is known by its colour alone."""

VARIABLES = {
    "ink": INK,
    "muted": MUTED,
    "grid": GRID,
    "surface": SURFACE,
    **{f"series-{number}": tone for number, tone in enumerate(SERIES)},
}
"""Every colour by its CSS variable."""


def series(number: int) -> str:
    """The light colour of the n-th row."""
    return SERIES[number % len(SERIES)].light


def dashes(number: int) -> Dashes:
    """The line style of the n-th row; rows that share a colour have another one."""
    return DASHES[(number + number // len(SERIES)) % len(DASHES)]
