"""What L-Softmax and A-Softmax share: the multiplicative angular margin m·θ, faded in by λ."""

import math
from collections.abc import Mapping
from typing import Any, Unpack

from torch import Tensor

from .annealing import Annealing
from .base import Features, Head, HeadOptions
from .geometry import direction, length
from .psi import psi


class AngularMargin(Head):
    """f_y = (λ z_y + ‖x‖‖W_y‖ ψ(θ_y)) / (1 + λ), with ‖W_y‖ = 1 where weights are unit.

    ψ(θ) = (−1)^k cos(mθ) − 2k for θ in [kπ/m, (k+1)π/m]: cosine run through m times as fast, each piece hung below the
    last so that the whole falls monotonically.

    Args:
        embedding_dim: D ≥ 1.
        num_classes: C ≥ 1.
        margin: m, any real ≥ 1; 1 is no margin.
        annealing: the schedule of λ, or its four numbers as a mapping; None is λ = 0.
        **options: those of `Head`.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float,
        annealing: Annealing | Mapping[str, float] | None,
        **options: Unpack[HeadOptions],
    ) -> None:
        if not (math.isfinite(margin) and margin >= 1):
            raise ValueError(f"margin={margin!r} is out of range: {self.name} multiplies the angle by a real m ≥ 1")
        super().__init__(embedding_dim, num_classes, **options)
        self.margin = float(margin)
        self.annealing = Annealing(**annealing) if isinstance(annealing, Mapping) else annealing

    def margined_scores(self, features: Features, weight: Tensor) -> Tensor:
        """f_y; see `Head.margined_scores`."""
        unit_rows = direction(weight)
        cosine = (features.unit * unit_rows).sum(-1)
        margined = features.length * psi(cosine, features.unit, unit_rows, self.margin)
        if not self.unit_weights:
            margined = margined * length(weight)
        if self.annealing is None:
            return margined
        # A fresh tensor each forward: a later `advance` cannot change the λ that backward uses.
        lambda_ = self.annealing.at_tensor(self.step, margined.dtype)
        return (lambda_ * self.paired_scores(features, weight) + margined) / (1 + lambda_)

    def diagnose(self, total_steps: int) -> str | None:
        """Say why λ leaves no gradient at the start or no margin at the end of a run, or None if it does neither."""
        schedule = self.annealing or Annealing(base=0, gamma=0)
        return schedule.diagnose(total_steps, margin=self.margin)

    def _own_options(self) -> dict[str, Any]:
        annealing = None if self.annealing is None else self.annealing.options()
        return {"margin": self.margin, "annealing": annealing}
