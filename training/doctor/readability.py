"""Pictures that cannot be read, named with the reason."""

from collections.abc import Iterator

from facemargin.doctor import Finding
from training.doctor.case import Case
from training.doctor.reading import measured


def readability_findings(case: Case) -> Iterator[Finding]:
    """One finding for every set, which also says how many pictures all checks of pixels looked at."""
    for data in case.sets:
        found = case.once(measured, data)
        looked = f"{len(data.places):,} of {len(data.images.labels):,} pictures looked at"
        if len(data.places) < len(data.images.labels):
            looked += " (whole people at random; --sample 0 for all)"
        if found.unreadable:
            yield Finding(
                f"{data.name}: reading", "problem", f"{len(found.unreadable):,} cannot be read; {looked}",
                "replace or remove them",
                tuple(f"{data.called(place)}: {reason}" for place, reason in found.unreadable.items()),
            )  # fmt: skip
        elif not len(data.places):
            yield Finding(f"{data.name}: reading", "problem", "there is no picture", "check the path and its format")
        else:
            yield Finding(f"{data.name}: reading", "ok", looked)
