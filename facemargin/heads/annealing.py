"""The schedule of λ, which fades the angular margin of L-Softmax and A-Softmax in.

Owns the power law, its default for a run of a given length, and the diagnosis of a schedule that cannot work. The step
it is read at belongs to the head.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

LARGEST_USEFUL_LAMBDA = 20.0
"""Above this the margin's share 1/(1+λ) of the target score is under 5 %: no margin to speak of."""

LARGEST_STARTING_DROP = 0.8
"""The target score of a feature at θ = 90° starts this share of ‖x‖‖W_y‖ below the others at most.

Beyond it, shortening x and W lowers the loss faster than turning them does, and training stalls. On a small MNIST
recipe (300 steps) with λ constant, the error of L-Softmax, m from 1.35 to 5, followed this one number: 3 % up to 0.7,
6 % at 0.9, 13 to 17 % at 1, 30 % at 1.5, about 50 % at 2 (docs/results/mnist.md).
"""

_EARLY = 0.05
_LATE = 0.9


@dataclass(frozen=True, kw_only=True)
class Annealing:
    """λ(t) = max(minimum, base · (1 + gamma · t)^(−power)), with t the optimizer step.

    The target cosine is (λ·cosθ + ψ(θ)) / (1 + λ): λ large is plain softmax, λ = 0 the whole margin.

    Attributes:
        base: λ at step 0; finite, ≥ 0.
        gamma: how fast it falls, per step; finite, ≥ 0.
        power: exponent; finite, ≥ 0.
        minimum: floor of λ; finite, ≥ 0.

    Raises:
        ValueError: a value is out of its range.

    Source:
        L-Softmax, arXiv 1612.02295, and SphereFace, arXiv 1704.08063; the power law is that of their published
        networks.

    >>> sphereface = Annealing(base=1000, gamma=0.12, power=1, minimum=5)
    >>> [round(sphereface.at(t), 1) for t in (0, 100, 2000)]
    [1000.0, 76.9, 5.0]
    """

    base: float
    gamma: float
    power: float = 1.0
    minimum: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"annealing {name}={value!r} is out of range: it must be finite and ≥ 0")

    @classmethod
    def for_run(
        cls,
        total_steps: int,
        *,
        base: float = 1000.0,
        minimum: float = 5.0,
        power: float = 1.0,
        settled: float = 0.4,
        reaches: float | None = None,
    ) -> "Annealing":
        """The schedule whose λ falls from ``base`` to ``reaches`` within the fraction ``settled`` of a run.

        gamma = ((base / reaches)^(1/power) − 1) / (settled · total_steps)

        With power 1, 1/λ grows linearly, so the margin's share 1/(1+λ) does too, as long as λ ≫ 1: 5 % of the target
        score at a tenth of the run, 17 % (λ = 5, the paper's floor) at four tenths, and constant from there on.

        Args:
            total_steps: optimizer steps of the planned run, ≥ 1.
            base: λ at step 0, > ``reaches``.
            minimum: floor of λ.
            power: exponent, > 0.
            settled: fraction of the run after which λ is ``reaches``; in (0, 1].
            reaches: λ at that point, > 0; by default ``minimum``, or 1 (half margin) where that is smaller.

        Returns:
            The schedule.

        Raises:
            ValueError: a value is out of its range.

        >>> run = Annealing.for_run(2000)
        >>> [round(run.at(t), 1) for t in (0, 200, 800, 2000)]
        [1000.0, 19.7, 5.0, 5.0]
        """
        goal = max(minimum, 1.0) if reaches is None else reaches
        if total_steps < 1:
            raise ValueError(f"total_steps={total_steps!r} is out of range: a run has at least 1 step")
        if not 0 < settled <= 1:
            raise ValueError(f"settled={settled!r} is out of range: it is a fraction of the run in (0, 1]")
        if power <= 0:
            raise ValueError(f"power={power!r} is out of range: it must be > 0 for λ to fall")
        if not 0 < goal < base:
            raise ValueError(f"reaches={goal!r} is out of range: it must lie between 0 and base={base!r}")
        gamma = ((base / goal) ** (1 / power) - 1) / (settled * total_steps)
        return cls(base=base, gamma=gamma, power=power, minimum=minimum)

    def at(self, step: float) -> float:
        """λ at an optimizer step."""
        return max(float(self.minimum), self.base * math.pow(1 + self.gamma * step, -self.power))

    def at_tensor(self, step: Tensor, dtype: torch.dtype) -> Tensor:
        """λ at a step held on a device, as a 0-dim tensor there, without waiting for the device."""
        lambda_ = self.base * (1 + self.gamma * step.to(dtype)) ** -self.power
        return lambda_.clamp_min(self.minimum)

    def diagnose(self, total_steps: int, *, margin: float = 4.0) -> str | None:
        """Say why this schedule cannot work in a run of ``total_steps`` steps, or None if it can.

        Two things go wrong. λ is so small within the first twentieth of the run that the margin acts in full before
        features have left 90°: the target score starts −ψ(90°)/(1+λ) ≈ (m−1)/(1+λ) below the others, and for even m ψ
        is flat there, so that nothing but what λ leaves pulls at all. Or λ is so large until the last tenth of the run
        that the margin never acts. With m = 1 there is no margin and λ changes nothing.

        Args:
            total_steps: optimizer steps of the planned run, ≥ 1.
            margin: m ≥ 1 of the head.

        Raises:
            ValueError: ``total_steps`` is below 1.

        >>> mnist = Annealing(base=1000, gamma=2.5e-5, power=35)
        >>> print(mnist.diagnose(2000))
        λ is still 181 at the last step (2000): the margin's share 1/(1+λ) is 0.5 %, so it never acts; \
use Annealing.for_run(2000)
        >>> mnist.diagnose(20000) is None
        True
        """
        if total_steps < 1:
            raise ValueError(f"total_steps={total_steps!r} is out of range: a run has at least 1 step")
        if margin == 1:
            return None
        problem = self._at_the_start(total_steps, margin) or self._at_the_end(total_steps)
        if problem is None:
            return None
        default_works = Annealing.for_run(total_steps)._at_the_start(total_steps, margin) is None
        return f"{problem}; use " + (f"Annealing.for_run({total_steps})" if default_works else "a smaller margin")

    def _at_the_start(self, total_steps: int, margin: float) -> str | None:
        early = _EARLY * total_steps
        drop = -psi_at_right_angle(margin) / (1 + self.at(early))
        if drop <= LARGEST_STARTING_DROP:
            return None
        when = f"starts at {self.at(0):.3g}"
        if -psi_at_right_angle(margin) / (1 + self.at(0)) <= LARGEST_STARTING_DROP:
            when = f"has fallen to {self.at(early):.3g} within a twentieth of the run"
        if flat_at_right_angle(margin) and self.at(early) < 1:  # λ/(1+λ) is all the pull there is
            return (
                f"λ {when}: with margin {margin:g} the target score is flat at 90°, where random features start, so "
                "there is no gradient"
            )
        return (
            f"λ {when}: with margin {margin:g} the target score of random features, at 90°, starts {drop:.1f} times "
            "their length below the others, and features shrink instead of turning"
        )

    def _at_the_end(self, total_steps: int) -> str | None:
        end = self.at(total_steps)
        if end > LARGEST_USEFUL_LAMBDA:
            return (
                f"λ is still {end:.0f} at the last step ({total_steps}): the margin's share 1/(1+λ) is "
                f"{100 / (1 + end):.1f} %, so it never acts"
            )
        if self.at(_LATE * total_steps) > LARGEST_USEFUL_LAMBDA:
            return (
                f"λ is still {self.at(_LATE * total_steps):.0f} after nine tenths of the run ({total_steps} steps): "
                "the margin acts too late to be learned"
            )
        return None

    def options(self) -> dict[str, Any]:
        """The four numbers, for a manifest; ``Annealing(**options)`` gives the schedule back."""
        return asdict(self)


def psi_at_right_angle(margin: float) -> float:
    """ψ(90°): how far the whole margin lowers the target score of a feature that is at 90° to its class.

    >>> [round(psi_at_right_angle(m), 2) for m in (1, 1.5, 2, 3, 4, 5)]
    [0.0, -0.71, -1.0, -2.0, -3.0, -4.0]
    """
    joins_passed = min(math.floor(margin / 2), math.ceil(margin) - 1)
    return math.pow(-1, joins_passed) * math.cos(margin * math.pi / 2) - 2 * joins_passed


def flat_at_right_angle(margin: float) -> bool:
    """Whether |dψ/dc| = m·|sin(mθ)| at θ = 90° is below a tenth of the plain cosine's 1.

    >>> [m for m in (1, 1.5, 2, 3, 4, 5) if flat_at_right_angle(m)]
    [2, 4]
    """
    return margin * abs(math.sin(margin * math.pi / 2)) < 0.1
