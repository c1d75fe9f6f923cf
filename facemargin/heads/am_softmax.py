"""AM-Softmax (CosFace): an additive margin on the cosine."""

import math
from typing import Any, Unpack

from torch import Tensor

from .base import Features, Head, HeadOptions
from .scale import PositiveScale


class AMSoftmax(Head):
    """z_j = s cosθ_j, f_y = s (cosθ_y − m); unit features, unit weights, no bias.

    Args:
        embedding_dim: D ≥ 1.
        num_classes: C ≥ 1.
        scale: s > 0.
        margin: m ≥ 0, in units of cosine; 0 is no margin.
        learn_scale: whether s is a parameter (positive by softplus, never decayed).
        **options: those of `Head`.

    Raises:
        ValueError: a value is out of its range.

    Source:
        Wang et al., AM-Softmax, arXiv 1801.05599 §3; Wang et al., CosFace, arXiv 1801.09414 §3.1.

    >>> from facemargin.heads import make_head
    >>> head = make_head("am-softmax", embedding_dim=2, num_classes=1, scale=30.0, margin=0.35)
    >>> head(torch.ones(1, 2), torch.tensor([0])).item()
    0.0
    """

    name = "am-softmax"
    unit_features = True
    unit_weights = True

    scaling: PositiveScale

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        scale: float = 30.0,
        margin: float = 0.35,
        learn_scale: bool = False,
        **options: Unpack[HeadOptions],
    ) -> None:
        if not (math.isfinite(margin) and margin >= 0):
            raise ValueError(f"margin={margin!r} is out of range: {self.name} subtracts a finite m ≥ 0 from the cosine")
        scaling = PositiveScale(scale, learn=learn_scale)
        super().__init__(embedding_dim, num_classes, scaling, **options)
        self.margin = float(margin)

    def margined_scores(self, features: Features, weight: Tensor) -> Tensor:
        """f_y; see `Head.margined_scores`."""
        return self.paired_scores(features, weight) - features.length * self.margin

    def _own_options(self) -> dict[str, Any]:
        return {"scale": self.scaling.start, "margin": self.margin, "learn_scale": self.scaling.offset is not None}
