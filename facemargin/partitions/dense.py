"""The plain partition: all N·C scores in memory. Exact, and the reference every other one is tested against."""

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from .base import Partition, SampleLosses

if TYPE_CHECKING:
    from facemargin.heads.base import Features, Head


class Dense(Partition):
    """log Z = log(exp(f_y/T) + Σ_{j≠y} exp(z_j/T)) from the whole (M, C) score matrix.

    The target's score is replaced before the log-sum-exp. Patching a finished float32 log-sum-exp instead loses
    everything: at cosθ = 0.6, s = 64 the other classes vanish in z_y, and a true loss of 0.46 comes out as 0.

    Cost: 2·M·C·D operations forward, 4·M·C·D backward; about three (M, C) matrices.

    >>> from facemargin.heads import make_head
    >>> make_head("softmax", embedding_dim=2, num_classes=3, partition=Dense()).partition.name
    'dense'
    """

    name = "dense"

    def losses(self, head: "Head", features: "Features", labels: Tensor) -> SampleLosses:
        """Exact losses; see `Partition.losses`."""
        scores = head.scores(features, head.weight, head.bias)
        index = labels.unsqueeze(1)
        if head.has_margin:
            bias = None if head.bias is None else head.bias[labels]
            target = head.target_scores(features, head.weight[labels], bias)
            scores = scores.scatter(1, index, target.unsqueeze(1))
        scores = scores / head.temperature
        log_p = F.log_softmax(scores, dim=1)
        nll = -log_p.gather(1, index).squeeze(1)
        log_normaliser = scores.detach().gather(1, index).squeeze(1) + nll.detach()
        return SampleLosses(nll, self._over_classes(head, log_p), log_normaliser)

    def logits(self, head: "Head", features: "Features") -> Tensor:
        """(M, C) scores; see `Partition.logits`."""
        return head.scores(features, head.weight, head.bias)

    @staticmethod
    def _over_classes(head: "Head", log_p: Tensor) -> Tensor | None:
        if head.label_smoothing == 0:
            return None
        if head.class_weights is None:
            return -log_p.sum(1)
        return -log_p @ head.class_weights.to(log_p.dtype)
