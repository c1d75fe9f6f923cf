"""The index of one collection in memory, and how it is filled: from a snapshot, or from the store."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from facemargin.errors import FacemarginError
from facemargin.index import Index, ReadersWriterLock, make_index
from service.entries import Block, Entries, Entry, Templates
from service.snapshots import Label, SnapshotError, Snapshots
from service.store import CollectionRow
from service.store.upgrades import Owners

log = logging.getLogger("facemargin.service")

_AT_A_TIME = 4096
_MOST_MISSING = 0.5
"""Share of a collection that may be missing from its snapshot; beyond, reading everything in order is faster."""


@dataclass(eq=False)
class Shelf:
    """The index of one collection, for one who changes it and any number who search it at the same time.

    An entry that the index gives and `people` does not know is on its way in or out, and counts as not there.

    Attributes:
        model: id of the model whose vectors it holds.
        index: of the vectors.
        people: whose each entry is.
        sequence: the collection's, when it last took something over.
        saved: number of entries in the snapshot on the disk; None where there is none that is of use.
        replacing: held alone while entries take the place of others, so that no search misses both.
    """

    model: str
    index: Index
    people: dict[int, int]
    sequence: int = 0
    saved: int | None = None
    replacing: ReadersWriterLock = field(default_factory=ReadersWriterLock)
    _listing: threading.Lock = field(default_factory=threading.Lock)

    def put(self, entries: Sequence[Entry]) -> None:
        """Add entries."""
        if entries:
            self.put_block(Block.of(entries))

    def put_block(self, block: Block) -> None:
        """Add many entries."""
        self.index.add(block.ids, block.vectors)
        with self._listing:
            self.people.update(zip(block.ids.tolist(), block.people.tolist(), strict=True))

    def take(self, ids: Sequence[int]) -> None:
        """Remove entries."""
        if ids:
            self.index.remove(np.array(ids, dtype=np.int64))
            with self._listing:
                for number in ids:
                    del self.people[number]

    def wipe(self) -> None:
        """Remove everything, so that it is zeros before its memory is given back; nobody may change it any more."""
        ids = list(reversed(self.people))  # the last one of a dense index moves no other
        for start in range(0, len(ids), _AT_A_TIME):
            self.take(ids[start : start + _AT_A_TIME])

    def listed(self) -> Block:
        """Ids and people of the entries, without vectors."""
        with self._listing:
            count = len(self.people)
            ids, people = (np.fromiter(some, np.int64, count) for some in (self.people.keys(), self.people.values()))
        return Block(ids, people, np.empty((0, 0), dtype=np.float32))

    def blocks(self, listed: Block, rows: int) -> Iterator[Block]:
        """Listed entries with their vectors, while others change the shelf.

        Raises:
            UnknownIdError: one has gone since it was listed.
        """
        for start in range(0, len(listed.ids), rows):
            some = slice(start, start + rows)
            yield Block(listed.ids[some], listed.people[some], self.index.vectors(listed.ids[some]))


class ShelfMaker:
    """Makes shelves.

    Args:
        index: a name in `facemargin.index.INDEXES`.
        templates: what an entry is.
        snapshots: where snapshots are; None where none are used.
    """

    def __init__(self, *, index: str, templates: Templates, snapshots: Snapshots | None) -> None:
        self._kind = index
        self._entries = Entries(templates)
        self._snapshots = snapshots

    def empty(self, model: str, dim: int) -> Shelf:
        """A shelf for vectors of a model."""
        return Shelf(model, make_index(self._kind, dim), {})

    def loaded(self, session: Session, row: CollectionRow) -> Shelf:
        """The shelf of a collection from its snapshot, as far as there is a good one, and the rest from the store."""
        if self._snapshots is not None:
            try:
                if (shelf := self._restored(session, row, self._snapshots)) is not None:
                    return shelf
            except FacemarginError as error:  # also what an index refuses
                log.warning("collection %d: its snapshot is thrown away: %s", row.id, error)
                self._snapshots.remove([row.id])
        return self.built(session, row)

    def built(self, session: Session, row: CollectionRow) -> Shelf:
        """The shelf of a collection from the store alone."""
        shelf = self.empty(row.model, row.dim)
        shelf.sequence = row.sequence
        for block in self._entries.everything(session, row):
            shelf.put_block(block)
        return shelf

    def brought_up(self, session: Session, row: CollectionRow, shelf: Shelf, filled_from: Owners) -> Shelf:
        """A shelf that was built while others wrote, with what was written since."""
        since = self._entries.since(session, row, filled_from)
        shelf.take(since.gone.tolist())
        self._fill(session, row, shelf, since.new)
        shelf.sequence = row.sequence
        return shelf

    def label(self, row: CollectionRow) -> Label:
        """What a snapshot of a collection must be of."""
        return Label(row.id, row.model, self._entries.templates, row.dim, row.sequence, 0)

    def label_of(self, collection: int, shelf: Shelf, listed: Block) -> Label:
        """What a snapshot of listed entries of a shelf is of."""
        return Label(collection, shelf.model, self._entries.templates, shelf.index.dim, shelf.sequence, len(listed.ids))

    def _restored(self, session: Session, row: CollectionRow, snapshots: Snapshots) -> Shelf | None:
        found = snapshots.read(session, self.label(row))
        if found is None:
            return None
        label, blocks = found
        shelf = self.empty(row.model, row.dim)
        with closing(blocks):
            for block in blocks:
                shelf.put_block(block)
        self._reconcile(session, row, shelf, label)
        shelf.sequence, shelf.saved = row.sequence, label.count
        return shelf

    def _reconcile(self, session: Session, row: CollectionRow, shelf: Shelf, label: Label) -> None:
        """Add what came after the snapshot.

        Its key is destroyed by whatever takes an entry away or changes one, and row numbers are never given again; so
        entries can be missing but never wrong. One too many means that somebody went past the service.

        Raises:
            SnapshotError: it holds what the store does not, or lacks too much.
        """
        wanted = self._entries.ids(session, row)
        held = np.fromiter(shelf.people, np.int64, len(shelf.people))
        missing = np.setdiff1d(wanted, held, assume_unique=True)
        if len(held) + len(missing) != len(wanted):
            raise SnapshotError("it holds entries that are not in the store")
        if label.sequence > row.sequence:
            raise SnapshotError(f"it is of sequence {label.sequence}, the store of {row.sequence}")
        if len(missing) > _MOST_MISSING * len(wanted):
            raise SnapshotError(f"it lacks {len(missing)} of {len(wanted)} entries")
        if len(missing):
            log.info("collection %d: %d entries are younger than its snapshot", row.id, len(missing))
        self._fill(session, row, shelf, missing)

    def _fill(self, session: Session, row: CollectionRow, shelf: Shelf, ids: NDArray[np.int64]) -> None:
        for block in self._entries.some(session, row, ids):
            shelf.put_block(block)
