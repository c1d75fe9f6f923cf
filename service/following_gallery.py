"""Galleries in an engine elsewhere: an index follows the log of the store, which each write extends when it commits.

Whoever comes first takes lines over, one at a time among all services, and right after each commit: before a write is
answered its entries can be found, through whichever service. A service that dies in between leaves lines for the next.
Lines say which entries were touched; what is put in is what the store holds of them then, so that taking a line over
twice, or late, leads to the same.

An engine that does not answer is asked again by the housekeeping only. Until it has answered and is up to date,
searches and writes are refused at once, with its reason: a search might miss what is written, and each would wait for
seconds.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from facemargin.errors import ConfigError, IndexUnavailableError
from facemargin.index import DurableIndex, SearchEngine
from service.alignment import replace
from service.durable_gallery import MOST_MENDED, DurableGallery
from service.entries import Templates, Vector
from service.gallery import Change, Hit
from service.store import CollectionRow, Store
from service.store.change_log import LoggedChange, changes_after, last_change, log_changes
from service.store.followed import Position, Turn
from service.store.people import collections

log = logging.getLogger("facemargin.service")

_HEARD_S: Final = 1.0
"""How long ago the engine may have answered when a write begins."""
_SIZE_S: Final = 1.0


class FollowingGallery(DurableGallery):
    """The indexes of all collections in an engine elsewhere; see `service.gallery.Gallery`.

    Args:
        store: the truth.
        engine: where the indexes are.
        url: of the engine, as messages show it.
        templates: how a person with several faces is compared.
    """

    def __init__(self, store: Store, engine: SearchEngine, *, url: str, templates: Templates) -> None:
        super().__init__(store, engine, url=url, templates=templates)
        self._position = Position(store)
        self._outage: str | None = None
        self._loaded = False
        self._heard_at = 0.0
        self._sizes: dict[int, tuple[int, float]] = {}

    def load(self, store: Store) -> None:
        """Compare every index with the store; one that does not answer is awaited while the service runs."""
        try:
            with self._answered():
                super().load(store)
            self._loaded, self._outage = True, None
        except IndexUnavailableError as error:
            log.error("the search index does not answer and is asked again every few seconds: %s", error)

    def demand(self) -> None:
        """Pass if the engine answers; it is asked where it has not been heard for a while."""
        self._demand_heard()
        if time.monotonic() - self._heard_at > _HEARD_S:
            with self._answered():
                self._engine.check()

    def size(self, gallery: CollectionRow) -> int:
        """Number of vectors that a search compares with, of at most a second ago."""
        self._demand_heard()
        size, until = self._sizes.get(gallery.id, (0, 0.0))
        if time.monotonic() >= until:
            with self._answered():
                size = super().size(gallery)
            self._sizes[gallery.id] = size, time.monotonic() + _SIZE_S
        return size

    def search(
        self,
        gallery: CollectionRow,
        query: Vector,
        *,
        threshold: float,
        limit: int,
        other_than: int | None = None,
    ) -> list[Hit]:
        """The nearest people; see `Gallery.search`."""
        self._demand_heard()
        with self._answered():
            return super().search(gallery, query, threshold=threshold, limit=limit, other_than=other_than)

    def prepare(self, session: Session, changes: Sequence[Change]) -> None:
        """Log what a write means, in its transaction."""
        log_changes(session, [_logged(change) for change in changes if _touches(change)])
        self._count_dropped(session, changes)

    def follow(self, store: Store, changes: Sequence[Change]) -> None:
        """Take over what was committed; where that fails, searches are refused until it is done."""
        for change in changes:
            self._sizes.pop(change.collection, None)
        super().follow(store, changes)

    def catch_up(self, store: Store) -> None:
        """Take over every line that is committed by now; see `Gallery.catch_up`."""
        self._demand_heard()
        if self._is_behind(store):
            with self._answered():
                self._take_over(store)

    def repair(self, store: Store) -> None:
        """Ask the engine again where it was silent, and have the index up to date; see `Gallery.repair`."""
        if not self._loaded:
            self.load(store)
            return
        with self._answered():
            if self._outage is not None:
                self._engine.check()
            if self._outage is not None or self._is_behind(store):
                self._take_over(store)
            super().repair(store)
        self._outage = None
        self._position.keep()

    def tidy(self) -> None:
        """Tidy indexes that something was removed from; see `Gallery.tidy`."""
        if self._outage is None:
            with self._answered():
                super().tidy()

    def trouble(self) -> str | None:
        """Why the indexes are not in order."""
        return self._outage or super().trouble()

    def close(self) -> None:
        """Note how far the index is, and let go of the engine."""
        try:
            if self._loaded:
                self._position.keep()
        finally:
            super().close()

    def _demand_heard(self) -> None:
        if self._outage is not None:
            raise IndexUnavailableError(f"{self._outage}; it is asked again every few seconds")

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Remember when the engine answered, or why it, or what stands between it and the store, did not."""
        try:
            yield
        except (IndexUnavailableError, ConfigError) as error:
            self._outage = str(error)
            raise
        self._heard_at = time.monotonic()

    def _fell_behind(self, error: Exception) -> None:
        self._outage = self._outage or "the search index is behind the store, and the log says why"

    def _is_behind(self, store: Store) -> bool:
        with store.read() as session:
            return self._position.now(session) != last_change(session)

    def _take_over(self, store: Store) -> None:
        with self._position.turn() as turn, store.read() as session:
            if not self._applied(session, turn):
                self._align(session, vectors=True, most=MOST_MENDED)
            turn.position = last_change(session)
        if self._unswept:
            self._sweep(store)

    def _applied(self, session: Session, turn: Turn) -> bool:
        """Take over the lines after a position; False where some of them are gone."""
        while (lines := self._lines(session, turn)) is not None:
            if not lines:
                return True
            for number in dict.fromkeys(line.collection for line in lines):
                self._apply(session, number, [line for line in lines if line.collection == number])
            turn.position = lines[-1].seq
        return False

    def _lines(self, session: Session, turn: Turn) -> list[LoggedChange] | None:
        return None if turn.position is None else changes_after(session, turn.position)

    def _apply(self, session: Session, number: int, lines: Sequence[LoggedChange]) -> None:
        if any(line.rebuild for line in lines):
            self._unswept = True
        self._sizes.pop(number, None)
        if (row := session.get(CollectionRow, number)) is None:
            return
        removed, added = (_ids(getattr(line, kind) for line in lines) for kind in ("removed", "added"))
        if not len(removed) + len(added):
            return
        index = self._index(name := self._names.of_row(row), row.dim)
        blocks = list(self._entries.some(session, row, np.union1d(removed, added)))
        if len(removed) and blocks:
            with self._replacing.write():
                replace(index, removed, blocks)
        else:
            replace(index, removed, blocks)
        if len(removed):
            self._untidy.add(name)

    def _aligned(self, store: Store, *, vectors: bool, most: int) -> None:
        if not vectors and self._is_alike(store):
            return
        with self._position.turn(loading=True) as turn, store.read() as session:
            caught_up = not vectors and self._applied(session, turn)
            self._align(session, vectors=not caught_up, most=most)
            turn.position = last_change(session)

    def _is_alike(self, store: Store) -> bool:
        """Whether ids are those of the store, found out beside the writes of other services.

        Ids that others write between two looks differ once. Those that differ twice are put right in one's turn.
        """
        doubtful: set[tuple[int, int]] | None = None
        for _ in range(2):
            with self._position.turn(loading=True) as turn, store.read() as session:
                if not self._applied(session, turn):
                    return False
            with store.read() as session:
                opened = [(row, self._index(self._names.of_row(row), row.dim)) for row in collections(session)]
                found = {
                    (row.id, number)
                    for row, index in opened
                    for number in self._apart(session, row, index, vectors=False).ids.tolist()
                }
            doubtful = found if doubtful is None else doubtful & found
            if not doubtful:
                return True
        return False

    def _align(self, session: Session, *, vectors: bool, most: int) -> None:
        """Compare all indexes with what a session sees, and put right what little is wrong."""
        opened = [(row, self._index(self._names.of_row(row), row.dim)) for row in collections(session)]
        found = [(row, index, self._apart(session, row, index, vectors=vectors)) for row, index in opened]
        self._demand_small([one for _, _, one in found], most)
        for row, index, one in found:
            replace(index, np.union1d(one.extra, one.wrong), self._entries.some(session, row, one.ids))

    def _unwritten(self, store: Store) -> AbstractContextManager[Session]:
        return self._alone_with(store)

    @contextmanager
    def _alone_with(self, store: Store) -> Iterator[Session]:
        with self._position.turn(), store.read() as session:  # indexes are made in such turns only, and for drafts
            yield session

    def _within(self, index: DurableIndex, session: Session) -> DurableIndex:
        return index


def _logged(change: Change) -> LoggedChange:
    rebuild = change.is_rebuild or change.drops_others
    return LoggedChange(change.collection, change.remove, [entry.id for entry in change.add], rebuild)


def _touches(change: Change) -> bool:
    return bool(change.remove or change.add or change.is_rebuild or change.drops_others)


def _ids(lists: Iterator[Sequence[int]]) -> NDArray[np.int64]:
    return np.unique(np.array([number for some in lists for number in some], dtype=np.int64))
