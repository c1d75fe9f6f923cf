"""All pairs of a set of embeddings, in blocks: N (N-1) / 2 cosines, each held once, never an N x N matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class PairScores:
    """Cosines of every unordered pair of different images.

    Attributes:
        genuine: float32 (G,), both images of one person.
        impostor: float32 (I,), images of two people; G + I = N (N - 1) / 2.
    """

    genuine: NDArray[np.float32]
    impostor: NDArray[np.float32]


def all_pairs(embeddings: NDArray[np.floating], people: Sequence[str], *, block: int = 1024) -> PairScores:
    """Compare every image with every other once.

    Args:
        embeddings: (N, D) unit rows, N >= 2.
        people: N names, one per row.
        block: rows compared at a time; memory beyond the result is about 13 block² bytes.

    Returns:
        The genuine and the impostor cosines. 6,300 images make 20 million, 80 MB.

    Raises:
        ValueError: embeddings that are not (N, D), finite and unit; another number of people; block < 1.
    """
    vectors = as_unit_rows("embeddings", embeddings)
    labels = person_labels(people, len(vectors))
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    counts = np.bincount(labels)
    pairs_of_one = int((counts * (counts - 1) // 2).sum())
    genuine = np.empty(pairs_of_one, dtype=np.float32)
    impostor = np.empty(len(vectors) * (len(vectors) - 1) // 2 - pairs_of_one, dtype=np.float32)
    g = i = 0
    for row in range(0, len(vectors), block):
        for column in range(row, len(vectors), block):
            cosines = vectors[row : row + block] @ vectors[column : column + block].T
            same = labels[row : row + block, None] == labels[None, column : column + block]
            counted = np.triu(np.ones_like(same), k=1) if row == column else np.ones_like(same)
            found, others = cosines[same & counted], cosines[~same & counted]
            genuine[g : g + found.size], impostor[i : i + others.size] = found, others
            g, i = g + found.size, i + others.size
    return PairScores(genuine, impostor)


def as_unit_rows(name: str, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Embeddings as float32 (N, D) with N >= 1, checked to be finite and of unit length within 1e-3.

    Raises:
        ValueError: anything else, naming the argument.
    """
    vectors = np.asarray(embeddings, dtype=np.float32)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ValueError(f"{name} must have the shape (N, D), got {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError(f"{name} must be finite")
    off = np.abs(np.linalg.norm(vectors, axis=1) - 1.0).max()
    if off > _UNIT_TOLERANCE:
        raise ValueError(f"{name} must have rows of length 1 within {_UNIT_TOLERANCE}, one is off by {off:.3g}")
    return vectors


def person_labels(people: Sequence[str], count: int) -> NDArray[np.int64]:
    """Numbers 0, 1, … for the names, one per image.

    Raises:
        ValueError: another number of names than `count`.
    """
    if len(people) != count:
        raise ValueError(f"people must name the person of each of the {count} embeddings, got {len(people)} names")
    _, labels = np.unique(np.asarray(people, dtype=np.str_), return_inverse=True)
    return labels.astype(np.int64)
