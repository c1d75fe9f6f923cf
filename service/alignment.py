"""Comparing an index outside of this process with the store, and putting right where they differ."""

import logging
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from facemargin.errors import DuplicateIdError, UnknownIdError
from facemargin.index import Index
from facemargin.index.half import halved
from service.entries import Block, Entries
from service.store import CollectionRow

log = logging.getLogger("facemargin.service")

PORTION = 512
"""Entries put right at a time, so that nobody waits for long."""


class Apart(NamedTuple):
    """Ids by which an index differs from the store.

    Attributes:
        missing: of the store, not in the index.
        extra: in the index, not of the store.
        wrong: in both, with different vectors.
    """

    missing: NDArray[np.int64]
    extra: NDArray[np.int64]
    wrong: NDArray[np.int64]

    @property
    def ids(self) -> NDArray[np.int64]:
        """All of them, ascending."""
        return np.sort(np.concatenate(self))

    def portions(self) -> Iterator[NDArray[np.int64]]:
        """All of them, some at a time."""
        ids = self.ids
        return (ids[start : start + PORTION] for start in range(0, len(ids), PORTION))


def apart(session: Session, entries: Entries, row: CollectionRow, index: Index, *, vectors: bool) -> Apart:
    """Where an index differs from what the session sees.

    Args:
        session: of the store.
        entries: reads it.
        row: the collection.
        index: its index, which must not change meanwhile but with the session.
        vectors: whether to compare vectors too, as float16, which needs all of them.
    """
    wanted, held = np.sort(entries.ids(session, row)), index.ids()
    missing = np.setdiff1d(wanted, held, assume_unique=True)
    extra = np.setdiff1d(held, wanted, assume_unique=True)
    both = np.intersect1d(wanted, held, assume_unique=True)
    wrong = [_differing(block, index) for block in entries.some(session, row, both)] if vectors else []
    return Apart(missing, extra, np.concatenate([np.empty(0, np.int64), *wrong]))


def _differing(block: Block, index: Index) -> NDArray[np.int64]:
    same: NDArray[np.bool_] = (halved(block.vectors) == halved(index.vectors(block.ids))).all(axis=1)
    return np.asarray(block.ids[~same], dtype=np.int64)


def align(session: Session, entries: Entries, row: CollectionRow, index: Index, ids: NDArray[np.int64]) -> None:
    """Have an index hold of some ids what the session sees of them; to do it twice does no harm."""
    known = ids[np.isin(ids, index.ids())]
    replace(index, known, entries.some(session, row, ids))


def replace(index: Index, remove: NDArray[np.int64], add: Iterable[Block]) -> None:
    """Remove entries and add others, also where the index was apart from what is expected: the end is the same."""
    if len(remove):
        try:
            index.remove(remove)
        except UnknownIdError:
            log.info("an index lacked an entry that was to be removed")
            _remove_held(index, remove)
    for block in add:
        try:
            index.add(block.ids, block.vectors)
        except DuplicateIdError:
            log.info("an index held an entry that was to be added")
            _remove_held(index, block.ids)
            index.add(block.ids, block.vectors)


def _remove_held(index: Index, ids: NDArray[np.int64]) -> None:
    held = ids[np.isin(ids, index.ids())]
    if len(held):
        index.remove(held)
