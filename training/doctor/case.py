"""What the checks look at: the data sets, the bundle, and what was read and computed of them so far.

Owns sampling and the reuse of results between checks. Knows no verdicts.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from facemargin.bundle import Bundle
from facemargin.preprocessing import Preprocessing
from training.data.pictures import LabelledImages, Picture

_Result = TypeVar("_Result")
Role = Literal["data", "training", "validation", "test"]


@dataclass(frozen=True, eq=False)
class DataSet:
    """One data set under examination.

    Attributes:
        name: as findings call it.
        role: what it is for; sets of different roles (but ``data``) must share nobody.
        images: its pictures with labels.
        sample: pictures looked at, 0 for all: whole people, drawn at random with a fixed seed.
        tells_people: the set says who is in its pictures; otherwise its people are groups of pictures of one person,
            two groups may be one person, and their names are made up.
    """

    name: str
    role: Role
    images: LabelledImages
    sample: int = 0
    tells_people: bool = True

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """The pictures looked at, ascending."""
        labels = self.images.labels
        if not 0 < self.sample < len(labels):
            return np.arange(len(labels), dtype=np.int64)
        classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        order = np.random.default_rng(0).permutation(len(classes))
        enough = int(np.searchsorted(np.cumsum(counts[order]), self.sample)) + 1
        return np.flatnonzero(np.isin(inverse, order[:enough])).astype(np.int64)

    def picture(self, place: int) -> Picture:
        """One picture."""
        return self.images.pictures[place]

    def person(self, place: int) -> str:
        """Whose picture it is, without the folder that label_people puts before a name."""
        return self.images.people[int(self.images.labels[place])].rpartition("/")[2]

    def called(self, place: int) -> str:
        """``person/picture``, for findings."""
        name = self.picture(place).name.rpartition("/")[2]
        return f"{self.person(place)}/{name}"


@dataclass(eq=False)
class Case:
    """One examination.

    Attributes:
        sets: the data sets.
        bundle: the model to look with, or None.
        expected: how crops become network input where a run's config or the bundle says so, or None.
        start: (what it is, its preprocessing) of the weights that a run starts from, or None.
        console: where progress is drawn.
    """

    sets: tuple[DataSet, ...]
    bundle: Bundle | None = None
    expected: Preprocessing | None = None
    start: tuple[str, Preprocessing] | None = None
    console: Console = field(default_factory=lambda: Console(stderr=True))
    _results: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)

    def apart(self) -> list[tuple[DataSet, DataSet]]:
        """Pairs of sets that must share nobody."""
        chosen = [data for data in self.sets if data.role != "data"]
        return [pair for pair in combinations(chosen, 2) if pair[0].role != pair[1].role]

    def once(self, compute: Callable[["Case", DataSet], _Result], data: DataSet) -> _Result:
        """The result of a computation on a data set, done on the first call only."""
        key = (compute, id(data))
        if key not in self._results:
            self._results[key] = compute(self, data)
        found: _Result = self._results[key]
        return found
