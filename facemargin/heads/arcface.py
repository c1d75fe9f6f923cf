"""ArcFace: an additive margin on the angle."""

import math
from typing import Any, Unpack

import torch
from torch import Tensor

from .base import Features, Head, HeadOptions
from .geometry import angle, direction
from .scale import PositiveScale


class ArcFace(Head):
    """z_j = s cosθ_j, f_y = s cos(θ_y + m); unit features, unit weights, no bias.

    Past π the cosine would rise again; there f_y = s (−cos(θ_y + m) − 2), which is continuous with its derivative, so
    f_y falls monotonically over all of [0, π]. The gradient is the true one, through the angle.

    Args:
        embedding_dim: D ≥ 1.
        num_classes: C ≥ 1.
        scale: s > 0.
        margin: m in radians, in [0, π]; 0 is no margin.
        learn_scale: whether s is a parameter (positive by softplus, never decayed).
        **options: those of `Head`.

    Raises:
        ValueError: a value is out of its range.

    Source:
        Deng et al., ArcFace, arXiv 1801.07698, eq. (3); the continuation past π is ours.

    >>> from facemargin.heads import make_head
    >>> head = make_head("arcface", embedding_dim=2, num_classes=1)
    >>> head(torch.ones(1, 2), torch.tensor([0])).item()
    0.0
    """

    name = "arcface"
    unit_features = True
    unit_weights = True

    scaling: PositiveScale

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        scale: float = 64.0,
        margin: float = 0.5,
        learn_scale: bool = False,
        **options: Unpack[HeadOptions],
    ) -> None:
        if not 0 <= margin <= math.pi:
            raise ValueError(f"margin={margin!r} is out of range: {self.name} adds m in [0, π] radians to the angle")
        scaling = PositiveScale(scale, learn=learn_scale)
        super().__init__(embedding_dim, num_classes, scaling, **options)
        self.margin = float(margin)

    def margined_scores(self, features: Features, weight: Tensor) -> Tensor:
        """f_y; see `Head.margined_scores`."""
        margined = angle(features.unit, direction(weight)) + self.margin
        cosine = margined.cos()
        return features.length * torch.where(margined <= math.pi, cosine, -cosine - 2)

    def _own_options(self) -> dict[str, Any]:
        return {"scale": self.scaling.start, "margin": self.margin, "learn_scale": self.scaling.offset is not None}
