"""The galleries in memory: a cache of the store that finds the nearest people.

One shelf per collection, loaded from its snapshot and the store at start and changed only after a commit. Owns which
shelf is searched, when it changes, and whether its snapshot is of use; what is in one, `service.shelf` knows.

Searches and changes of one shelf do not wait for each other here, only for each other's moments in the index itself; a
change that puts entries in the place of others (with ``templates=mean``, a further face) is alone for as long as it
takes. A shelf that takes the place of another is finished beside it. What is taken down is zeroed, and whoever was
searching it searches again.
"""

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from sqlalchemy.orm import Session

from facemargin.errors import ModelMismatchError, UnknownIdError
from service.current import Stage
from service.entries import Entries, Entry, Templates, Vector
from service.gallery import Change, Drafted, Hit, nearest_people
from service.shelf import Shelf, ShelfMaker
from service.snapshots import Snapshots
from service.store import CollectionRow, PersonRow, Store
from service.store.people import collections
from service.store.upgrades import owners

log = logging.getLogger("facemargin.service")

_SAVE_AGAIN = 0.1
"""Share of a collection that may be younger than its snapshot before it is written again."""
LONGEST_SWAP_S = 2.0
"""How long a search waits for the shelf of a model that its collection was bound to a moment ago."""


class MemoryGallery:
    """The indexes of all collections, in this process; see `service.gallery.Gallery`.

    Args:
        index: a name in `facemargin.index.INDEXES`.
        templates: how a person with several faces is compared.

    Attributes:
        stale: row numbers of the collections whose index is apart from the store.
    """

    def __init__(self, *, index: str, templates: Templates, snapshots: Snapshots | None = None) -> None:
        self.templates = templates
        self.stale: set[int] = set()
        self._entries = Entries(templates)
        self._maker = ShelfMaker(index=index, templates=templates, snapshots=snapshots)
        self._snapshots = snapshots
        self._shelves: dict[int, Shelf] = {}
        self._swapped = threading.Condition()  # and the lock of the dictionary, never held for longer than it takes
        self._dropped: Counter[int] = Counter()

    def load(self, store: Store) -> None:
        """Load every index, from its snapshot where there is a good one."""
        with store.read() as session:
            self._load(session)

    def _load(self, session: Session) -> None:
        shelves = {row.id: self._maker.loaded(session, row) for row in collections(session)}
        with self._swapped:
            self._shelves = shelves
        if self._snapshots is not None:
            self._snapshots.sweep(session)

    def size(self, gallery: CollectionRow) -> int:
        """Number of vectors that a search of the collection compares with."""
        shelf = self._shelf(gallery.id)
        return len(shelf.index) if shelf is not None else 0

    @property
    def total(self) -> int:
        """Number of vectors in all indexes."""
        with self._swapped:
            return sum(len(shelf.index) for shelf in self._shelves.values())

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
        with Stage("search"):
            while True:
                shelf = self._shelf_to_search(gallery)
                hits = [] if shelf is None else _nearest(shelf, query, threshold, limit, other_than)
                if self._shelf(gallery.id) is shelf:  # else it may have been zeroed while it was searched
                    return hits

    def _shelf(self, collection: int) -> Shelf | None:
        with self._swapped:
            return self._shelves.get(collection)

    def _shelf_to_search(self, gallery: CollectionRow) -> Shelf | None:
        """The shelf of a collection; where its move to another model was committed just now, as soon as it is there."""
        with self._swapped:
            self._swapped.wait_for(lambda: not self._is_behind(gallery), LONGEST_SWAP_S)
            shelf = self._shelves.get(gallery.id)
        if shelf is not None and shelf.model != gallery.model:
            raise ModelMismatchError(
                f"collection '{gallery.name}' is searched by model {shelf.model}, and the vector to look for is by "
                f"{gallery.model}; send the request again"
            )
        return shelf

    def _is_behind(self, gallery: CollectionRow) -> bool:
        shelf = self._shelves.get(gallery.id)
        return shelf is not None and shelf.model != gallery.model and shelf.sequence < gallery.sequence

    def follow(self, store: Store, changes: Sequence[Change]) -> None:
        """Take over what was committed; an index that fails at that is rebuilt, at the latest by the housekeeping.

        Never raises what an index or the store does: the write is on the disk and must be answered.
        """
        self._dropped.update(change.collection for change in changes if change.drops_others)
        try:
            self.apply(changes)
        except Exception:  # whatever it was: the store is right and the index is not
            log.exception("an index did not take a write; it is rebuilt from the store")
            self.stale |= {change.collection for change in changes}
        self._forget_snapshots(_taken_from(changes))  # one begun before the index followed holds what was taken away
        try:
            self.repair(store)
        except Exception:  # likewise
            log.exception("an index could not be rebuilt; the service is not ready")

    def _forget_snapshots(self, numbers: set[int]) -> None:
        if self._snapshots is None or not numbers:
            return
        self._snapshots.forget(numbers)
        with self._swapped:
            for number in numbers & self._shelves.keys():
                self._shelves[number].saved = None

    def repair(self, store: Store) -> None:
        """Rebuild what is apart from the store, beside the searches; no write may happen meanwhile.

        Raises:
            Exception: it cannot be rebuilt yet; an index and the store have many words for that.
        """
        if not self.stale:
            return
        with store.read() as session:
            for number in sorted(self.stale):
                row = session.get(CollectionRow, number)
                self._swap(number, self._maker.built(session, row) if row is not None else None)
                self.stale.discard(number)

    def apply(self, changes: Sequence[Change]) -> None:
        """Take over what was committed. No search misses what one change takes out and puts back otherwise."""
        for change in changes:
            if change.is_rebuild:
                if change.shelf is not None:
                    change.shelf.sequence = change.sequence
                self._swap(change.collection, change.shelf)
                continue
            shelf = self._shelf(change.collection)
            if shelf is None:
                shelf = self._maker.empty(change.model, change.dim)
                self._swap(change.collection, shelf)
            with shelf.replacing.write() if change.remove and change.add else contextlib.nullcontext():
                shelf.take(change.remove)
                shelf.put(change.add)
            shelf.sequence = change.sequence

    def _swap(self, collection: int, shelf: Shelf | None) -> None:
        """Have another shelf searched, or none; the one before is zeroed."""
        with self._swapped:
            before = self._shelves.pop(collection, None)
            if shelf is not None:
                self._shelves[collection] = shelf
            self._swapped.notify_all()
        if before is not None:
            wipe(before)

    def draft(self, store: Store, wanted: Callable[[Session], CollectionRow | None]) -> Drafted | None:
        """Build the shelf of a collection beside everything; see `Gallery.draft`."""
        dropped = Counter(self._dropped)  # counted before the session sees its state
        with store.read() as session:
            row = wanted(session)
            if row is None:
                return None
            shelf = self._maker.built(session, row)
            return Drafted(row, dropped[row.id], owners(session, row, row.model), shelf)

    def moved(self, session: Session, gallery: CollectionRow, drafted: Drafted | None) -> Change:
        """The change that binds a collection to another model; see `Gallery.moved`."""
        shelf = self._shelf_for(session, gallery, drafted)
        return Change(gallery.id, gallery.model, gallery.dim, moved=True, shelf=shelf)

    def _shelf_for(self, session: Session, gallery: CollectionRow, drafted: Drafted | None) -> Shelf:
        if drafted is None or drafted.shelf is None or not drafted.is_of(gallery):
            return self._maker.built(session, gallery)
        if drafted.mark != self._dropped[gallery.id]:  # the same faces may have other vectors by the same model now
            return self._maker.built(session, gallery)
        return self._maker.brought_up(session, gallery, drafted.shelf, drafted.owners)

    def discard(self, drafted: Drafted) -> None:
        """Zero a draft that nobody searches."""
        if drafted.shelf is not None and self._shelf(drafted.row.id) is not drafted.shelf:
            wipe(drafted.shelf)

    def prepare(self, session: Session, changes: Sequence[Change]) -> None:
        """Make snapshots useless that hold what a write takes away, in its transaction."""
        if self._snapshots is not None:
            self._snapshots.withdraw(session, _taken_from(changes))

    def unsaved(self, least: int) -> list[int]:
        """Collections of at least so many entries whose snapshot is missing, or far behind."""
        with self._swapped:
            fresh = {number: shelf for number, shelf in self._shelves.items() if number not in self.stale}
        return [number for number, shelf in fresh.items() if _due(shelf, least)]

    def save(self, store: Store, collection: int) -> bool:
        """Write the snapshot of a collection, beside searches and writes; whether it was written.

        Raises:
            OSError, SQLAlchemyError: the disk or the store does not take it.
        """
        if self._snapshots is None:
            return False
        times = self._snapshots.times_withdrawn(collection)  # first, so that what is taken away from here on counts
        if collection in self.stale or (shelf := self._shelf(collection)) is None:
            return False
        listed = shelf.listed()
        label = self._maker.label_of(collection, shelf, listed)
        saved = None
        try:
            if self._snapshots.write(store, label, lambda rows: shelf.blocks(listed, rows), times):
                saved = label.count
        except UnknownIdError:  # somebody was deleted while it was written
            pass
        finally:
            with self._swapped:  # somebody may have been deleted since
                shelf.saved = saved if self._snapshots.has(collection) else None
        return shelf.saved is not None

    def entries(self, session: Session, gallery: CollectionRow, person: PersonRow) -> list[Entry]:
        """What the index of a collection holds, or shall hold, of a person."""
        return self._entries.of_person(session, gallery, person)

    def demand(self) -> None:
        """Nothing: an index in memory follows every write."""

    def catch_up(self, store: Store) -> None:
        """Nothing: nobody else writes to the store."""

    def tidy(self) -> None:
        """Nothing: what is removed is overwritten at once."""

    def trouble(self) -> str | None:
        """Why the indexes are not in order."""
        return "a search index is apart from the store; it is being rebuilt" if self.stale else None

    def close(self) -> None:
        """Nothing: it is memory."""


def wipe(shelf: Shelf) -> None:
    """Zero a shelf that nobody searches any more."""
    try:
        shelf.wipe()
    except Exception:  # likewise
        log.exception("an index that was taken down could not be zeroed")


def _due(shelf: Shelf, least: int) -> bool:
    size = len(shelf.index)
    return size >= least and (shelf.saved is None or size - shelf.saved > _SAVE_AGAIN * size)


def _taken_from(changes: Iterable[Change]) -> set[int]:
    return {change.collection for change in changes if change.takes_away}


def _nearest(shelf: Shelf, query: Vector, threshold: float, limit: int, other_than: int | None) -> list[Hit]:
    with shelf.replacing.read():
        return nearest_people(
            shelf.index, lambda _: shelf.people, query, threshold=threshold, limit=limit, other_than=other_than
        )
