"""L2-Softmax: features on a sphere of radius α, free class weights, bias."""

import math
from typing import Any, Unpack

from .base import Head, HeadOptions
from .scale import PositiveScale

BOUND_PROBABILITY = 0.9
"""The p of the paper's lower bound on α."""


class L2Softmax(Head):
    """z_j = α⟨W_j, x̂⟩ + b_j; no margin.

    Args:
        embedding_dim: D ≥ 1.
        num_classes: C ≥ 1.
        alpha: radius α > 0; by default the paper's lower bound log(p(C − 2)/(1 − p)) with p = 0.9, which needs C ≥ 3.
        learn_alpha: whether α is a parameter (positive by softplus, never decayed).
        **options: those of `Head`.

    Raises:
        ValueError: a value is out of its range, or C ≤ 2 without an explicit ``alpha``.

    Source:
        Ranjan et al., arXiv 1703.09507 §4.

    >>> from facemargin.heads import make_head
    >>> round(make_head("l2-softmax", embedding_dim=4, num_classes=10_000).scale.item(), 2)
    11.41
    """

    name = "l2-softmax"
    unit_features = True
    has_bias = True

    scaling: PositiveScale

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        alpha: float | None = None,
        learn_alpha: bool = False,
        **options: Unpack[HeadOptions],
    ) -> None:
        start = alpha_lower_bound(num_classes) if alpha is None else alpha
        scaling = PositiveScale(start, learn=learn_alpha, name="alpha")
        super().__init__(embedding_dim, num_classes, scaling, **options)

    def _own_options(self) -> dict[str, Any]:
        return {"alpha": self.scaling.start, "learn_alpha": self.scaling.offset is not None}


def alpha_lower_bound(num_classes: int, probability: float = BOUND_PROBABILITY) -> float:
    """The paper's default α, log(p(C − 2)/(1 − p)): p of a feature on its own unit row, C − 2 others at right angles.

    Raises:
        ValueError: ``num_classes`` ≤ 2, where the bound is not defined.

    >>> round(alpha_lower_bound(3332), 2)
    10.31
    """
    if num_classes <= 2:
        raise ValueError(
            f"alpha=None is out of range for num_classes={num_classes}: its default log(p(C − 2)/(1 − p)) needs at "
            "least 3 classes; give alpha > 0"
        )
    return math.log(probability * (num_classes - 2) / (1 - probability))
