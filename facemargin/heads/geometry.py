"""Norms, directions and angles with finite gradients everywhere, and the way in and out of half precision.

Owns the norm floor and the widening to float32. Knows nothing of margins, classes or losses.
"""

from typing import Any

import torch
from torch import Tensor

NORM_FLOOR = 1e-6
"""A vector shorter than this is divided by this instead of by its length, so that directions stay finite."""


def direction(vectors: Tensor) -> Tensor:
    """Unit vectors: v / max(‖v‖, NORM_FLOOR) over the last axis.

    Below the floor the map is linear, so its gradient is at most 1 / NORM_FLOOR and a zero vector stays zero.

    Args:
        vectors: (..., D) float32 or float64.

    Returns:
        (..., D), of length 1 wherever ‖v‖ ≥ NORM_FLOOR.

    >>> direction(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    squared = vectors.square().sum(-1, keepdim=True)
    return vectors / squared.clamp_min(NORM_FLOOR**2).sqrt()


ROUNDING_ULPS = 4
"""Two unit vectors made from parallel ones differ by rounding, by up to 1.6 machine epsilons whatever D (measured)."""


def length(vectors: Tensor, *, zero: float = 0.0) -> Tensor:
    """Euclidean length over the last axis, with subgradient 0 (not NaN) at the zero vector.

    Args:
        vectors: (..., D) float32 or float64.
        zero: vectors no longer than this count as zero vectors.

    Returns:
        (...,) lengths.

    >>> v = torch.zeros(1, 2, requires_grad=True)
    >>> length(v).sum().backward()
    >>> v.grad.tolist()
    [[0.0, 0.0]]
    """
    squared = vectors.square().sum(-1)
    nonzero = squared > zero**2
    # The inner where keeps sqrt away from 0, whose infinite slope would turn into 0·inf = NaN in backward.
    return torch.where(nonzero, torch.where(nonzero, squared, 1.0).sqrt(), 0.0)


def angle(unit_a: Tensor, unit_b: Tensor) -> Tensor:
    """Angle between unit vectors in radians, accurate at every angle: θ = 2·atan2(‖a − b‖, ‖a + b‖).

    acos(⟨a, b⟩) loses half of the digits near 0 and π and has an infinite slope there. This form does not. At 0 and π θ
    has a cone and no derivative; its subgradient there is 0. Angles within rounding of 0 and π (``ROUNDING_ULPS``) are
    0 and π, or parallel vectors of different lengths would get a gradient of full size in the direction of their
    rounding errors.

    Args:
        unit_a: (..., D) unit vectors.
        unit_b: (..., D) unit vectors.

    Returns:
        (...,) angles in [0, π].

    Source:
        W. Kahan, "How Futile are Mindless Assessments of Roundoff", §12.

    >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).item()
    1.5707963705062866
    """
    zero = ROUNDING_ULPS * torch.finfo(unit_a.dtype).eps
    return 2 * torch.atan2(length(unit_a - unit_b, zero=zero), length(unit_a + unit_b, zero=zero))


class _Widen(torch.autograd.Function):
    """To a wider dtype; on the way back the gradient saturates at the narrow dtype's largest value."""

    @staticmethod
    def forward(ctx: Any, narrow: Tensor, dtype: torch.dtype) -> Tensor:
        """Convert ``narrow`` to ``dtype``."""
        ctx.narrow_dtype = narrow.dtype
        return narrow.to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Clamp, then convert back: s/‖x‖ passes 65,504, and an infinite gradient would destroy the whole step."""
        largest = torch.finfo(ctx.narrow_dtype).max
        return gradients[0].clamp(-largest, largest).to(ctx.narrow_dtype), None


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype scores are computed in: the widest of the inputs, and at least float32.

    >>> compute_dtype(torch.zeros(1, dtype=torch.float16), torch.zeros(1, dtype=torch.bfloat16))
    torch.float32
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def widen(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert to ``dtype``; a half-precision input gets back a gradient that saturates instead of overflowing.

    Args:
        tensor: any floating dtype.
        dtype: float32 or float64.

    Returns:
        The tensor in ``dtype``; the very same tensor when it already is.

    >>> x = torch.ones(1, dtype=torch.float16, requires_grad=True)
    >>> (widen(x, torch.float32) * 1e6).sum().backward()
    >>> x.grad.item()
    65504.0
    """
    if tensor.dtype == dtype:
        return tensor
    apply: Any = _Widen.apply
    widened: Tensor = apply(tensor, dtype)
    return widened
