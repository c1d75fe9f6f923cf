"""Galleries in the store's own database: an index changes in the transaction of the write.

So index and store are never apart, whatever is killed when; what is compared at start was done by somebody else.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import cast

import numpy as np
from sqlalchemy.orm import Session

from facemargin.index import DurableIndex, TransactionalIndex
from service.alignment import Apart, align, replace
from service.durable_gallery import DurableGallery
from service.entries import Block
from service.gallery import Change
from service.store import CollectionRow, Store
from service.store.people import collections


class TransactionalGallery(DurableGallery):
    """The indexes of all collections in the store's database; see `service.gallery.Gallery`."""

    _removing: frozenset[str] | set[str] = frozenset()

    def prepare(self, session: Session, changes: Sequence[Change]) -> None:
        """Change the indexes, in the transaction of the write; each is opened before the first of them is locked."""
        told = [change for change in changes if change.remove or change.add]
        opened = [(change, self._opened(session, change)) for change in told]
        for change, name in opened:
            blocks = [Block.of(change.add)] if change.add else []
            index = self._within(self._index(name, change.dim), session)
            replace(index, np.array(change.remove, dtype=np.int64), blocks)
        self._removing = {name for change, name in opened if change.remove}
        self._count_dropped(session, changes)

    def follow(self, store: Store, changes: Sequence[Change]) -> None:
        """Drop indexes that are not searched any more; see `Gallery.follow`."""
        self._untidy |= self._removing  # now, for a VACUUM before the commit would have left what was removed
        super().follow(store, changes)

    def catch_up(self, store: Store) -> None:
        """Nothing: what is committed is in the indexes."""

    def _opened(self, session: Session, change: Change) -> str:
        """The name of the index of a change, opened."""
        row = session.get_one(CollectionRow, change.collection)
        self._index(name := self._names.of(row.public_id, change.model), change.dim)
        return name

    def _within(self, index: DurableIndex, session: Session) -> DurableIndex:
        return cast(TransactionalIndex, index).within(session.connection())

    def _unwritten(self, store: Store) -> AbstractContextManager[Session]:
        return store.write()  # a write that makes a collection makes its index before it commits

    def _aligned(self, store: Store, *, vectors: bool, most: int) -> None:
        found = self._differences(store, vectors=vectors)
        self._demand_small(list(found.values()), most)
        for number, difference in found.items():
            for ids in difference.portions():
                with store.write() as session:
                    if (row := session.get(CollectionRow, number)) is not None:
                        index = self._within(self._index(self._names.of_row(row), row.dim), session)
                        align(session, self._entries, row, index, ids)

    def _differences(self, store: Store, *, vectors: bool) -> dict[int, Apart]:
        """How each collection's index differs from the store, both as one transaction sees them."""
        with store.read() as session:
            opened = [(row, self._index(self._names.of_row(row), row.dim)) for row in collections(session)]
        found = {}
        with store.read() as session:
            for row, index in opened:
                if (now := session.get(CollectionRow, row.id)) is not None and now.model == row.model:
                    found[row.id] = self._apart(session, row, self._within(index, session), vectors=vectors)
        return {number: one for number, one in found.items() if len(one.ids)}
