"""The galleries in memory: a cache of the store that finds the nearest people.

One index per collection, rebuilt from the store at start and changed only after a commit. Owns what an entry of the
index is: with ``templates=best`` every face is an entry, and a person is as similar as the best of them; with ``mean``
every person is one entry, the mean of the faces scaled to unit length.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from facemargin.errors import FacemarginError
from facemargin.index import Index, ReadersWriterLock, make_index
from service.store import CollectionRow, PersonRow, Store
from service.store.faces import templates_of_collection, templates_of_person
from service.store.people import collections

log = logging.getLogger("facemargin.service")

Templates = Literal["best", "mean"]
Vector = NDArray[np.float32]

_SMALLEST_MEAN = 1e-3
_FIRST_K = 64
_FAILURES = (MemoryError, RuntimeError, FacemarginError)
"""What an index may raise: no memory, an exception of faiss, or a refusal."""


class Entry(NamedTuple):
    """One vector of an index: its id (a row number of the store), whose it is, and the vector."""

    id: int
    person: int
    vector: Vector


class Hit(NamedTuple):
    """A person found: row number of the person, id of the entry that came nearest, cosine."""

    person: int
    entry: int
    similarity: float


@dataclass
class Change:
    """What a committed write means for one collection's index."""

    collection: int
    dim: int
    remove: list[int] = field(default_factory=list)
    add: list[Entry] = field(default_factory=list)
    drop: bool = False


@dataclass
class _Shelf:
    """The index of one collection, and whose each entry is."""

    index: Index
    people: dict[int, int]

    def put(self, entries: Sequence[Entry]) -> None:
        if entries:
            self.index.add(np.array([e.id for e in entries], dtype=np.int64), np.stack([e.vector for e in entries]))
            self.people |= {entry.id: entry.person for entry in entries}

    def take(self, ids: Sequence[int]) -> None:
        if ids:
            self.index.remove(np.array(ids, dtype=np.int64))
            for number in ids:
                del self.people[number]


class Gallery:
    """The indexes of all collections.

    Args:
        index: a name in `facemargin.index.INDEXES`.
        templates: how a person with several faces is compared.

    Attributes:
        stale: row numbers of the collections whose index is apart from the store.
    """

    def __init__(self, *, index: str, templates: Templates) -> None:
        self._kind = index
        self.templates = templates
        self.stale: set[int] = set()
        self._shelves: dict[int, _Shelf] = {}
        self._lock = ReadersWriterLock()

    def load(self, store: Store) -> None:
        """Rebuild every index from the store."""
        with store.read() as session, self._lock.write():
            self._shelves = {row.id: self._built(session, row) for row in collections(session)}

    def size(self, collection: int) -> int:
        """Number of vectors that a search of the collection compares with."""
        with self._lock.read():
            shelf = self._shelves.get(collection)
            return len(shelf.index) if shelf is not None else 0

    def search(
        self, collection: int, query: Vector, *, threshold: float, limit: int, other_than: int | None = None
    ) -> list[Hit]:
        """The nearest people at or above the threshold, the nearest first, each once.

        Args:
            collection: row number.
            query: (D,) of unit length.
            threshold: least cosine.
            limit: most people.
            other_than: row number of a person to leave out.
        """
        with self._lock.read():
            shelf = self._shelves.get(collection)
            if shelf is None or not len(shelf.index):
                return []
            k = min(len(shelf.index), max(_FIRST_K, 2 * limit))
            while True:
                hits, complete = _best_per_person(shelf, query, k, threshold, other_than)
                if complete or len(hits) >= limit:
                    return hits[:limit]
                k = min(len(shelf.index), 8 * k)

    def follow(self, store: Store, changes: Sequence[Change]) -> None:
        """Take over what was committed; an index that fails at that is rebuilt, at the latest after another write.

        Never raises what an index or the store does: the write is on the disk and must be answered.
        """
        try:
            self.apply(changes)
        except _FAILURES:
            log.exception("an index did not take a write; it is rebuilt from the store")
            self.stale |= {change.collection for change in changes}
        if not self.stale:
            return
        try:
            self._rebuild(store)
        except (*_FAILURES, SQLAlchemyError):
            log.exception("an index could not be rebuilt; the service is not ready")

    def _rebuild(self, store: Store) -> None:
        with store.read() as session, self._lock.write():
            for number in sorted(self.stale):
                row = session.get(CollectionRow, number)
                if row is not None:
                    self._shelves[number] = self._built(session, row)
                else:
                    self._shelves.pop(number, None)
                self.stale.discard(number)

    def apply(self, changes: Iterable[Change]) -> None:
        """Take over what was committed; searches see all of it or nothing."""
        with self._lock.write():
            for change in changes:
                if change.drop:
                    self._shelves.pop(change.collection, None)
                    continue
                shelf = self._shelves.setdefault(change.collection, self._empty(change.dim))
                shelf.take(change.remove)
                shelf.put(change.add)

    def entries(self, session: Session, gallery: CollectionRow, person: PersonRow) -> list[Entry]:
        """What the index of a collection holds, or shall hold, of a person."""
        found = templates_of_person(session, gallery, person)
        return self._entries(person.id, [(template.face, template.vector) for template in found])

    def _entries(self, person: int, vectors: Sequence[tuple[int, Vector]]) -> list[Entry]:
        if self.templates == "best" or not vectors:
            return [Entry(face, person, vector) for face, vector in vectors]
        return [Entry(person, person, unit_mean([vector for _, vector in vectors]))]

    def _built(self, session: Session, row: CollectionRow) -> _Shelf:
        shelf = self._empty(row.dim)
        shelf.put(list(self._stored(session, row)))
        return shelf

    def _stored(self, session: Session, row: CollectionRow) -> Iterator[Entry]:
        for person, group in groupby(templates_of_collection(session, row), key=attrgetter("person")):
            yield from self._entries(person, [(template.face, template.vector) for template in group])

    def _empty(self, dim: int) -> _Shelf:
        return _Shelf(make_index(self._kind, dim), {})


def unit_mean(vectors: Sequence[Vector]) -> Vector:
    """The mean of unit vectors at unit length; the first of them where they cancel out."""
    mean = np.mean(vectors, axis=0, dtype=np.float64)
    norm = float(np.linalg.norm(mean))
    return vectors[0] if norm < _SMALLEST_MEAN else np.asarray(mean / norm, dtype=np.float32)


def difference(collection: CollectionRow, before: Sequence[Entry], after: Sequence[Entry]) -> Change:
    """The change of an index that turns a person's entries before a write into those after it."""
    later = {entry.id: entry for entry in after}
    kept = {entry.id for entry in before if entry.id in later and _same(entry, later[entry.id])}
    return Change(
        collection.id,
        collection.dim,
        remove=[entry.id for entry in before if entry.id not in kept],
        add=[entry for entry in after if entry.id not in kept],
    )


def _same(one: Entry, other: Entry) -> bool:
    return bool(np.array_equal(one.vector, other.vector))


def _best_per_person(
    shelf: _Shelf, query: Vector, k: int, threshold: float, other_than: int | None
) -> tuple[list[Hit], bool]:
    """The people among the k nearest entries, and whether more entries could bring more people."""
    similarities, ids = shelf.index.search(query[None, :], k)
    hits: dict[int, Hit] = {}
    for similarity, entry in zip(similarities[0].tolist(), ids[0].tolist(), strict=True):
        if similarity < threshold:
            return list(hits.values()), True
        person = shelf.people[entry]
        if person != other_than:
            hits.setdefault(person, Hit(person, entry, similarity))
    return list(hits.values()), k == len(shelf.index)
