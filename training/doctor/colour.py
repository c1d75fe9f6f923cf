"""Colour order: skin is redder than blue, so that a set saved with red and blue swapped gives itself away."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facemargin.doctor import Finding
from training.doctor.case import Case, DataSet
from training.doctor.reading import measured

GREY_CHROMA = 1.5
"""Mean |red − blue| in levels below which a picture is grey and says nothing about the order."""

COLD = -10.0
"""Red minus blue of the central region, in levels, below which a single picture looks swapped (docs/doctor.md)."""

MANY_COLD = 0.02
"""Share of cold pictures above which some of a set are taken for swapped; real sets have 0.02 % to 0.2 %."""

_FEWEST = 5


@dataclass(frozen=True)
class Colour:
    """What the colours of a set say: coloured and grey pictures, median warmth, and the cold ones by name."""

    coloured: int
    grey: int
    warmth: float
    cold: tuple[str, ...]

    @property
    def swapped(self) -> bool:
        """Whether most pictures are bluer than red."""
        return self.coloured >= _FEWEST and self.warmth < 0


def colour_of(case: Case, data: DataSet) -> Colour:
    """The colours of the pictures looked at."""
    found = case.once(measured, data)
    chroma, warmth = found.column("chroma"), found.column("warmth")
    coloured = chroma >= GREY_CHROMA
    cold = np.flatnonzero(coloured & (warmth < COLD))
    cold = cold[np.argsort(warmth[cold], kind="stable")]
    return Colour(
        coloured=int(coloured.sum()),
        grey=int((~coloured).sum()),
        warmth=float(np.median(warmth[coloured])) if coloured.any() else float("nan"),
        cold=tuple(f"{data.called(int(found.places[k]))} ({warmth[k]:+.0f})" for k in cold),
    )


def colour_findings(case: Case) -> Iterator[Finding]:
    """One finding a set, and one for two sets that differ."""
    for data in case.sets:
        if len(case.once(measured, data).places):
            yield _of_set(data, case.once(colour_of, data))
    for one, other in case.apart():
        yield from _between(one, other, case.once(colour_of, one), case.once(colour_of, other))


def _of_set(data: DataSet, colour: Colour) -> Finding:
    subject = f"{data.name}: colour order"
    grey = f"; {colour.grey:,} are grey" if colour.grey else ""
    if colour.coloured < _FEWEST:
        return Finding(
            subject, "note", f"only {colour.coloured:,} coloured pictures{grey}: the order cannot be told",
            "a model trained on colour loses on grey pictures; train with augmentation.grey, or test in grey too",
        )  # fmt: skip
    if colour.swapped:
        return Finding(
            subject, "problem",
            f"red and blue look swapped: the median face is {-colour.warmth:.0f} levels bluer than red{grey}",
            "write the pictures anew with the channels swapped (cv2.imwrite expects BGR)",
        )  # fmt: skip
    if len(colour.cold) >= _FEWEST and len(colour.cold) > MANY_COLD * colour.coloured:
        return Finding(
            subject, "problem",
            f"{len(colour.cold):,} of {colour.coloured:,} coloured pictures look swapped (in real sets below 1 in 400)",
            "look at them; swap their channels back", colour.cold,
        )  # fmt: skip
    warm = f"the median face is {colour.warmth:.0f} levels redder than blue, as RGB should be{grey}"
    if colour.cold:
        return Finding(
            subject, "note", f"{warm}; {len(colour.cold):,} are bluer than red",
            "look at them: swapped channels, blue light or blue paint", colour.cold,
        )  # fmt: skip
    return Finding(subject, "ok", warm)


def _between(one: DataSet, other: DataSet, first: Colour, second: Colour) -> Iterator[Finding]:
    subject = f"{one.name} and {other.name}: colour order"
    enough = min(first.coloured, second.coloured) >= _FEWEST
    if enough and first.swapped != second.swapped:
        yield Finding(
            subject, "problem", f"one is swapped and the other is not (red minus blue {first.warmth:+.0f} and "
            f"{second.warmth:+.0f} levels)",
            "bring both to RGB",
        )  # fmt: skip
    shares = [colour.grey / max(1, colour.grey + colour.coloured) for colour in (first, second)]
    if abs(shares[0] - shares[1]) > 0.5:
        yield Finding(
            subject, "note", f"{shares[0]:.0%} of the pictures are grey in one set and {shares[1]:.0%} in the other",
            "train with augmentation.grey, or test on pictures like those of the use",
        )  # fmt: skip
