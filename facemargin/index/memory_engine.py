"""Indexes in the memory of this process."""

import threading

from facemargin.errors import IndexingError
from facemargin.index.base import Index
from facemargin.index.engine import checked_name
from facemargin.index.kinds import make_index

_AT_A_TIME = 4096


class MemoryEngine:
    """Named indexes of one kind, empty when the process starts.

    Args:
        kind: a key of `INDEXES`.

    Attributes:
        kind: as given.
    """

    durable = False
    place = "faiss:"
    plaintext = False
    transactional = False

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._indexes: dict[str, Index] = {}
        self._lock = threading.Lock()

    def index(self, name: str, dim: int) -> Index:
        """Open an index; see `SearchEngine.index`."""
        with self._lock:
            found = self._indexes.get(checked_name(name))
            if found is None:
                found = self._indexes[name] = make_index(self.kind, dim)
        if found.dim != dim:
            raise IndexingError(f"index {name!r} holds vectors of {found.dim} numbers, not of {dim}")
        return found

    def names(self) -> frozenset[str]:
        """Names of all indexes."""
        with self._lock:
            return frozenset(self._indexes)

    def drop(self, name: str) -> None:
        """Remove an index; its memory is overwritten with zeros. Nobody may add to it any more."""
        with self._lock:
            index = self._indexes.pop(name, None)
        if index is not None:
            wipe(index)

    def check(self) -> None:
        """Nothing can be away."""

    def close(self) -> None:
        """Forget all indexes."""
        with self._lock:
            self._indexes.clear()


def wipe(index: Index) -> None:
    """Remove everything from an index that nobody changes any more."""
    ids = index.ids()[::-1]  # the last one of a dense index moves no other
    for start in range(0, len(ids), _AT_A_TIME):
        index.remove(ids[start : start + _AT_A_TIME])
