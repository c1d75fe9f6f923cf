"""Colour order of the sets, by the rule of `training.data.colour_order`, which `data inspect` uses too."""

from collections.abc import Iterator

from facemargin.doctor import Finding
from training.data.colour_order import FEWEST, ColourOrder, cold_pictures, colour_order
from training.doctor.case import Case, DataSet
from training.doctor.reading import measured


def colour_of(case: Case, data: DataSet) -> ColourOrder:
    """The verdict on the pictures looked at."""
    found = case.once(measured, data)
    return colour_order(found.column("warmth"), found.column("chroma"))


def colour_findings(case: Case) -> Iterator[Finding]:
    """One finding a set, and one for two sets that differ."""
    for data in case.sets:
        if len(case.once(measured, data).places):
            yield _of_set(data, case.once(colour_of, data), _cold(case, data))
    for one, other in case.apart():
        yield from _between(one, other, case.once(colour_of, one), case.once(colour_of, other))


def _cold(case: Case, data: DataSet) -> tuple[str, ...]:
    """The pictures that look swapped, by name."""
    found = case.once(measured, data)
    warmth = found.column("warmth")
    cold = cold_pictures(warmth, found.column("chroma"))
    return tuple(f"{data.called(int(found.places[k]))} ({warmth[k]:+.0f})" for k in cold)


def _of_set(data: DataSet, colour: ColourOrder, cold: tuple[str, ...]) -> Finding:
    subject = f"{data.name}: colour order"
    if colour.verdict in ("grey", "cannot tell"):
        return Finding(
            subject, "note", colour.reason,
            "a model trained on colour loses on grey pictures; train with augmentation.grey, or test in grey too",
        )  # fmt: skip
    if colour.verdict == "bgr":
        return Finding(
            subject, "problem", colour.reason,
            "write the pictures anew with the channels swapped (cv2.imwrite expects BGR)",
        )  # fmt: skip
    if colour.verdict == "mixed":
        return Finding(subject, "problem", colour.reason, "look at them; swap their channels back", cold)
    if cold:
        return Finding(
            subject, "note", f"{colour.reason}; {len(cold):,} are bluer than red",
            "look at them: swapped channels, blue light or blue paint", cold,
        )  # fmt: skip
    return Finding(subject, "ok", colour.reason)


def _between(one: DataSet, other: DataSet, first: ColourOrder, second: ColourOrder) -> Iterator[Finding]:
    subject = f"{one.name} and {other.name}: colour order"
    enough = min(first.coloured, second.coloured) >= FEWEST
    if enough and (first.verdict == "bgr") != (second.verdict == "bgr"):
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
