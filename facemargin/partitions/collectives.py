"""What processes tell each other during a step, with the gradients that belong to it. Owns no mathematics of classes.

Every function is a collective call: all ranks of the group make it, in the same order. Without an initialised process
group there is one process, and nothing is sent.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .first_derivative import first_only

Group = dist.ProcessGroup | None
"""A process group; None is the default group."""

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def world(group: Group = None) -> tuple[int, int]:
    """Rank and number of processes; (0, 1) where torch.distributed is not initialised. Sends nothing.

    >>> world()
    (0, 1)
    """
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def gather_numbers(numbers: Sequence[int], device: torch.device, group: Group = None) -> list[list[int]]:
    """The integers of each rank. Waits for the device.

    Args:
        numbers: as many on every rank.
        device: one that the group can send from: nccl needs CUDA.
        group: the processes.

    >>> gather_numbers((4, 2), torch.device("cpu"))
    [[4, 2]]
    """
    own = torch.tensor([int(number) for number in numbers], dtype=torch.int64, device=device)
    _, ranks = world(group)
    if ranks == 1:
        return [own.tolist()]
    told = [torch.empty_like(own) for _ in range(ranks)]
    dist.all_gather(told, own, group=group)
    found: list[list[int]] = torch.stack(told).tolist()
    return found


def gather_rows(rows: Tensor, sizes: Sequence[int], group: Group = None) -> Tensor:
    """The rows of all ranks, one rank after the other, without gradient.

    Args:
        rows: (M_r, ...) of the same dtype on every rank; M_r may differ between ranks and be 0.
        sizes: M_r of each rank.
        group: the processes.

    Returns:
        (Σ M_r, ...).
    """
    _, ranks = world(group)
    if ranks == 1:
        return rows
    # All ranks send blocks of one size: gloo has no gather of different ones.
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    blocks = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(blocks, padded, group=group)
    return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])


def gather_batch(rows: Tensor, group: Group = None, *, factor: float = 1.0) -> tuple[Tensor, list[int]]:
    """The rows of all ranks; the gradient of a rank's own rows is ``factor`` times what arrives for them there.

    Where the rows of one rank need a gradient, those of all come back as if they did, and where dtypes differ, in the
    widest: a rank with an empty batch made by hand goes through the same messages as the others, also in backward.

    Args:
        rows: (M_r, D), M_r may differ between ranks and be 0.
        group: the processes.
        factor: what the gradient is multiplied by; in half precision the product saturates.

    Returns:
        (Σ M_r, D) rows, and M_r of each rank.
    """
    if world(group)[1] == 1:
        return rows, [len(rows)]
    numbers = (len(rows), rows.requires_grad, _FLOATS.index(rows.dtype))
    sizes, needed, dtypes = (list(told) for told in zip(*gather_numbers(numbers, rows.device, group), strict=True))
    rows = rows.to(reduce(torch.promote_types, (_FLOATS[dtype] for dtype in dtypes)))
    if any(needed) and not rows.requires_grad:
        rows = rows.detach().requires_grad_()
    apply: Any = _GatherBatch.apply
    return apply(rows, sizes, group, factor), sizes


def sum_over_ranks(values: Tensor, group: Group = None) -> Tensor:
    """Σ over ranks, with the gradient of the sum handed to each rank's term as it is.

    That is right where every rank computes the same loss from the sum, so that the gradient arriving at it is the same
    everywhere and no second exchange is needed.
    """
    apply: Any = _SumOverRanks.apply
    summed: Tensor = values if world(group)[1] == 1 else apply(values, group)
    return summed


def largest_over_ranks(values: Tensor, group: Group = None) -> Tensor:
    """Maximum over ranks, without gradient."""
    largest = values.detach().clone()
    if world(group)[1] > 1:
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    return largest


def shared(tensors: tuple[Tensor, ...], group: Group = None) -> tuple[Tensor, ...]:
    """The same tensors on every rank, whose gradient is the sum of what each rank's part of the work contributes."""
    if world(group)[1] == 1:
        return tensors
    apply: Any = _Shared.apply
    passed: tuple[Tensor, ...] = apply(group, *tensors)
    return passed


# Second derivatives would need messages of their own, so all of these refuse them: a silent one would be wrong.
_WHY = "with several ranks it would need messages of its own"


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Group) -> Tensor:
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return (*first_only("sharded", _WHY, gradients, gradients[0].detach()), None)


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Group, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # One message for all of them: with one each, ranks might send them in different orders and wait for ever.
        with torch.no_grad():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat, group=ctx.group)
            parts = flat.split_with_sizes([gradient.numel() for gradient in gradients])
            found = [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
        return (None, *first_only("sharded", _WHY, gradients, *found))


class _GatherBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], group: Group, factor: float) -> Tensor:
        start = sum(sizes[: world(group)[0]])
        ctx.own, ctx.factor = slice(start, start + len(rows)), factor
        return gather_rows(rows, sizes, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        with torch.no_grad():
            own = gradients[0][ctx.own]
            largest = torch.finfo(own.dtype).max
            wide = own.to(torch.promote_types(own.dtype, torch.float32)) * ctx.factor
            found = wide.clamp(-largest, largest).to(own.dtype)
        return (*first_only("sharded", _WHY, gradients, found), None, None, None)
