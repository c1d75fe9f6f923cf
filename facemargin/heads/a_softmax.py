"""A-Softmax (SphereFace): a multiplicative angular margin, class weights on the unit sphere."""

from collections.abc import Mapping
from typing import Unpack

from .angular import AngularMargin
from .annealing import Annealing
from .base import HeadOptions

PAPER_ANNEALING = Annealing(base=1000, gamma=0.12, power=1, minimum=5)
"""SphereFace's schedule (28,000 steps); for another length use `ASoftmax.annealing_for_run`."""


class ASoftmax(AngularMargin):
    """z_j = ‖x‖ cosθ_j, f_y = ‖x‖ (λ cosθ_y + ψ(θ_y)) / (1 + λ); free features, unit weights, no bias.

    Args:
        embedding_dim: D ≥ 1.
        num_classes: C ≥ 1.
        margin: m, any real ≥ 1; 1 is no margin.
        annealing: the schedule of λ, or its four numbers as a mapping; None is λ = 0.
        **options: those of `Head`.

    Raises:
        ValueError: a value is out of its range.

    Source:
        Liu et al., SphereFace, arXiv 1704.08063 §3.2.

    >>> from facemargin.heads import make_head
    >>> head = make_head("a-softmax", embedding_dim=4, num_classes=3, annealing=None)
    >>> print(head.diagnose(1000))
    λ starts at 0: with margin 4 the target score is flat at 90°, where random features start, so there is no \
gradient; use Annealing.for_run(1000)
    """

    name = "a-softmax"
    unit_weights = True

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
        """λ from 1000 to the paper's floor of 5 over the first 40 % of the run, then constant."""
        return Annealing.for_run(total_steps)
