"""A positive scalar: the scale s of cosine heads and α of L2-Softmax, fixed or learned."""

import math

import torch
from torch import Tensor, nn

from .geometry import widen


class PositiveScale(nn.Module):
    """s = softplus(softplus⁻¹(start) + offset), with ``offset`` a parameter that starts at 0, or fixed s = start.

    Softplus, not exp: s stays positive, and for s ≫ 1 a step of the optimizer moves s by as much as it would move a
    plain parameter, while exp would multiply the step by s². The parameter is an offset so that the start is exact in
    every dtype.

    Args:
        start: initial value, finite and > 0.
        learn: whether it is a parameter.
        name: what to call it in an error message.

    Raises:
        ValueError: ``start`` is not finite and positive.

    >>> round(PositiveScale(30.0, learn=True)(torch.zeros(1)).item(), 4)
    30.0
    """

    offset: nn.Parameter | None

    def __init__(self, start: float, *, learn: bool, name: str = "scale") -> None:
        super().__init__()
        if not (math.isfinite(start) and start > 0):
            raise ValueError(f"{name}={start!r} is out of range: it must be finite and > 0")
        self.start = float(start)
        self._start_before_softplus = self.start + math.log(-math.expm1(-self.start))
        self.register_parameter("offset", nn.Parameter(torch.zeros(())) if learn else None)

    def forward(self, like: Tensor) -> Tensor:
        """The scale as a 0-dim tensor with the dtype and device of ``like``."""
        if self.offset is None:
            return torch.full((), self.start, dtype=like.dtype, device=like.device)
        # logaddexp and not F.softplus, which cuts over to the identity at 20 and is 1e-10 off there.
        raw = widen(self.offset, like.dtype) + self._start_before_softplus
        return torch.logaddexp(raw, torch.zeros_like(raw))
