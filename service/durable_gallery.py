"""The galleries of an engine that outlives this process: what is alike wherever it is and whenever it follows.

The engine has one index for each collection and model. It holds ids and vectors only; whose an entry is, the store says
at each search, so somebody who is deleted is found by nobody from the commit on, wherever the index stands. A move to
another model fills the index of that model beside everything else; from the commit on the collection's row names it,
and the one before is dropped, like those of collections that are gone, before the write is answered.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final, cast

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from facemargin.errors import ConfigError, IndexDroppedError, IndexUnavailableError, ModelMismatchError
from facemargin.index import DurableIndex, ReadersWriterLock, SearchEngine
from service.alignment import Apart, apart, replace
from service.current import Stage
from service.entries import Entries, Entry, Templates, Vector
from service.errors import StoreError, UpgradeStateError
from service.gallery import Change, Drafted, Hit, nearest_people
from service.index_names import IndexNames
from service.store import CollectionRow, PersonRow, Store
from service.store.followed import count_dropped_vectors, dropped_vectors, note_in_clear, serve_index, served_index
from service.store.locks import locks_of
from service.store.people import collections
from service.store.upgrades import owners

log = logging.getLogger("facemargin.service")

MOST_MENDED: Final = 5000
"""Entries of all collections by which an engine may be apart from the store at start."""
_COUNTED_FOR_S: Final = 10.0
_TIDY_AGAIN_S: Final = 60.0
_IDLE_FACTOR: Final = 20.0
"""Times as long as tidying took until it is done again."""
_SWEEP_AGAIN_S: Final = 300.0
"""A service that is killed between a commit and what follows it leaves an index that others drop within this time."""


class DurableGallery:
    """The indexes of all collections in an engine; see `service.gallery.Gallery`. Not used itself.

    Args:
        store: the truth.
        engine: where the indexes are.
        url: of the engine, as messages show it.
        templates: how a person with several faces is compared.
    """

    def __init__(self, store: Store, engine: SearchEngine, *, url: str, templates: Templates) -> None:
        self.templates: Templates = templates
        self._store, self._engine, self._url = store, engine, url
        self._entries = Entries(templates)
        self._names = IndexNames(store.vault, templates)
        self._locks = locks_of(store)
        self._indexes: dict[str, DurableIndex] = {}
        self._replacing = ReadersWriterLock()  # so that no search misses an entry whose place another one takes
        self._dropped: set[int] = set()
        self._unswept = True
        self._swept_at = 0.0
        self._untidy: set[str] = set()
        self._tidy_at = 0.0
        self._total: int | None = None
        self._counted_until = 0.0

    # how the two kinds differ

    def demand(self) -> None:
        """Pass if writes can be taken; see `Gallery.demand`."""

    def prepare(self, session: Session, changes: Sequence[Change]) -> None:
        """Do what belongs into the transaction of a write."""
        raise NotImplementedError

    def catch_up(self, store: Store) -> None:
        """Take over what others committed."""
        raise NotImplementedError

    def _aligned(self, store: Store, *, vectors: bool, most: int) -> None:
        """Put right where indexes are apart from the store; with more than ``most`` entries, raise ConfigError."""
        raise NotImplementedError

    def _fell_behind(self, error: Exception) -> None:
        """A write was committed, and what belongs after it was not done."""

    def _unwritten(self, store: Store) -> AbstractContextManager[Session]:
        """A session of the store while nobody makes an index that the session knows nothing of."""
        raise NotImplementedError

    def _within(self, index: DurableIndex, session: Session) -> DurableIndex:
        """An index as a write changes it."""
        raise NotImplementedError

    # searching

    def size(self, gallery: CollectionRow) -> int:
        """Number of vectors that a search compares with; see `Gallery.size`."""
        try:
            index = self._bound(gallery)
            return 0 if index is None else len(index)
        except IndexDroppedError as error:
            raise self._lost(gallery) from error

    @property
    def total(self) -> int | None:
        """Number of vectors in all indexes, of some seconds ago; None where nobody answers."""
        if time.monotonic() >= self._counted_until:
            try:
                with self._store.read() as session:
                    rows = collections(session)
                self._total = sum(self.size(row) for row in rows)
            except (IndexUnavailableError, ModelMismatchError, StoreError, SQLAlchemyError):
                self._total = None
            self._counted_until = time.monotonic() + _COUNTED_FOR_S
        return self._total

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

        def whose(ids: Sequence[int]) -> dict[int, int]:
            with self._store.read() as session:
                return self._entries.owners(session, gallery, ids)

        with Stage("search"):
            try:
                if (index := self._bound(gallery)) is None:
                    return []
                with self._replacing.read():
                    hits = nearest_people(index, whose, query, threshold=threshold, limit=limit, other_than=other_than)
            except IndexDroppedError as error:
                raise self._lost(gallery) from error
        if not hits:  # also where the collection has moved: then nothing of it is by this model
            self._is_there(gallery)
        return hits

    def entries(self, session: Session, gallery: CollectionRow, person: PersonRow) -> list[Entry]:
        """What the index of a collection holds, or shall hold, of a person."""
        return self._entries.of_person(session, gallery, person)

    def _index(self, name: str, dim: int) -> DurableIndex:
        if name not in self._indexes:
            self._indexes[name] = cast(DurableIndex, self._engine.index(name, dim))
            self._untidy.add(name)  # a service before this one may have been killed after a deletion
        return self._indexes[name]

    def _bound(self, gallery: CollectionRow) -> DurableIndex | None:
        """The index of a collection; None where the collection is gone, lest its index comes back."""
        name = self._names.of_row(gallery)
        if name not in self._indexes and not self._is_there(gallery):
            return None
        return self._index(name, gallery.dim)

    def _is_there(self, gallery: CollectionRow) -> bool:
        """Whether a collection is still there, which must be bound to the model of the row then."""
        with self._store.read() as session:
            row = session.get(CollectionRow, gallery.id)
        if row is not None and row.model != gallery.model:
            raise ModelMismatchError(
                f"collection '{gallery.name}' is searched by model {row.model}, and the vector to look for is by "
                f"{gallery.model}; send the request again"
            )
        return row is not None

    def _lost(self, gallery: CollectionRow) -> IndexUnavailableError:
        """Why an index that was opened is not there any more, where the collection is."""
        self._indexes.pop(self._names.of_row(gallery), None)
        if self._is_there(gallery):
            self._dropped.add(gallery.id)
        return IndexUnavailableError(f"the index of collection '{gallery.name}' is gone; it is being made anew")

    # following

    def load(self, store: Store) -> None:
        """Compare every index with the store, and mend what little is missing; see `Gallery.load`."""
        self._engine.check()
        with store.read() as session:
            known = served_index(session) == self._engine.place
        if self._engine.plaintext:
            note_in_clear(store, self._engine.place, there=True)
        self._aligned(store, vectors=not known, most=MOST_MENDED)
        serve_index(store, self._engine.place)
        self._sweep(store)

    def follow(self, store: Store, changes: Sequence[Change]) -> None:
        """Do what belongs after the commit; see `Gallery.follow`."""
        if any(change.is_rebuild or change.drops_others for change in changes):
            self._unswept = True
        try:
            self.catch_up(store)
            if self._unswept:
                self._sweep(store)
        except Exception as error:  # whatever it was: the write is on the disk and must be answered
            log.error("an index does not follow a write yet, and is brought up to date later: %r", error)
            self._fell_behind(error)

    def repair(self, store: Store) -> None:
        """Make lost indexes anew, and drop those of nobody; see `Gallery.repair`."""
        if self._dropped:
            self._aligned(store, vectors=False, most=MOST_MENDED)
            self._dropped.clear()
        if self._unswept or time.monotonic() - self._swept_at > _SWEEP_AGAIN_S:
            self._sweep(store)

    def tidy(self) -> None:
        """Tidy indexes that something was removed from, and at first all; at most a twentieth of the time."""
        if time.monotonic() < self._tidy_at:
            return
        began = time.monotonic()
        for name in sorted(self._untidy & self._indexes.keys()):
            self._untidy.discard(name)  # first: what is removed meanwhile has it done again
            with suppress(IndexDroppedError, KeyError):
                self._indexes[name].tidy()
        self._tidy_at = time.monotonic() + max(_TIDY_AGAIN_S, _IDLE_FACTOR * (time.monotonic() - began))

    def trouble(self) -> str | None:
        """Why the indexes are not in order."""
        return "the index of a collection is gone; it is being made anew" if self._dropped else None

    def _sweep(self, store: Store) -> None:
        """Drop every index of this store that no collection is searched by, but for those being filled."""
        held = {name for name in self._engine.names() if self._names.owns(name)}
        with self._unwritten(store) as session:
            used = {self._names.of_row(row) for row in collections(session)}
            for name in held - used:
                with self._alone(name) as free:
                    if free:
                        self._drop(name)
        self._unswept, self._swept_at = False, time.monotonic()

    def _drop(self, name: str) -> None:
        self._indexes.pop(name, None)
        self._engine.drop(name)

    @contextmanager
    def _alone(self, name: str) -> Iterator[bool]:
        free = self._locks.acquire(name)
        try:
            yield free
        finally:
            if free:
                self._locks.release(name)

    # moving to another model

    def draft(self, store: Store, wanted: Callable[[Session], CollectionRow | None]) -> Drafted | None:
        """Fill the index of another model beside everything; see `Gallery.draft`."""
        with store.read() as session:
            row = wanted(session)
        if row is None:
            return None
        name = self._names.of_row(row)
        if not self._locks.acquire(name):
            raise UpgradeStateError(f"collection '{row.name}' is being moved by another request; wait for it")
        try:
            drafted = self._filled(store, name, wanted)
        except BaseException:
            self._locks.release(name)
            raise
        if drafted is None:
            self._locks.release(name)
        return drafted

    def _filled(self, store: Store, name: str, wanted: Callable[[Session], CollectionRow | None]) -> Drafted | None:
        with store.read() as session:  # anew: whoever had the name before may have moved the collection
            row = wanted(session)
        if row is None or self._names.of_row(row) != name:
            return None
        self._drop(name)
        index = self._index(name, row.dim)
        self._untidy.discard(name)  # tidying would build the graph before everything is there
        with index.loading(), store.read() as session:
            drafted = Drafted(row, dropped_vectors(session, row.id), owners(session, row, row.model))
            for block in self._entries.everything(session, row):
                index.add(block.ids, block.vectors)
        return drafted

    def moved(self, session: Session, gallery: CollectionRow, drafted: Drafted | None) -> Change:
        """Bring a draft up to date; see `Gallery.moved`.

        Raises:
            UpgradeStateError: there is none of it, since others changed the collection meanwhile.
        """
        if drafted is None or not drafted.is_of(gallery) or _overtaken(session, drafted):
            raise UpgradeStateError(f"collection '{gallery.name}' was changed meanwhile; send the request again")
        index = self._within(self._index(self._names.of_row(gallery), gallery.dim), session)
        since = self._entries.since(session, gallery, drafted.owners)
        replace(index, since.gone, self._entries.some(session, gallery, since.new))
        return Change(gallery.id, gallery.model, gallery.dim, moved=True)

    @staticmethod
    def _count_dropped(session: Session, changes: Sequence[Change]) -> None:
        """Tell those who draft, through whichever service, that vectors were dropped."""
        for change in changes:
            if change.drops_others:
                count_dropped_vectors(session, change.collection)

    def discard(self, drafted: Drafted) -> None:
        """Drop a draft unless its collection has moved to it, and let others make one."""
        name = self._names.of_row(drafted.row)
        try:
            with self._store.read() as session:
                row = session.get(CollectionRow, drafted.row.id)
            if row is None or self._names.of_row(row) != name:
                self._drop(name)
            else:
                self._untidy.add(name)
        except Exception as error:  # the answer is given already; a later sweep does it
            log.error("an index that nobody needs is not dropped yet: %r", error)
            self._unswept = True
        finally:
            self._locks.release(name)

    # snapshots, of which there are none

    def unsaved(self, least: int) -> list[int]:
        """Nothing: what outlives the process needs no snapshot."""
        return []

    def save(self, store: Store, collection: int) -> bool:
        """Nothing."""
        return False

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.close()

    # for both kinds of `_aligned`

    def _apart(self, session: Session, row: CollectionRow, index: DurableIndex, *, vectors: bool) -> Apart:
        try:
            return apart(session, self._entries, row, index, vectors=vectors)
        except IndexDroppedError:  # opened earlier, and dropped by somebody
            self._indexes.pop(self._names.of_row(row), None)
            raise

    def _demand_small(self, found: Sequence[Apart], most: int) -> None:
        """Refuse to mend by the way what would take long, or what may be a mistake.

        Raises:
            ConfigError: the index is far apart from the store.
        """
        if (count := sum(len(one.ids) for one in found)) <= most:
            return
        missing, extra, wrong = (sum(map(len, column)) for column in zip(*found, strict=True))
        raise ConfigError(
            f"the index {self._url} is {count} entries apart from the store ({missing} missing, {extra} too many, "
            f"{wrong} different); run `facemargin gallery move --from faiss: --to {self._url}`, then start again"
        )


def _overtaken(session: Session, drafted: Drafted) -> bool:
    """Whether vectors were dropped since: the same faces may have others by the same model now."""
    return dropped_vectors(session, drafted.row.id) != drafted.mark
