"""Filling a search engine from the store, while a service may go on with another one.

An index is filled with what it lacks, entry by entry, so that a run which was killed is simply given again. What the
service wrote meanwhile is then taken over and everything compared, as of one state of the store: counts and checksums
of each collection. What is written after that, the service finds when it starts on the engine.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from sqlalchemy.orm import Session

from facemargin.errors import DataError
from facemargin.index import DurableIndex, Index, SearchEngine, checksum
from facemargin.index.export import Portion
from service.alignment import Apart, apart, replace
from service.entries import Entries, Templates
from service.index_names import IndexNames
from service.store import CollectionRow, Store
from service.store.people import collections

_AT_A_TIME: Final = 2048
_NOTHING: Final = np.empty(0, dtype=np.int64)

Progress = Callable[[int, int], None]
"""Told how many entries of all are there."""


@dataclass
class Moved:
    """What was done.

    Attributes:
        collections: compared, and alike.
        entries: in all of them.
        added: entries that the engine lacked.
        removed: entries that are not in the store.
        replaced: entries that had another vector.
    """

    collections: int = 0
    entries: int = 0
    added: int = 0
    removed: int = 0
    replaced: int = 0

    def count(self, found: Apart) -> None:
        """Add what was put right."""
        self.added += len(found.missing)
        self.removed += len(found.extra)
        self.replaced += len(found.wrong)


class Move:
    """Fills an engine.

    Args:
        store: the truth, unlocked.
        engine: to fill; nobody else may change it meanwhile.
        templates: kind of the entries, as the service has it.
        progress: told now and then.
    """

    def __init__(self, store: Store, engine: SearchEngine, *, templates: Templates, progress: Progress) -> None:
        self._store, self._engine, self._progress = store, engine, progress
        self._entries = Entries(templates)
        self._names = IndexNames(store.vault, templates)
        self._done = self._total = 0
        self.moved = Moved()

    def run(self) -> Moved:
        """Fill, take over what was written meanwhile, and compare.

        Raises:
            DataError: the engine does not hold what was put in.
            IndexUnavailableError, ConfigError: it does not answer, or lacks something. What is in it, stays.
        """
        self._engine.check()
        rows = self._collections()
        with self._store.read() as session:
            self._total = sum(len(self._entries.ids(session, row)) for row in rows)
        for row in rows:
            self._fill(row)
        for row in self._collections():
            self._settle(row)
        return self.moved

    def drop(self) -> int:
        """Drop every index of this store from the engine; how many there were."""
        names = [name for name in self._engine.names() if self._names.owns(name)]
        for name in names:
            self._engine.drop(name)
        return len(names)

    def _collections(self) -> list[CollectionRow]:
        with self._store.read() as session:
            return list(collections(session))

    def _index(self, row: CollectionRow) -> DurableIndex:
        return cast(DurableIndex, self._engine.index(self._names.of_row(row), row.dim))

    def _fill(self, row: CollectionRow) -> None:
        """Add what is missing, in portions with a short look at the store each: a long one would hold up erasures."""
        index = self._index(row)
        with self._store.read() as session:
            wanted = np.sort(self._entries.ids(session, row))
        missing = np.setdiff1d(wanted, index.ids(), assume_unique=True)
        self._tell(len(wanted) - len(missing))
        with index.loading():
            for start in range(0, len(missing), _AT_A_TIME):
                ids = missing[start : start + _AT_A_TIME]
                with self._store.read() as session:
                    blocks = list(self._entries.some(session, row, ids))
                replace(index, _NOTHING, blocks)
                self.moved.added += sum(len(block.ids) for block in blocks)
                self._tell(len(ids))

    def _settle(self, row: CollectionRow) -> None:
        with self._store.read() as session:
            now = session.get(CollectionRow, row.id)
            if now is None:
                return
            index = self._index(now)
            self._put_right(session, now, index, vectors=False)
            if not self._alike(session, now, index):
                self._put_right(session, now, index, vectors=True)
            if not self._alike(session, now, index):
                raise DataError(
                    f"the index of collection '{now.name}' does not hold what was put into it; its engine keeps "
                    "something else, or somebody else changes it"
                )
            self.moved.collections += 1
            self.moved.entries += len(index)

    def _put_right(self, session: Session, row: CollectionRow, index: DurableIndex, *, vectors: bool) -> None:
        found = apart(session, self._entries, row, index, vectors=vectors)
        replace(index, np.union1d(found.extra, found.wrong), self._entries.some(session, row, found.ids))
        self.moved.count(found)

    def _alike(self, session: Session, row: CollectionRow, index: DurableIndex) -> bool:
        stored = cast(Index, _Stored(session, self._entries, row))  # what a checksum asks of an index, it has
        expected = checksum(stored)
        return expected == checksum(index) and expected.count == len(index)

    def _tell(self, more: int) -> None:
        self._done += more
        self._progress(self._done, self._total)


class _Stored:
    """The entries of a collection in the store, as a checksum reads them."""

    def __init__(self, session: Session, entries: Entries, row: CollectionRow) -> None:
        self.dim = row.dim
        self._session, self._entries, self._row = session, entries, row

    def export(self) -> Iterator[Portion]:
        """Everything, in portions."""
        for block in self._entries.everything(self._session, self._row):
            yield block.ids, block.vectors
