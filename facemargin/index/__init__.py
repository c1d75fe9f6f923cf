"""One-to-many search over unit embeddings: one protocol, an exact oracle, FAISS, and segments for large galleries.

An index holds ids and vectors in memory and nothing else: people, collections and durability belong to whoever owns the
index. To add an index, write a class with the methods of `Index` and name it in `INDEXES`; the contract test then runs
over it.
"""

from facemargin.index.base import Index, SearchResult
from facemargin.index.exact import NumpyIndex
from facemargin.index.faiss_index import FaissIndex
from facemargin.index.rwlock import ReadersWriterLock
from facemargin.index.segmented import SegmentedIndex

INDEXES: dict[str, type[Index]] = {
    "exact": NumpyIndex,
    "faiss": FaissIndex,
    "segmented": SegmentedIndex,
}


def make_index(name: str, dim: int) -> Index:
    """Make an empty index by its name.

    Args:
        name: a key of `INDEXES`.
        dim: length of the vectors, at least 1.

    Returns:
        An empty index.

    Raises:
        ValueError: an unknown name, or a dimension below 1.
    """
    if name not in INDEXES:
        raise ValueError(f"index is {name!r}; it must be one of {', '.join(sorted(INDEXES))}")
    return INDEXES[name](dim)


__all__ = [
    "INDEXES",
    "FaissIndex",
    "Index",
    "NumpyIndex",
    "ReadersWriterLock",
    "SearchResult",
    "SegmentedIndex",
    "make_index",
]
