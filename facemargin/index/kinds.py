"""The kinds of index that live in memory, by name."""

from facemargin.index.base import Index
from facemargin.index.exact import NumpyIndex
from facemargin.index.faiss_index import FaissIndex
from facemargin.index.segmented import SegmentedIndex

INDEXES: dict[str, type[Index]] = {
    "exact": NumpyIndex,
    "flat": FaissIndex,
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
