"""Indexes in a Milvus."""

import threading

from facemargin.errors import IndexingError
from facemargin.index.base import checked_dim
from facemargin.index.engine import checked_name
from facemargin.index.hnsw import Hnsw
from facemargin.index.milvus.address import MilvusAddress
from facemargin.index.milvus.collection import PREFIX, Collection
from facemargin.index.milvus.connection import BUILD_S, CALL_S, MilvusConnection
from facemargin.index.milvus.index import MilvusIndex

LEAST_DIM, MOST_DIM = 2, 32768
"""Milvus refuses other lengths of a float vector."""


class MilvusEngine:
    """Collections whose names begin with ``facemargin_``.

    Milvus takes an id twice; that it is new is seen to here, among the threads of this process. So at any time one
    process may add to an index; any number may search it.

    Args:
        address: of the server or file.
        hnsw: how indexes are built and searched.

    Attributes:
        place: see `SearchEngine`.

    Raises:
        MissingExtraError: pymilvus is not installed.
    """

    durable = True
    plaintext = True
    transactional = False

    def __init__(self, address: MilvusAddress, hnsw: Hnsw | None = None) -> None:
        self.place = str(address)
        self._hnsw = hnsw or Hnsw()
        self._connection = MilvusConnection(address)
        self._opened: dict[str, MilvusIndex] = {}
        self._lock = threading.Lock()

    def index(self, name: str, dim: int) -> MilvusIndex:
        """Open an index; see `SearchEngine.index`."""
        if not LEAST_DIM <= checked_dim(dim) <= MOST_DIM:
            raise ValueError(f"dim is {dim}; Milvus takes vectors of {LEAST_DIM} to {MOST_DIM} numbers")
        with self._lock:
            collection = Collection(self._connection, PREFIX + checked_name(name), dim, self._hnsw)
            held = collection.opened()
            if held != dim:
                raise IndexingError(f"index {name!r} holds vectors of {held} numbers, not of {dim}")
            if name not in self._opened or self._opened[name].dim != dim:  # others may have made it anew
                self._opened[name] = MilvusIndex(collection)  # one for all, since it has the lock
            return self._opened[name]

    def names(self) -> frozenset[str]:
        """Names of all indexes; see `SearchEngine.names`."""
        with self._connection.client() as client:
            every = client.list_collections(timeout=CALL_S)
        return frozenset(name.removeprefix(PREFIX) for name in every if name.startswith(PREFIX))

    def drop(self, name: str) -> None:
        """Remove an index; see `SearchEngine.drop`."""
        with self._lock:
            self._opened.pop(name, None)
            with self._connection.client() as client:
                if client.has_collection(PREFIX + name, timeout=CALL_S):
                    client.drop_collection(PREFIX + name, timeout=BUILD_S)

    def check(self) -> None:
        """Ask for a sign of life; see `SearchEngine.check`."""
        self.names()

    def close(self) -> None:
        """Disconnect; milvus-lite stops."""
        self._connection.close()
