"""L-Softmax: a multiplicative angular margin on plain inner products."""

from collections.abc import Mapping
from typing import Unpack

from .angular import AngularMargin
from .annealing import Annealing
from .base import HeadOptions

PAPER_ANNEALING = Annealing(base=1000, gamma=2.5e-5, power=35)
"""The schedule of the paper's MNIST network (20,000 steps); for another length use `LSoftmax.annealing_for_run`."""


class LSoftmax(AngularMargin):
    """z_j = ‖W_j‖‖x‖ cosθ_j, f_y = ‖W_y‖‖x‖ (λ cosθ_y + ψ(θ_y)) / (1 + λ); free features, free weights, no bias.

    Args:
        embedding_dim: D ≥ 1.
        num_classes: C ≥ 1.
        margin: m, any real ≥ 1; 1 is no margin.
        annealing: the schedule of λ, or its four numbers as a mapping; None is λ = 0.
        **options: those of `Head`.

    Raises:
        ValueError: a value is out of its range.

    Source:
        Liu et al., arXiv 1612.02295, eq. (4)-(6).

    >>> from facemargin.heads import make_head
    >>> head = make_head("l-softmax", embedding_dim=4, num_classes=3, margin=2)
    >>> head.current_lambda
    1000.0
    """

    name = "l-softmax"

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 4,
        annealing: Annealing | Mapping[str, float] | None = PAPER_ANNEALING,
        **options: Unpack[HeadOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, margin=margin, annealing=annealing, **options)

    @classmethod
    def annealing_for_run(cls, total_steps: int) -> Annealing:
        """λ from 1000 to 5 over the first 40 % of the run, then constant."""
        return Annealing.for_run(total_steps)
