"""The galleries: what finds the nearest people of each collection, and follows what is written.

The store is the truth, and an index of a collection is made of it. Where indexes are, and when they follow a write, is
the business of the classes with the methods of `Gallery`: `MemoryGallery` has them in this process,
`TransactionalGallery` in the store's own database, `FollowingGallery` elsewhere. `service.galleries` chooses; everybody
else knows only what is here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from sqlalchemy.orm import Session

from facemargin.index import Index
from service.entries import Entry, Templates, Vector
from service.shelf import Shelf
from service.store import CollectionRow, PersonRow, Store
from service.store.upgrades import Owners

_FIRST_K = 64


class Hit(NamedTuple):
    """A person found: row number of the person, id of the entry that came nearest, cosine."""

    person: int
    entry: int
    similarity: float


@dataclass
class Change:
    """What a committed write means for one collection's index.

    Attributes:
        collection: row number.
        model: id of the model of its vectors.
        dim: their length.
        remove: ids of entries that go.
        add: entries that come.
        drop: the collection is gone.
        moved: it is another model's from now on.
        shelf: its index after that, where indexes are in memory.
        drops_others: vectors by other models were dropped.
        sequence: the collection's after the write.
    """

    collection: int
    model: str
    dim: int
    remove: list[int] = field(default_factory=list)
    add: list[Entry] = field(default_factory=list)
    drop: bool = False
    moved: bool = False
    shelf: Shelf | None = None
    drops_others: bool = False
    sequence: int = 0

    @property
    def is_rebuild(self) -> bool:
        """Whether the index is another one from now on, or none."""
        return self.drop or self.moved

    @property
    def takes_away(self) -> bool:
        """Whether something that the index held before must not be found, or written, any more."""
        return bool(self.remove) or self.is_rebuild


class Drafted(NamedTuple):
    """The index of a collection by another model, filled beside the writes.

    Attributes:
        row: of which collection and model.
        mark: tells whether vectors by other models were dropped from it since.
        owners: the faces that it was filled from.
        shelf: the index itself, where indexes are in memory.
    """

    row: CollectionRow
    mark: int
    owners: Owners
    shelf: Shelf | None = None

    def is_of(self, gallery: CollectionRow) -> bool:
        """Whether it is of a collection and its model."""
        return (self.row.id, self.row.model) == (gallery.id, gallery.model)


class Gallery(Protocol):
    """The indexes of all collections. Every method may be called from any thread; changes have the writer's turn."""

    templates: Templates
    """How a person with several faces is compared."""

    def load(self, store: Store) -> None:
        """Have every index as the store says; called once, before anything else.

        Raises:
            ConfigError: an index is too far apart from the store, or the engine lacks what it needs.
            IndexUnavailableError: the engine does not answer.
        """
        ...

    def size(self, gallery: CollectionRow) -> int:
        """Number of vectors that a search of the collection compares with.

        Raises:
            IndexUnavailableError: the engine does not answer.
        """
        ...

    @property
    def total(self) -> int | None:
        """Number of vectors in all indexes; None where nobody answers."""
        ...

    def search(
        self,
        gallery: CollectionRow,
        query: Vector,
        *,
        threshold: float,
        limit: int,
        other_than: int | None = None,
    ) -> list[Hit]:
        """The nearest people at or above the threshold, the nearest first, each once.

        Args:
            gallery: the collection, as it was when the query was embedded by its model.
            query: (D,) of unit length.
            threshold: least cosine.
            limit: most people.
            other_than: row number of a person to leave out.

        Raises:
            ModelMismatchError: the collection has moved to another model since.
            IndexUnavailableError: the engine does not answer, or is behind the store.
        """
        ...

    def entries(self, session: Session, gallery: CollectionRow, person: PersonRow) -> list[Entry]:
        """What the index of a collection holds, or shall hold, of a person."""
        ...

    def demand(self) -> None:
        """Pass if writes can be taken.

        Raises:
            IndexUnavailableError: none would be followed at present.
        """
        ...

    def prepare(self, session: Session, changes: Sequence[Change]) -> None:
        """Do what belongs into the transaction of a write, at its end.

        Raises:
            IndexUnavailableError: it cannot be done, so the write must not be.
        """
        ...

    def follow(self, store: Store, changes: Sequence[Change]) -> None:
        """Do what belongs after the commit, in the writer's turn.

        Never raises what an index or the store does: the write is on the disk and must be answered.
        """
        ...

    def catch_up(self, store: Store) -> None:
        """Take over what other services committed, and what a service that died left.

        Raises:
            IndexUnavailableError: the engine does not answer.
            SQLAlchemyError: the store does not.
        """
        ...

    def repair(self, store: Store) -> None:
        """Mend what is apart from the store, if anything is, beside the searches, in the writer's turn.

        Raises:
            Exception: it cannot be mended yet; an index and the store have many words for that.
        """
        ...

    def tidy(self) -> None:
        """Have what was removed leave the engine's memory and files, as far as it can; beside searches and writes.

        Raises:
            IndexUnavailableError: the engine does not answer.
        """
        ...

    def trouble(self) -> str | None:
        """Why the indexes are not in order; None where they are."""
        ...

    def draft(self, store: Store, wanted: Callable[[Session], CollectionRow | None]) -> Drafted | None:
        """Fill the index of a collection beside everything; hand it to `moved`, and to `discard` in any case.

        Args:
            store: to read.
            wanted: which, with the model whose vectors it shall hold; None for nothing.

        Raises:
            UpgradeStateError: somebody else is at it.
        """
        ...

    def moved(self, session: Session, gallery: CollectionRow, drafted: Drafted | None) -> Change:
        """The change by which a write binds a collection to another model, as the row says already.

        Its index is a draft brought up to date, or built here, in the writer's turn.
        """
        ...

    def discard(self, drafted: Drafted) -> None:
        """Do away with a draft, unless the collection moved to it."""
        ...

    def unsaved(self, least: int) -> list[int]:
        """Collections of at least so many entries whose snapshot is missing, or far behind."""
        ...

    def save(self, store: Store, collection: int) -> bool:
        """Write the snapshot of a collection, beside searches and writes; whether it was written.

        Raises:
            OSError, SQLAlchemyError: the disk or the store does not take it.
        """
        ...

    def close(self) -> None:
        """Let go of the engine."""
        ...


