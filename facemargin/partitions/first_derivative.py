"""Gradients that may be used but not differentiated again, for partitions whose backward leaves the graph."""

from typing import Any

import torch
from torch import Tensor


def first_only(partition: str, why: str, sources: tuple[Tensor | None, ...], *found: Tensor | None) -> Any:
    """Gradients handed on unchanged, whose own derivative is an error and not silently wrong.

    Called at the end of an autograd function's backward.

    Args:
        partition: its name.
        why: what stands in the way.
        sources: tensors that the gradients depend on.
        *found: the gradients, computed without graph.

    Returns:
        ``found``, as a tuple.
    """
    if not torch.is_grad_enabled():
        return found
    apply: Any = _Final.apply
    return apply(f"partition {partition!r} has no second derivative: {why}", len(sources), *sources, *found)


class _Final(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, message: str, sources: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.message = message
        return tensors[sources:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(f"{ctx.message}; use partition 'dense' to differentiate gradients")
