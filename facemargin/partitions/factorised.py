"""What partitions share in which P(class) is a product of smaller softmaxes, each over the rows of one level.

Owns the loss of one level, the frequencies that a structure is built from, and the guard that a saved state meets the
structure it was trained with. Knows no particular structure.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from .base import Partition
from .option_values import checked_counts

if TYPE_CHECKING:
    from facemargin.heads.base import Features, Head


class Factorised(Partition):
    """P(class) = Π over the levels on the way to the class. A margin makes the target harder at every one of them.

    Each level is a small head of its own: scores from ``head.scores`` on that level's rows, the score of the branch
    taken replaced by ``head.target_scores``, all divided by the temperature. ``logits`` are log P(class) of the scores
    without margin, at the head's temperature, so their exponentials sum to 1. There is no ``head.weight``.

    The structure is made from the options, and is not itself saved. Its checksum is (as ``_extra_state``), so that
    loading a state which was trained with other groups, tree or counts fails instead of giving each class another's
    row.

    Args:
        class_counts: (C,) how many training samples each class has, whole numbers ≥ 0; None takes the order of labels
            for that of frequency, with P(j) in proportion to log((j + 2)/(j + 1)).
    """

    factorised: ClassVar[bool] = True

    def __init__(self, *, class_counts: Sequence[int] | Tensor | None = None) -> None:
        super().__init__()
        self.class_counts = None if class_counts is None else checked_counts(class_counts)
        self._checksum = 0

    def frequencies(self, num_classes: int) -> Sequence[float]:
        """Weights of the classes in proportion to their frequency: the counts, or log-uniform ones.

        Raises:
            ValueError: the counts are not one integer ≥ 0 a class.
        """
        if self.class_counts is None:
            return [math.log1p(1 / (j + 1)) for j in range(num_classes)]
        return checked_counts(self.class_counts, num_classes)

    def remember(self, *structure: Tensor) -> None:
        """Take the checksum of integer tensors that say which class has which row."""
        self._checksum = 0
        for tensor in structure:
            self._checksum = zlib.crc32(tensor.cpu().contiguous().numpy().tobytes(), self._checksum)

    def get_extra_state(self) -> Tensor:
        """The checksum of the structure, as a 0-dim int64 tensor."""
        return torch.tensor(self._checksum)

    def set_extra_state(self, state: Tensor) -> None:
        """Compare with the checksum of a saved state.

        Raises:
            ValueError: that state was trained with another structure.
        """
        if int(state) != self._checksum:
            raise ValueError(
                f"the saved state of this {self.name!r} partition belongs to another arrangement of the classes; build "
                "the head with the options it was saved with (class_counts among them)"
            )

    def options(self) -> dict[str, Any]:
        """See `Partition.options`."""
        return {"name": self.name, "class_counts": self.class_counts if self.uses_class_counts else None}


def level_nll(head: "Head", features: "Features", weight: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
    """−log p of the target among the rows of one level, on margined scores: log Σ_j exp((z_j − f)/T), z_target = f.

    All scores are taken relative to f before the sum, so that a loss near 0 keeps its digits, and is exactly 0 where
    there is one row.

    Args:
        head: gives scores, margin and temperature.
        features: M samples.
        weight: (B, D) rows, B ≥ 1.
        bias: (B,) or None.
        target: (M,) int64 in [0, B).

    Returns:
        (M,) losses ≥ 0.
    """
    # Widened once, for both uses: gradients to a half-precision row meet in float32 and saturate as one sum.
    weight, bias = head.widened(weight, features), None if bias is None else head.widened(bias, features)
    margined = head.target_scores(features, weight[target], None if bias is None else bias[target])
    gaps = (head.scores(features, weight, bias) - margined.unsqueeze(1)) / head.temperature
    return gaps.scatter(1, target.unsqueeze(1), 0).logsumexp(1)


def level_log_p(head: "Head", features: "Features", weight: Tensor, bias: Tensor | None) -> Tensor:
    """(M, B) log p of each of the B rows of one level, without margin; arguments as in `level_nll`."""
    return (head.scores(features, weight, bias) / head.temperature).log_softmax(1)


def split_features(features: "Features", order: Tensor, sizes: list[int]) -> "list[Features]":
    """Samples in a given order, cut into runs of given sizes (in one step: cutting one by one is slow to undo).

    Args:
        features: M samples.
        order: (M,) int64, a permutation.
        sizes: non-negative, of sum M.
    """
    columns = [torch.split(column.index_select(0, order), sizes) for column in features]
    return [
        features._replace(vectors=vectors, unit=unit, length=length)
        for vectors, unit, length in zip(*columns, strict=True)
    ]


def select_samples(features: "Features", index: Tensor) -> "Features":
    """Samples at (P,) places, any number of times."""
    # Not index_select, whose backward on CUDA adds up the gradients of one sample in any order.
    return each_feature(features, lambda column: column[index])


def each_feature(features: "Features", change: Callable[[Tensor], Tensor]) -> "Features":
    """The same change of shape or order to all that is known of samples."""
    vectors, unit, length = features
    return features._replace(vectors=change(vectors), unit=change(unit), length=change(length))
