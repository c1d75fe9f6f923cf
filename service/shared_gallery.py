"""The galleries in memory of one service of several: they follow what all of them commit, this one included.

Every write logs which entries it touched, in its transaction (`service.store.change_log`). Following reads the log on
from where it was, and what the store holds of those entries in the same state; so it does not matter who wrote, in
which order lines are taken over, or how often. What cannot be listed (a collection that is another model's now) and
what was missed (lines that are gone) is built anew beside everything else; until then that collection is not searched.

A search first makes sure that the log was read less than 0.8 s ago, so whoever is deleted is found by no search that
begins a second later, through whichever service; where the log cannot be read, there is no answer.
"""

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Final

import numpy as np
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from facemargin.errors import IndexUnavailableError, ModelMismatchError
from service.entries import Block, Templates, Vector
from service.gallery import Change, Drafted, Hit
from service.memory_gallery import LONGEST_SWAP_S, MemoryGallery, wipe
from service.shelf import Shelf
from service.store import CollectionRow, Store
from service.store.aside import glance
from service.store.change_log import (
    MOST_AT_A_TIME,
    LoggedChange,
    changes_after,
    last_change,
    log_changes,
    written_at,
)
from service.store.clock import elapsed

log = logging.getLogger("facemargin.service")

FRESH_S: Final = 0.8
"""How long ago the log may have been read when a search begins."""
_REST_S: Final = 1.0
_LONGEST_END_S: Final = 5.0
_PATIENCE_S: Final = 0.5
"""How long one waits for another who is reading the log; one who takes longer waits for a database that hangs."""


