"""A moving average of the backbone's weights, which is what an averaged run validates and exports."""

from collections.abc import Callable

import torch
from torch.optim.swa_utils import AveragedModel

from facemargin.backbones import Backbone

_MODULE = "module."  # where AveragedModel keeps the averaged network
_Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def decay_at(decay: float, updates: int) -> float:
    """Decay of an update: min(decay, (1 + t)/(10 + t)), so that the start is forgotten fast.

    Args:
        decay: of a long run, in (0, 1).
        updates: t ≥ 1, the number of updates before this one; the first, t = 0, copies the weights.
    """
    return min(decay, (1 + updates) / (10 + updates))


def averaged(backbone: Backbone, decay: float) -> AveragedModel:
    """An exponential moving average of a backbone's weights and batch-norm statistics.

    θ̄ ← d·θ̄ + (1 − d)·θ after each optimizer step, d from `decay_at`; counters are copied, and so is all of the first
    step. The backbone must be the one that `torch.compile` was given, not the compiled one.

    Source: Polyak and Juditsky, 1992; the exponential form and its warm-up as in TensorFlow's ExponentialMovingAverage.
    """
    return AveragedModel(backbone, multi_avg_fn=_update(decay), use_buffers=True)


def averaged_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The backbone's state dict in the state dict of its average."""
    return {key.removeprefix(_MODULE): value for key, value in state.items() if key.startswith(_MODULE)}


def _update(decay: float) -> Callable[[_Tensors, _Tensors, torch.Tensor | int], None]:
    @torch.no_grad()
    def update(average: _Tensors, current: _Tensors, updates: torch.Tensor | int) -> None:
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, current, 1 - decay_at(decay, int(updates)))  # as PyTorch's own average does
        else:
            torch._foreach_copy_(average, current)

    return update