def difference(collection: CollectionRow, before: Sequence[Entry], after: Sequence[Entry]) -> Change:
    """The change of an index that turns a person's entries before a write into those after it."""
    later = {entry.id: entry for entry in after}
    kept = {entry.id for entry in before if entry.id in later and _same(entry, later[entry.id])}
    return Change(
        collection.id,
        collection.model,
        collection.dim,
        remove=[entry.id for entry in before if entry.id not in kept],
        add=[entry for entry in after if entry.id not in kept],
    )


def _same(one: Entry, other: Entry) -> bool:
    return bool(np.array_equal(one.vector, other.vector))


def nearest_people(
    index: Index,
    owners: Callable[[Sequence[int]], Mapping[int, int]],
    query: Vector,
    *,
    threshold: float,
    limit: int,
    other_than: int | None,
) -> list[Hit]:
    """Look among the nearest entries, and among more of them until there are enough people; see `Gallery.search`.

    Args:
        index: of the collection.
        owners: whose some entries are; those that it leaves out are not there any more.
        query: (D,).
        threshold: least cosine.
        limit: most people.
        other_than: row number of a person to leave out.
    """
    k = max(_FIRST_K, 2 * limit)
    while True:
        similarities, ids = index.search(query[None, :], k)
        near = (ids[0] >= 0) & (similarities[0] >= threshold)
        whose = owners(ids[0][near].tolist())
        hits: dict[int, Hit] = {}
        for similarity, entry in zip(similarities[0][near].tolist(), ids[0][near].tolist(), strict=True):
            person = whose.get(entry)
            if person is not None and person != other_than:
                hits.setdefault(person, Hit(person, entry, min(similarity, 1.0)))  # float16 rounds beyond
        if not near.all() or len(hits) >= limit:
            return list(hits.values())[:limit]
        k *= 8