class SharedGallery(MemoryGallery):
    """The indexes of all collections, in this process, on a store that others write to; see `service.gallery.Gallery`.

    Args:
        index: a name in `facemargin.index.INDEXES`.
        templates: how a person with several faces is compared.
        clock: seconds that only grow.
    """

    def __init__(self, *, index: str, templates: Templates, clock: Callable[[], float] = elapsed) -> None:
        super().__init__(index=index, templates=templates)
        self._clock = clock
        self._store: Store
        self._looking = threading.Lock()  # held by whoever takes lines over: one at a time, so never backwards
        self._position = 0
        self._written_at: datetime | None = None
        self._looked_at = self._owed_at = -math.inf
        self._missed_at: dict[int, float] = {}
        self._handed: dict[int, Shelf] = {}
        self._logged = False  # whether the write at hand has lines
        self._builder: threading.Thread | None = None
        self._ended = threading.Event()

    def load(self, store: Store) -> None:
        """Load every index, and note how far the log is in the state that they are of."""
        moment, self._store = self._clock(), store
        with self._looking, store.read() as session:
            self._come_to(session)
            self._load(session)
            self._looked_at = moment

    def size(self, gallery: CollectionRow) -> int:
        """Number of vectors that a search compares with.

        Raises:
            IndexUnavailableError, SQLAlchemyError: what others wrote is not known.
        """
        self._be_fresh(gallery)
        return super().size(gallery)

    def search(
        self,
        gallery: CollectionRow,
        query: Vector,
        *,
        threshold: float,
        limit: int,
        other_than: int | None = None,
    ) -> list[Hit]:
        """The nearest people; see `Gallery.search`.

        Raises:
            IndexUnavailableError, SQLAlchemyError: what others wrote is not known.
        """
        self._be_fresh(gallery)
        try:
            return super().search(gallery, query, threshold=threshold, limit=limit, other_than=other_than)
        except ModelMismatchError as error:
            if gallery.id in self.stale:
                raise _being_built(gallery) from error
            raise

    def prepare(self, session: Session, changes: Sequence[Change]) -> None:
        """Log what a write means, in its transaction."""
        told = [change for change in changes if _touches(change)]
        lines = [LoggedChange(c.collection, c.remove, [entry.id for entry in c.add], c.is_rebuild) for c in told]
        numbers = log_changes(session, lines)
        self._handed = {n: c.shelf for n, c in zip(numbers, told, strict=True) if c.shelf is not None}
        self._logged = bool(numbers)

    def follow(self, store: Store, changes: Sequence[Change]) -> None:
        """Take over what was committed; where that fails, no search is answered before it was done."""
        if not self._logged:
            return
        moment = self._clock()
        try:
            self._look(store, since=moment, expecting=True)
        except Exception as error:  # the write is on the disk and must be answered
            self._owed_at = moment
            log.error("a write was not followed yet, and is before the next search: %r", error)

    def catch_up(self, store: Store) -> None:
        """Take over everything that is committed by now.

        Raises:
            IndexUnavailableError, SQLAlchemyError: the store does not answer.
        """
        self._look(store, since=self._clock())

    def repair(self, store: Store) -> None:
        """See that what is apart from the store is being built anew; this does not wait for it."""
        with self._swapped:
            if not self.stale or self._ended.is_set() or (self._builder is not None and self._builder.is_alive()):
                return
            self._builder = threading.Thread(target=self._rebuild_all, args=(store,), name="index builder", daemon=True)
            self._builder.start()

    def discard(self, drafted: Drafted) -> None:
        """Zero a draft that nobody searches."""
        with self._looking:
            self._handed = {n: shelf for n, shelf in self._handed.items() if shelf is not drafted.shelf}
            super().discard(drafted)

    def close(self) -> None:
        """End what is being built."""
        self._ended.set()
        if self._builder is not None:
            self._builder.join(_LONGEST_END_S)

    def _shelf_for(self, session: Session, gallery: CollectionRow, drafted: Drafted | None) -> Shelf:
        self.catch_up(self._store)  # another service may have dropped vectors since the draft was begun
        return super()._shelf_for(session, gallery, drafted)

    def _be_fresh(self, gallery: CollectionRow) -> None:
        self._look_if_old()
        with self._swapped:
            unknown = gallery.id not in self._shelves and gallery.sequence > 0
            moved = self._is_behind(gallery)
        if unknown or moved:  # another service has filled it, or bound it to another model, a moment ago
            self.catch_up(self._store)
        if gallery.id not in self.stale:
            return
        with self._swapped:  # for one that takes longer, the threads of all searches would be waiting
            left = LONGEST_SWAP_S - (self._clock() - self._missed_at.get(gallery.id, -math.inf))
            if not self._swapped.wait_for(lambda: gallery.id not in self.stale, max(0.0, left)):
                raise _being_built(gallery)
        self._look_if_old()

    def _look_if_old(self) -> None:
        since = max(self._clock() - FRESH_S, self._owed_at)
        if self._looked_at < since:
            self._look(self._store, since=since)

    def _look(self, store: Store, *, since: float, expecting: bool = False) -> None:
        """Read the log on, unless somebody has begun to since a moment, and is through.

        Args:
            store: to read.
            since: the moment.
            expecting: whether there surely is a line, so that it need not be asked first.
        """
        if not self._looking.acquire(timeout=_PATIENCE_S):
            raise IndexUnavailableError(
                "the index may be behind the store, which does not answer in time; try again later"
            )
        try:
            if self._looked_at <= since:
                moment = self._clock()
                if expecting or self._is_told_more(store):
                    with store.read() as session:
                        self._take_over(session)
                self._looked_at = moment
        finally:
            self._looking.release()
        self.repair(store)

    def _is_told_more(self, store: Store) -> bool:
        """Whether the log has other lines than those that were taken over."""
        with glance(store) as session:
            return changes_after(session, self._position, at=self._written_at, limit=1) != []

    def _take_over(self, session: Session) -> None:
        """Have the indexes as the state of the session is."""
        more = True
        while more:
            lines = changes_after(session, self._position, at=self._written_at, limit=MOST_AT_A_TIME)
            if lines is None:
                log.warning("the log of changes does not reach back to what was seen here; every index is built")
                self._come_to(session)
                self._miss({*session.scalars(select(CollectionRow.id)), *self._shelves})
                return
            by_collection = sorted(lines, key=attrgetter("collection"))
            for number, some in groupby(by_collection, key=attrgetter("collection")):
                self._follow_lines(session, number, list(some))
            if lines:
                self._position, self._written_at = lines[-1].seq, lines[-1].at
            more = len(lines) == MOST_AT_A_TIME

    def _come_to(self, session: Session) -> None:
        """Count every line that there is as taken over."""
        self._position = last_change(session)
        self._written_at = written_at(session, self._position)

    def _follow_lines(self, session: Session, number: int, lines: Sequence[LoggedChange]) -> None:
        self._dropped[number] += sum(line.rebuild or not (line.removed or line.added) for line in lines)
        row = session.get(CollectionRow, number)
        if row is None:
            self._place(number, None)
        elif number not in self.stale:
            try:
                if not self._followed(session, row, lines):
                    self._miss({number})
            except SQLAlchemyError:  # the same lines come again
                raise
            except Exception:  # whatever it was: the store is right and the index is not
                log.exception("an index did not take a write; it is built anew")
                self._miss({number})

    def _followed(self, session: Session, row: CollectionRow, lines: Sequence[LoggedChange]) -> bool:
        """Take lines over, if they say enough."""
        rebuilds = [line for line in lines if line.rebuild]
        if rebuilds:
            if (shelf := self._handed.get(rebuilds[-1].seq)) is None:
                return False
            self._place(row.id, shelf)
            lines = [line for line in lines if line.seq > rebuilds[-1].seq]
        elif (shelf := self._shelf(row.id)) is None:
            self._place(row.id, shelf := self._maker.empty(row.model, row.dim))
        if shelf.model != row.model:
            return False
        self._put_right(session, row, shelf, lines)
        return True

    def _place(self, number: int, shelf: Shelf | None) -> None:
        """Have a shelf searched, or none, in place of any other, also of one that is being built."""
        if shelf is None or self._shelf(number) is not shelf:
            self._swap(number, shelf)
        with self._swapped:
            self.stale.discard(number)
            self._missed_at.pop(number, None)
            self._swapped.notify_all()

    def _miss(self, numbers: set[int]) -> None:
        """Note that indexes must be built anew."""
        with self._swapped:
            self.stale.update(numbers)
            for number in numbers:
                self._dropped[number] += 1
                self._missed_at.setdefault(number, self._clock())

    def _rebuild_all(self, store: Store) -> None:
        failed: set[int] = set()
        while (stale := sorted(self.stale - failed)) and not self._ended.is_set():
            for number in stale:
                try:
                    self._rebuild(store, number)
                except Exception as error:  # the edge of the thread; whoever looks next has it tried again
                    log.error("index %d could not be built; the service is not ready: %r", number, error)
                    failed.add(number)  # the others are built
        if failed:
            self._ended.wait(_REST_S)

    def _rebuild(self, store: Store, number: int) -> None:
        """Build an index beside everything, and have it searched if it is still the one that is wanted."""
        with store.read() as session:
            position = last_change(session)
            row = session.get(CollectionRow, number)
            shelf = self._maker.built(session, row) if row is not None else None
        try:
            with self._looking, store.read() as session:
                self._take_over(session)
                row = session.get(CollectionRow, number)
                if row is None:
                    self._place(number, None)
                elif shelf is not None and self._brought_up(session, row, shelf, position):
                    self._place(number, shelf)
        finally:
            if shelf is not None and self._shelf(number) is not shelf:
                wipe(shelf)

    def _brought_up(self, session: Session, row: CollectionRow, shelf: Shelf, position: int) -> bool:
        """Take over what was written since an index was built, if it is still the one that is wanted."""
        if shelf.model != row.model:
            return False
        while lines := changes_after(session, position):
            position, mine = lines[-1].seq, [line for line in lines if line.collection == row.id]
            if any(line.rebuild for line in mine):
                return False
            if mine:
                self._put_right(session, row, shelf, mine)
        return lines is not None

    def _put_right(self, session: Session, row: CollectionRow, shelf: Shelf, lines: Sequence[LoggedChange]) -> None:
        """Have an index hold what is stored of the entries that lines name."""
        gone = {number for line in lines for number in line.removed}
        touched = sorted(gone.union(*(line.added for line in lines)))
        stored = list(self._entries.some(session, row, np.array(touched, dtype=np.int64)))
        _replace(shelf, touched, gone, stored)
        shelf.sequence = row.sequence


def _being_built(gallery: CollectionRow) -> IndexUnavailableError:
    return IndexUnavailableError(
        f"the index of collection '{gallery.name}' is being built anew in this service; try again later"
    )


def _touches(change: Change) -> bool:
    return bool(change.remove or change.add or change.is_rebuild or change.drops_others)


def _replace(shelf: Shelf, touched: Sequence[int], gone: set[int], stored: Sequence[Block]) -> None:
    """Have a shelf hold of some entries what is stored; those that it holds are replaced only where they may differ."""
    wanted = {number for block in stored for number in block.ids.tolist()}
    leaving = [number for number in touched if number in shelf.people and (number in gone or number not in wanted)]
    staying = {number for number in touched if number in shelf.people}.difference(leaving)
    with shelf.replacing.write() if leaving and wanted else contextlib.nullcontext():
        shelf.take(leaving)
        for block in stored:
            new = np.array([number not in staying for number in block.ids.tolist()])
            if new.any():
                shelf.put_block(Block(block.ids[new], block.people[new], block.vectors[new]))
