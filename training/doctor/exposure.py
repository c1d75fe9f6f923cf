"""Values of the pixels: pictures saved as 0–1 or normalised before they were saved, very dark and very bright sets."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from facemargin.doctor import Finding
from training.doctor.case import Case, DataSet
from training.doctor.reading import Measured, measured

FEW_LEVELS = 8
"""Distinct values up to which a picture holds normalised numbers cast to bytes: real crops have 100 to 256."""

DARK, BRIGHT = 35.0, 220.0
"""Mean level outside which a picture is very dark or very bright; 0.1 % of real crops have a mean below 38."""

MANY = 0.02
"""Share of very dark and very bright pictures above which a set gets a note."""


def exposure_findings(case: Case) -> Iterator[Finding]:
    """One finding a set."""
    for data in case.sets:
        found = case.once(measured, data)
        if len(found.places):
            yield _of_set(data, found)


def _of_set(data: DataSet, found: Measured) -> Finding:
    subject = f"{data.name}: pixel values"
    levels, highest, mean = found.column("levels"), found.column("highest"), found.column("mean")
    few = np.flatnonzero(levels <= FEW_LEVELS)
    extreme = np.flatnonzero((mean < DARK) | (mean > BRIGHT))
    if few.size:
        unit = np.count_nonzero(highest[few] <= 1)
        return Finding(
            subject, "problem",
            f"{few.size:,} pictures have {FEW_LEVELS} distinct values or fewer ({unit:,} nothing above 1): saved as "
            "0–1, normalised before saving, or blank",
            "save the crops with values 0 … 255; mean and std belong to the preprocessing", _named(data, found, few),
        )  # fmt: skip
    middle = f"median brightness {np.median(mean):.0f} of 255"
    if extreme.size > MANY * len(mean):
        return Finding(
            subject, "note", f"{middle}; {extreme.size:,} of {len(mean):,} are very dark or very bright",
            "look at them; a mean subtracted before saving looks like this", _named(data, found, extreme),
        )  # fmt: skip
    return Finding(subject, "ok", middle)


def _named(data: DataSet, found: Measured, which: NDArray[np.intp]) -> tuple[str, ...]:
    return tuple(data.called(int(found.places[k])) for k in which)
