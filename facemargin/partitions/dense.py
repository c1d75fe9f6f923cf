"""The plain partition: all N·C scores in memory. Exact, and the reference every other one is tested against."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .flat import ClassRows, ClassSums, Flat

if TYPE_CHECKING:
    from facemargin.heads.base import Features, Head


class Dense(Flat):
    """log Z from the whole (M, C) score matrix.

    The target's score is replaced before the log-sum-exp. Patching a finished float32 log-sum-exp instead loses
    everything: at cosθ = 0.6, s = 64 the other classes vanish in z_y, and a true loss of 0.46 comes out as 0.

    Cost: 2·M·C·D operations forward, 4·M·C·D backward; about three (M, C) matrices, and for unit rows a normalised copy
    of the (C, D) weight.

    Args: those of `Flat`.

    >>> from facemargin.heads import make_head
    >>> make_head("softmax", embedding_dim=2, num_classes=3, partition=Dense()).partition.name
    'dense'
    """

    name = "dense"

    def sums(self, head: "Head", features: "Features", rows: ClassRows, labels: Tensor) -> ClassSums:
        """Sums from the score matrix; see `Flat.sums`."""
        # Widened once, for both uses: gradients to a half-precision row meet in float32 and saturate as one sum.
        weight = head.widened(rows.weight, features)
        bias = None if rows.bias is None else head.widened(rows.bias, features)
        scores = head.scores(features, weight, bias) / head.temperature
        present, index = labels >= 0, labels.clamp_min(0)
        target = scores.gather(1, index.unsqueeze(1)).squeeze(1)
        if head.has_margin:
            own = None if bias is None else bias[index]
            margined = head.target_scores(features, weight[index], own) / head.temperature
            target = torch.where(present, margined, target)
            scores = scores.scatter(1, index.unsqueeze(1), target.unsqueeze(1))
        maximum = scores.detach().amax(1)
        log_sum = (scores - maximum.unsqueeze(1)).exp().sum(1).log()
        return ClassSums(maximum, log_sum, torch.where(present, target, 0), _weighted(head, scores, rows))


def _weighted(head: "Head", scores: Tensor, rows: ClassRows) -> Tensor | None:
    if head.label_smoothing == 0:
        return None
    return scores.sum(1) if rows.class_weights is None else scores @ rows.class_weights.to(scores.dtype)
