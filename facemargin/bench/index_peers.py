"""What the benchmark of indexes compares: the segmented index, and FAISS's own by themselves."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facemargin.index import SearchResult, SegmentedIndex
from facemargin.index.faiss_library import load_faiss


class Contender(Protocol):
    """Something that takes vectors in blocks and finds the nearest."""

    name: str

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Take vectors with the next ids from 0 up."""

    def search(self, queries: NDArray[np.float32], k: int) -> SearchResult:
        """The k nearest of each query."""
        ...


class Segmented:
    """The index of the service, with its defaults."""

    name = "segmented"

    def __init__(self, dim: int) -> None:
        self.index = SegmentedIndex(dim)

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """See `Contender.add`."""
        self.index.add(ids, vectors)

    def search(self, queries: NDArray[np.float32], k: int) -> SearchResult:
        """See `Contender.search`."""
        return self.index.search(queries, k)


class FaissPeer:
    """An index of FAISS, searched directly. It can neither be changed during a search nor take ids."""

    def __init__(self, name: str, index: Any) -> None:
        self.name, self.index = name, index

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """See `Contender.add`; the first vectors also train a quantiser."""
        if not self.index.is_trained:
            self.index.train(vectors)
        self.index.add(vectors)

    def search(self, queries: NDArray[np.float32], k: int) -> SearchResult:
        """See `Contender.search`."""
        return SearchResult(*self.index.search(queries, k))


class HnswPeer(FaissPeer):
    """HNSW with 32 neighbours, which FAISS builds with all threads."""

    def __init__(self, dim: int) -> None:
        faiss = load_faiss()
        super().__init__("faiss HNSW32", faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT))

    def set_ef(self, ef: int) -> None:
        """How many nodes of the graph a search keeps in view."""
        self.index.hnsw.efSearch = ef
        self.name = f"faiss HNSW32, ef {ef}"


def contenders(dim: int, count: int, *, hnsw_most: int) -> list[Contender]:
    """All of them; HNSW, whose graph takes long to build, up to ``hnsw_most`` vectors."""
    faiss = load_faiss()
    kind = faiss.ScalarQuantizer.QT_8bit
    found: list[Contender] = [
        Segmented(dim),
        FaissPeer("faiss Flat", faiss.IndexFlatIP(dim)),
        FaissPeer("faiss SQ8", faiss.IndexScalarQuantizer(dim, kind, faiss.METRIC_INNER_PRODUCT)),
    ]
    return [*found, HnswPeer(dim)] if count <= hnsw_most else found
