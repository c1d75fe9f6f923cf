"""A batch in parts whose losses add up to that of the whole: a weighted mean is a sum of weighted means."""

from collections.abc import Sequence

import torch
from torch import Tensor

from facemargin.heads import BatchLosses
from facemargin.partitions.sharded import shard_range
from training.ranks import Ranks


def spans_of(samples: int, parts: int) -> list[slice]:
    """Where each part of a batch lies; sizes differ by at most one.

    >>> spans_of(5, 2)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    return [slice(*shard_range(samples, number, parts)) for number in range(parts)]


def shares_of(labels: Sequence[Tensor], class_weights: Tensor | None, ranks: Ranks) -> list[float]:
    """What the loss of each part counts for in that of the batch: Σ w of the part over Σ w of the batch, of all ranks.

    A head divides by 1 where the weights of a part are all 0, and so the sum itself counts there.

    Args:
        labels: int64 (n,) of this rank's samples in each part.
        class_weights: (C,) of the head, or None where all are 1.
        ranks: who has the other samples of each part; a collective call where there is more than one part.
    """
    if len(labels) == 1:
        return [1.0]
    own = [
        float(len(part)) if class_weights is None else float(class_weights[part.to(class_weights.device)].sum())
        for part in labels
    ]
    sums = ranks.sum(torch.tensor(own, dtype=torch.float64))
    total = float(sums.sum())
    shares: list[float] = (torch.where(sums > 0, sums, 1.0) / (total if total > 0 else 1.0)).tolist()
    return shares


def added_up(parts: Sequence[BatchLosses]) -> BatchLosses:
    """The losses of a batch from those of its parts, whose means are already multiplied by their shares."""
    if len(parts) == 1:
        return parts[0]
    return BatchLosses(
        torch.stack([part.loss for part in parts]).sum(),
        torch.cat([part.nll for part in parts]),
        torch.cat([part.counted for part in parts]),
    )
