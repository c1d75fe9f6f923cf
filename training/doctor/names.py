"""The same person in two sets that must share nobody, by name.

A number is no name: two sets that number different people share numbers. Nor is the name of a group that is made up
for a set that does not tell who is in its pictures.
"""

import unicodedata
from collections.abc import Iterator

from facemargin.doctor import Finding
from training.doctor.case import Case, DataSet


def normalised(name: str) -> str:
    """A name without case and accents, with spaces, dots and hyphens as underscores.

    >>> normalised("José Ann-Lee")
    'jose_ann_lee'
    """
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign))
    return "".join("_" if sign in " .-" else sign for sign in plain.casefold())


def reported_people(one: DataSet, other: DataSet) -> dict[str, str]:
    """The names that two sets share: normalised, and as the first set spells it. No numbers, no made-up names."""
    first, second = _names(one), _names(other)
    return {key: first[key] for key in sorted(first.keys() & second.keys()) if not key.isdecimal()}


def name_findings(case: Case) -> Iterator[Finding]:
    """One finding for every two sets that must share nobody; looks at all names, not at a sample."""
    for one, other in case.apart():
        yield _compared(one, other)


def _compared(one: DataSet, other: DataSet) -> Finding:
    subject = f"{one.name} and {other.name}: names"
    both = tuple(reported_people(one, other).values())
    numbers = _shared_numbers(one, other)
    also = f"; {len(numbers):,} more have the same number, but a number is no name" if numbers else ""
    if both:
        return Finding(
            subject, "problem", f"{len(both):,} people are in both; a result on them proves nothing{also}",
            "remove these people from one of the two sets", both,
        )  # fmt: skip
    if numbers:
        return Finding(
            subject, "note", f"{len(numbers):,} people have the same number in both, but a number is no name",
            "if both sets number the same people, they share these; otherwise look by embedding with --bundle", numbers,
        )  # fmt: skip
    unnamed = [data.name for data in (one, other) if not _is_named(data)]
    if unnamed:
        return Finding(
            subject, "missing", f"not compared: {' and '.join(unnamed)} gives no names to people",
            "look by embedding with --bundle",
        )  # fmt: skip
    return Finding(subject, "ok", "no name is in both")


def _is_named(data: DataSet) -> bool:
    """Whether anybody in the set has a name."""
    return not all(name.isdecimal() for name in _names(data))


def _shared_numbers(one: DataSet, other: DataSet) -> tuple[str, ...]:
    return tuple(sorted(name for name in _names(one).keys() & _names(other).keys() if name.isdecimal()))


def _names(data: DataSet) -> dict[str, str]:
    """The people of a set by normalised name, without the folder that label_people puts before each."""
    people = (name.rpartition("/")[2] for name in data.images.people if data.tells_people)
    return {normalised(name): name for name in people}
