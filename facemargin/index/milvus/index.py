"""One collection of Milvus as an index."""

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import DuplicateIdError, IndexUnavailableError, UnknownIdError
from facemargin.index.base import SearchResult, checked_ids, checked_k, checked_pairs, checked_vectors, padded
from facemargin.index.export import Portion, portions
from facemargin.index.milvus.collection import MOST_FOUND, Collection
from facemargin.index.ranking import best, compared


class MilvusIndex:
    """A collection of ids and float32 vectors with an HNSW graph over them.

    A change of at most 16 MiB of vectors is one call to Milvus. A larger one is several; where one of them fails, what
    the earlier ones added is taken back, which fails too when Milvus is gone: then `ids` tells what is there. So is a
    call whose answer did not come in time: it may have happened.

    Args:
        collection: that exists.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._changing = threading.Lock()

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._collection.dim

    def __len__(self) -> int:
        """Number of vectors held; one call to Milvus."""
        return self._collection.count()

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors under new ids; see `Index.add`."""
        ids, vectors = checked_pairs(ids, vectors, self.dim)
        with self._changing:
            for part in self._batches(len(ids)):
                if len(known := self._collection.known(ids[part])):
                    raise DuplicateIdError(f"id {int(known[0])} is already in the index")
            self._insert(ids, vectors)

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Remove vectors by their ids; see `Index.remove`. What stays on the disk: docs/engines.md."""
        ids = checked_ids(ids, unique=True)
        with self._changing:
            for part in self._batches(len(ids)):
                if len(unknown := np.setdiff1d(ids[part], self._collection.known(ids[part]))):
                    raise UnknownIdError(f"id {int(unknown[0])} is not in the index")
            for part in self._batches(len(ids)):
                self._collection.delete(ids[part])

    def search(self, queries: NDArray[np.float32], k: int) -> SearchResult:
        """Find the k largest inner products; see `Index.search`. Slow and exact for k above 16384."""
        queries, k = checked_vectors(queries, self.dim), checked_k(k)
        result = SearchResult(np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64))
        if k > MOST_FOUND:
            return self._compared(queries, k)
        for row, found in enumerate(self._collection.nearest(queries, k)):
            result.ids[row, : len(found)] = [number for number, _ in found]
            result.similarities[row, : len(found)] = [similarity for _, similarity in found]
        if (result.ids < 0).any() and len(self) > int((result.ids >= 0).sum(axis=1).min()):
            return self._compared(queries, k)  # a graph of which much was removed may lead to too few
        return result

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give back vectors by their ids; see `Index.vectors`."""
        wanted, places = np.unique(checked_ids(ids, unique=False), return_inverse=True)
        known, vectors = self._held(wanted)
        if len(unknown := np.setdiff1d(wanted, known)):
            raise UnknownIdError(f"id {int(unknown[0])} is not in the index")
        return vectors[places]

    def ids(self) -> NDArray[np.int64]:
        """Every id; see `Index.ids`."""
        return self._collection.ids()

    def export(self) -> Iterator[Portion]:
        """Give back everything in portions; see `Index.export`."""
        return portions(self.ids(), self._held)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """See `DurableIndex.loading`: what was added is sealed and indexed at the end."""
        yield
        self._collection.flush()

    def tidy(self, *, thorough: bool = False) -> None:
        """See `DurableIndex.tidy`: seals what was added, and has segments written anew without what was removed."""
        self._collection.flush()
        self._collection.compact()

    def _insert(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        done = 0
        try:
            for part in self._batches(len(ids)):
                self._collection.insert(ids[part], vectors[part])
                done = part.stop
        except IndexUnavailableError:
            for part in self._batches(done):
                with contextlib.suppress(IndexUnavailableError):
                    self._collection.delete(ids[part])
            raise

    def _held(self, ids: NDArray[np.int64]) -> Portion:
        """Those of some ascending ids that are there, and their vectors."""
        parts = [self._collection.vectors(ids[part]) for part in self._batches(len(ids))]
        if not parts:
            return ids, np.empty((0, self.dim), dtype=np.float32)
        return np.concatenate([known for known, _ in parts]), np.concatenate([vectors for _, vectors in parts])

    def _compared(self, queries: NDArray[np.float32], k: int) -> SearchResult:
        """Compare everything here."""
        result = SearchResult(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
        for ids, vectors in self.export():
            result = best([result, compared(queries, ids, vectors, k)], min(k, result.ids.shape[1] + len(ids)))
        return padded(*result, k)

    def _batches(self, count: int) -> Iterator[slice]:
        step = self._collection.rows_at_a_time
        return (slice(start, min(start + step, count)) for start in range(0, count, step))
