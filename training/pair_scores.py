"""From embeddings to the similarity of each pair, and the accuracy of a protocol's pairs."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from facemargin.metrics import KFold, TarAtFar, halves_accuracy, kfold_accuracy, tar_at_far
from facemargin.metrics.verification import halves
from training.evaluation_report import AccuracyMethod

_Key = TypeVar("_Key", bound=Hashable)

NOT_ACQUIRED = -1.0
"""Similarity of a pair of which a photograph has no face: at or below every cosine."""


def pair_similarities(
    first: Sequence[_Key], second: Sequence[_Key], rows: Mapping[_Key, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Cosine of every pair, float32 (P,); -1 where a photograph has no embedding.

    Args:
        first: photograph on one side of each of the P pairs.
        second: photograph on the other side.
        rows: unit embedding of each photograph that has one.
    """
    cosines = [
        float(rows[a] @ rows[b]) if a in rows and b in rows else NOT_ACQUIRED
        for a, b in zip(first, second, strict=True)
    ]
    return np.asarray(cosines, dtype=np.float32)


def accuracy_by_folds(
    similarity: NDArray[np.float32], same: NDArray[np.bool_], fold: NDArray[np.int64]
) -> tuple[AccuracyMethod, KFold, NDArray[np.int64]]:
    """Accuracy by folds, or by halves where there is one fold, and the group of each pair."""
    if np.unique(fold).size > 1:
        return "k-fold", kfold_accuracy(similarity, same, fold), fold
    return "halves", halves_accuracy(similarity, same), halves(same)


def tar_of_pairs(similarity: NDArray[np.float32], same: NDArray[np.bool_], far: float) -> TarAtFar:
    """TAR at a bounded FMR of labelled pairs."""
    return tar_at_far(similarity[same], similarity[~same], far)
