"""NormFace: features and class weights on the unit sphere, and a scale that is learned."""

import math
from typing import Any, Unpack

from .base import Head, HeadOptions
from .scale import PositiveScale

START_PROBABILITY = 0.99
"""The target probability that perfect features reach at the default starting scale."""


class NormFace(Head):
    """z_j = s cosθ_j; no margin.

    Args:
        embedding_dim: D ≥ 1.
        num_classes: C ≥ 1.
        scale: starting s > 0; by default the one at which perfect features reach a probability of 0.99.
        learn_scale: whether s is a parameter (positive by softplus, never decayed).
        **options: those of `Head`.

    Raises:
        ValueError: a value is out of its range.

    Source:
        Wang et al., arXiv 1704.06369 §3.

    >>> from facemargin.heads import make_head
    >>> head = make_head("normface", embedding_dim=4, num_classes=10_000)
    >>> round(head.scale.item(), 2)
    13.8
    """

    name = "normface"
    unit_features = True
    unit_weights = True

    scaling: PositiveScale

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        scale: float | None = None,
        learn_scale: bool = True,
        **options: Unpack[HeadOptions],
    ) -> None:
        scaling = PositiveScale(starting_scale(num_classes) if scale is None else scale, learn=learn_scale)
        super().__init__(embedding_dim, num_classes, scaling, **options)

    def _own_options(self) -> dict[str, Any]:
        return {"scale": self.scaling.start, "learn_scale": self.scaling.offset is not None}


def starting_scale(num_classes: int, probability: float = START_PROBABILITY) -> float:
    """The s at which ``probability`` is the most that features can reach: (C−1)/C · log(p(C−1)/(1−p)).

    It turns the paper's bound around: with C class centres spread evenly and every feature at its centre,
    p = 1 / (1 + (C − 1) exp(−s·C/(C − 1))). One class counts as two.

    Source:
        arXiv 1704.06369, Proposition 2.

    >>> round(starting_scale(2), 2)
    2.3
    """
    others = max(num_classes, 2) - 1
    return others / (others + 1) * math.log(probability * others / (1 - probability))
