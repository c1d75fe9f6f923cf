"""The same picture twice: within a person, under two people, and in two sets that must be apart."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from facemargin.doctor import Finding
from training.doctor.case import Case, DataSet
from training.doctor.embedding import embeddable, embedded
from training.doctor.fingerprint import Alike, confirmed, near_embeddings, proposed
from training.doctor.reading import Figures, in_threads, measured

LEAST_COSINE = 0.9
"""Cosine from which on a bundle proposes two pictures as one; registration then decides as for the hash."""

_CACHED_PICTURES = 4096


@dataclass(frozen=True)
class Copy:
    """Two entries that are one picture: (data set, place) of each, and how alike they are."""

    first: tuple[DataSet, int]
    second: tuple[DataSet, int]
    how: str

    def __str__(self) -> str:
        """Both entries by name."""
        called = " = ".join(data.called(place) for data, place in (self.first, self.second))
        return f"{called} ({self.how})"

    @property
    def within_a_person(self) -> bool:
        """Whether both are of one person of one set."""
        return self.within_a_set and self.first[0].person(self.first[1]) == self.second[0].person(self.second[1])

    @property
    def within_a_set(self) -> bool:
        """Whether both are in one set."""
        return self.first[0] is self.second[0]


def duplicate_findings(case: Case) -> Iterator[Finding]:
    """Findings for every set, and for every two sets that must be apart."""
    copies, crowded = find_copies(case)
    for data in case.sets:
        mine = [copy for copy in copies if copy.first[0] is data and copy.within_a_set]
        yield from _in_one_set(data, mine)
    for one, other in case.apart():
        yield _between(one, other, [copy for copy in copies if {copy.first[0], copy.second[0]} == {one, other}])
    if crowded:
        yield Finding(
            "duplicates", "note", "so many pictures look alike that only the most alike pairs were compared",
            "look at each set alone, or check that the pictures are faces",
        )  # fmt: skip


def find_copies(case: Case) -> tuple[list[Copy], bool]:
    """Equal and nearly equal pictures of all sets; see `_equal` for which pairs of an equal group.

    Returns:
        The copies, and whether there were too many look-alikes to compare all.
    """
    entries = [(data, int(place)) for data in case.sets for place in case.once(measured, data).places]
    figures = [figure for data in case.sets for figure in case.once(measured, data).figures]
    if len(figures) < 2:
        return [], False
    copies = [Copy(entries[i], entries[j], how) for i, j, how in _equal(figures, entries)]
    single = _first_of_each(figures)
    near, crowded = proposed(
        np.array([figures[k].coefficients for k in single]), np.array([figures[k].thumbnail for k in single])
    )
    known = {(pair.i, pair.j) for pair in near}
    near += [pair for pair in _by_embedding(case, [entries[k] for k in single]) if (pair.i, pair.j) not in known]
    wanted = [pair for pair in near if _may_matter(case, entries[single[pair.i]][0], entries[single[pair.j]][0])]

    @lru_cache(_CACHED_PICTURES)
    def image(number: int) -> NDArray[np.uint8]:
        data, place = entries[single[number]]
        return data.picture(place).decode()

    def confirm(pair: Alike) -> list[Alike]:
        return list(confirmed([pair], image))

    for found in in_threads(confirm, wanted, "comparing look-alikes", case.console):
        copies += [Copy(entries[single[pair.i]], entries[single[pair.j]], _how(pair)) for pair in found]
    return copies, crowded


def _by_embedding(case: Case, entries: list[tuple[DataSet, int]]) -> list[Alike]:
    """Pairs of entries that the bundle finds alike, where there is one and their sets are aligned crops."""
    if case.bundle is None:
        return []
    row_of: dict[tuple[int, int], NDArray[np.float32]] = {}
    for data in embeddable(case):
        found = case.once(embedded, data)
        row_of |= {(id(data), int(place)): row for place, row in zip(found.places, found.rows, strict=True)}
    numbers = [number for number, (data, place) in enumerate(entries) if (id(data), place) in row_of]
    if not numbers:
        return []
    rows = np.array([row_of[id(entries[number][0]), entries[number][1]] for number in numbers])
    return [
        Alike(numbers[pair.i], numbers[pair.j], pair.mirrored, pair.bits)
        for pair in near_embeddings(rows, LEAST_COSINE)
    ]


def _how(pair: Alike) -> str:
    return "nearly the same, mirrored" if pair.mirrored else "nearly the same"


def _may_matter(case: Case, one: DataSet, other: DataSet) -> bool:
    return one is other or (one, other) in case.apart() or (other, one) in case.apart()


def _equal(figures: list[Figures], entries: list[tuple[DataSet, int]]) -> Iterator[tuple[int, int, str]]:
    """Every picture with the first equal one of its set, and those first ones with the very first of all."""
    first_of_all: dict[bytes, int] = {}
    first_of_set: dict[tuple[int, bytes], int] = {}
    for number, figure in enumerate(figures):
        key = (id(entries[number][0]), figure.pixels)
        earlier = first_of_set.setdefault(key, number)
        if earlier == number:
            earlier = first_of_all.setdefault(figure.pixels, number)
        if earlier != number:
            same_file = figures[earlier].content == figure.content
            yield earlier, number, "same file" if same_file else "same pixels"


def _first_of_each(figures: list[Figures]) -> list[int]:
    first: dict[bytes, int] = {}
    for number, figure in enumerate(figures):
        first.setdefault(figure.pixels, number)
    return sorted(first.values())


def _in_one_set(data: DataSet, copies: list[Copy]) -> Iterator[Finding]:
    subject = f"{data.name}: duplicates"
    own = [copy for copy in copies if copy.within_a_person]
    across = [copy for copy in copies if not copy.within_a_person]
    if across and not data.tells_people:
        yield Finding(
            subject, "note", f"{_counted(across)} that no genuine pair links: the set does not say that they show one "
            "person; an impostor pair of the two would be wrong",
            "look at each pair", tuple(map(str, across)),
        )  # fmt: skip
    elif across:
        yield Finding(
            subject, "problem", f"{_counted(across)} under two people: one of the two labels is wrong, or both are one",
            "look at each pair; remove one picture, or join the two people", tuple(map(str, across)),
        )  # fmt: skip
    if own:
        yield Finding(
            subject, "note", f"{_counted(own)} within one person: harmless, but it teaches nothing new and is an easy "
            "genuine pair in a test",
            "remove one of each", tuple(map(str, own)),
        )  # fmt: skip
    if not copies:
        yield Finding(subject, "ok", f"no picture twice among the {len(data.places):,} looked at")


def _between(one: DataSet, other: DataSet, copies: list[Copy]) -> Finding:
    subject = f"{one.name} and {other.name}: duplicates"
    if not copies:
        return Finding(subject, "ok", "no picture is in both, of those looked at")
    return Finding(
        subject, "problem", f"{_counted(copies)} in both: what was trained on is tested on",
        "remove these people from one of the two sets, and look for others of the same source", tuple(map(str, copies)),
    )  # fmt: skip


def _counted(copies: list[Copy]) -> str:
    near = sum(copy.how.startswith("nearly") for copy in copies)
    equal = len(copies) - near
    return f"{equal:,} equal and {near:,} nearly equal pairs of pictures"
