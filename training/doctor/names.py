"""The same person in two sets that must share nobody, by name."""

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


def shared_people(one: DataSet, other: DataSet) -> list[str]:
    """Names that two sets share after `normalised`, as the first set spells them."""
    first, second = _names(one), _names(other)
    return sorted(first[key] for key in first.keys() & second.keys())


def name_findings(case: Case) -> Iterator[Finding]:
    """One finding for every two sets that must share nobody; looks at all names, not at a sample."""
    for one, other in case.apart():
        yield _compared(one, other)


def _compared(one: DataSet, other: DataSet) -> Finding:
    subject = f"{one.name} and {other.name}: names"
    both = shared_people(one, other)
    if not both:
        return Finding(subject, "ok", "no name is in both")
    if all(name.isdecimal() for name in both):
        return Finding(
            subject, "note", f"{len(both):,} people have the same number in both, but a number is no name",
            "if both sets number the same people, they share these; otherwise look by embedding with --bundle",
            tuple(both),
        )  # fmt: skip
    return Finding(
        subject, "problem", f"{len(both):,} people are in both; a result on them proves nothing",
        "remove these people from one of the two sets", tuple(both),
    )  # fmt: skip


def _names(data: DataSet) -> dict[str, str]:
    """The people of a set by normalised name, without the folder that label_people puts before each."""
    people = (name.rpartition("/")[2] for name in data.images.people)
    return {normalised(name): name for name in people}
