"""Verification pairs in the one form that every protocol is read into: pictures, and pairs of them by number."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from facemargin.errors import DataError
from training.data.pairs import format_folds
from training.data.pictures import Picture


@dataclass(frozen=True, eq=False)
class PairSet:
    """The pairs of a verification protocol, each picture held once.

    Attributes:
        name: of the protocol, for reports.
        photos: what each of the N pictures is called in reports.
        pictures: N pictures; None where the report of an aligned folder says that no face was found in the photograph.
        first: int64 (P,), number of one picture of each pair.
        second: int64 (P,), number of the other.
        same: bool (P,), True where both show one person.
        fold: int64 (P,), the fold of each pair, counted from 1.
        people: person of each picture, or None where the protocol does not tell.
        aligned: the pictures are aligned crops.
        missing: photographs that were not found, whose pairs were left out on request.
        pairs_left_out: how many pairs those are.
        folds_left_out: folds that have no other pair.
    """

    name: str
    photos: tuple[str, ...]
    pictures: tuple[Picture | None, ...]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]
    people: tuple[str, ...] | None
    aligned: bool
    missing: tuple[str, ...] = ()
    pairs_left_out: int = 0
    folds_left_out: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.same)

    @property
    def folds(self) -> tuple[int, ...]:
        """The fold numbers that occur, ascending."""
        return tuple(int(fold) for fold in np.unique(self.fold))

    def select(self, folds: Sequence[int]) -> "PairSet":
        """The pairs of some folds with the pictures they need, in order.

        Raises:
            DataError: a fold that the protocol does not have, or none at all.
        """
        unknown = sorted(set(folds) - set(self.folds))
        if unknown or not folds:
            raise DataError(
                f"the protocol has the folds {format_folds(self.folds)}, not {format_folds(unknown) or 'none'}"
            )
        return self._of_pairs(np.isin(self.fold, list(folds)))

    def without(self, pictures: Collection[int]) -> "PairSet":
        """The pairs that need none of these pictures; what is left out is counted in the attributes."""
        gone = np.zeros(len(self.photos), dtype=np.bool_)
        gone[list(pictures)] = True
        kept = ~(gone[self.first] | gone[self.second])
        chosen = self._of_pairs(kept)
        return replace(
            chosen,
            pairs_left_out=self.pairs_left_out + int(np.count_nonzero(~kept)),
            folds_left_out=tuple(sorted({*self.folds_left_out, *(set(self.folds) - set(chosen.folds))})),
        )

    @cached_property
    def sides(self) -> tuple[list[str], list[str]]:
        """The person on each side of each pair; where people are unknown, the group that stands for one.

        A group is a connected component of the pictures under the genuine pairs: pictures that the protocol itself
        says show one person. Two groups may still be one person whom no genuine pair links.
        """
        people = self.people or _linked(len(self.photos), self.first[self.same], self.second[self.same])
        return [people[k] for k in self.first], [people[k] for k in self.second]

    @property
    def duplicates(self) -> int:
        """Pairs that occurred before, whichever way round."""
        keys = np.sort(np.stack([self.first, self.second], axis=1), axis=1)
        return len(self) - len(np.unique(keys, axis=0))

    def _of_pairs(self, kept: NDArray[np.bool_]) -> "PairSet":
        used, numbers = np.unique([self.first[kept], self.second[kept]], return_inverse=True)
        first, second = numbers.reshape(2, -1).astype(np.int64)
        return replace(
            self,
            photos=tuple(self.photos[k] for k in used),
            pictures=tuple(self.pictures[k] for k in used),
            first=first,
            second=second,
            same=self.same[kept],
            fold=self.fold[kept],
            people=None if self.people is None else tuple(self.people[k] for k in used),
        )


def consecutive_folds(pairs: int, folds: int = 10) -> NDArray[np.int64]:
    """Folds 1 … `folds` of consecutive pairs, equal in size but for one pair; the first ones are the larger.

    >>> consecutive_folds(7, 3).tolist()
    [1, 1, 1, 2, 2, 3, 3]
    """
    parts = np.array_split(np.arange(pairs), min(folds, pairs) or 1)
    return np.repeat(np.arange(1, len(parts) + 1), [part.size for part in parts]).astype(np.int64)


def folds_of_each_kind(same: NDArray[np.bool_], folds: int = 10) -> NDArray[np.int64]:
    """Folds 1 … `folds` with an equal share of the genuine and of the impostor pairs, each in the order of the list.

    >>> folds_of_each_kind(np.array([True, True, True, True, False, False]), 2).tolist()
    [1, 1, 2, 2, 1, 2]
    """
    fold = np.zeros(same.size, dtype=np.int64)
    for kind in (same, ~same):
        fold[kind] = consecutive_folds(int(np.count_nonzero(kind)), folds)
    return fold


def _linked(count: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> list[str]:
    links = coo_array((np.ones(first.size), (first, second)), shape=(count, count))
    return [f"group {label}" for label in connected_components(links, directed=False)[1]]
