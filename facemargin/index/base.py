"""What every index promises, and the checks of its input."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import DuplicateIdError, IndexingError
from facemargin.index.export import Portion

NORM_TOLERANCE = 1e-3
"""How far a vector's length may be from 1. Float16 storage of 512 values stays well inside."""


class SearchResult(NamedTuple):
    """The nearest vectors of each query, best first; the order of equal similarities is not defined.

    Attributes:
        similarities: (Q, k) float32 cosines, padded with -inf where the index holds fewer than k vectors.
        ids: (Q, k) int64, padded with -1.
    """

    similarities: NDArray[np.float32]
    ids: NDArray[np.int64]


class Index(Protocol):
    """A set of (id, unit vector) that finds the vectors with the largest inner product.

    Every method may be called from any thread at any time. A call happens as a whole or, when it raises, not at all.
    """

    def __init__(self, dim: int) -> None:
        """Make an empty index for vectors of length ``dim``."""

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        ...

    def __len__(self) -> int:
        """Number of vectors held."""
        ...

    def add(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors under new ids.

        Args:
            ids: (N,) int64, not negative, none of them in the index and no two alike.
            vectors: (N, dim) float32, finite, of unit length.

        Raises:
            DuplicateIdError: an id is already in the index, or twice in ``ids``.
            IndexingError: a wrong shape, dtype or length, or a value that is not finite.
        """
        ...

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Remove vectors by their ids.

        Args:
            ids: (N,) int64, all of them in the index and no two alike.

        Raises:
            UnknownIdError: an id is not in the index.
            DuplicateIdError: an id is named twice.
            IndexingError: a wrong shape or dtype.
        """
        ...

    def search(self, queries: NDArray[np.float32], k: int) -> SearchResult:
        """Find the ``k`` largest inner products of each query.

        Args:
            queries: (Q, dim) float32, finite, of unit length.
            k: at least 1; may be more than the index holds.

        Returns:
            Similarities and ids, both (Q, k).

        Raises:
            IndexingError: a wrong shape, dtype or length, a value that is not finite, or ``k`` below 1.
        """
        ...

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give back the vectors of ids, (N, dim) float32, in the order of ``ids``.

        Raises:
            UnknownIdError: an id is not in the index.
            IndexingError: a wrong shape or dtype.
        """
        ...

    def ids(self) -> NDArray[np.int64]:
        """Give back every id, (N,) int64, ascending."""
        ...

    def export(self) -> Iterator[Portion]:
        """Give back everything in portions of some thousand, for a snapshot.

        The ids are those held when it is called, whatever is added while it is read; what was removed before its
        portion is read is left out, so that nothing erased is written anew. Changes wait for one portion at most.

        Returns:
            Ids and copies of their vectors, each id once, in no order.
        """
        ...


def checked_dim(dim: int) -> int:
    """Return ``dim`` if it can be the length of a vector.

    Raises:
        ValueError: ``dim`` is below 1.
    """
    if dim < 1:
        raise ValueError(f"dim is {dim}; it must be at least 1")
    return dim


def checked_ids(ids: NDArray[np.int64], *, unique: bool) -> NDArray[np.int64]:
    """Return ``ids`` if they are an (N,) int64 array of numbers from 0 up, and unique where that is asked.

    Raises:
        DuplicateIdError: an id is named twice although ``unique``.
        IndexingError: a wrong shape or dtype, or a negative id.
    """
    if ids.dtype != np.int64 or ids.ndim != 1:
        raise IndexingError(f"ids are {ids.dtype} of shape {ids.shape}; they must be int64 of shape (N,)")
    if ids.size and int(ids.min()) < 0:
        raise IndexingError(f"id {int(ids.min())} is negative; negative ids mark padding")
    if unique and len(np.unique(ids)) != len(ids):
        values, counts = np.unique(ids, return_counts=True)
        raise DuplicateIdError(f"id {int(values[counts > 1][0])} is named more than once")
    return ids


def checked_vectors(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Return ``vectors`` as a C-contiguous array if they are (N, dim) float32, finite and of unit length.

    Raises:
        IndexingError: a wrong shape, dtype or length, or a value that is not finite.
    """
    if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != dim:
        raise IndexingError(
            f"vectors are {vectors.dtype} of shape {vectors.shape}; they must be float32 of shape (N, {dim})"
        )
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))  # unlike linalg.norm, makes no copy of all of them
    wrong = ~(np.abs(norms - 1.0) <= NORM_TOLERANCE)  # written so that NaN counts as wrong
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise IndexingError(f"vector {row} has length {float(norms[row]):g}; every vector must have length 1")
    return np.ascontiguousarray(vectors)


def checked_pairs(
    ids: NDArray[np.int64], vectors: NDArray[np.float32], dim: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return ids and vectors if both are right and equally many.

    Raises:
        DuplicateIdError: an id is named twice.
        IndexingError: anything else that is wrong with either, or different numbers of them.
    """
    ids, vectors = checked_ids(ids, unique=True), checked_vectors(vectors, dim)
    if len(ids) != len(vectors):
        raise IndexingError(f"there are {len(ids)} ids for {len(vectors)} vectors")
    return ids, vectors


def checked_k(k: int) -> int:
    """Return ``k`` if it is at least 1.

    Raises:
        IndexingError: ``k`` is below 1.
    """
    if k < 1:
        raise IndexingError(f"k is {k}; it must be at least 1")
    return k


def padded(similarities: NDArray[np.float32], ids: NDArray[np.int64], k: int) -> SearchResult:
    """Widen (Q, j) results with j <= k to (Q, k) with -inf and -1."""
    missing = ((0, 0), (0, k - ids.shape[1]))
    return SearchResult(
        np.pad(similarities, missing, constant_values=np.float32(-np.inf)), np.pad(ids, missing, constant_values=-1)
    )
