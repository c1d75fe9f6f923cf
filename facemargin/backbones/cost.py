"""What a backbone costs: parameters and multiply-adds, counted by running it once."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """Size and work of a network.

    Attributes:
        parameters: learned numbers (batch normalisation's running statistics are not among them).
        multiply_adds: multiplications with an addition in convolutions and linear layers, for one image.
    """

    parameters: int
    multiply_adds: int


def layer_multiply_adds(layer: nn.Module, output: Tensor) -> int:
    """Multiply-adds of a convolution or linear layer that gave ``output`` for one image (bias not counted).

    Each output number is a dot product over one filter: kernel height × width × input channels per group.
    """
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"layer must have a weight tensor, got {type(layer).__name__}")
    return output.numel() * (weight.numel() // weight.shape[0])


def count_cost(module: nn.Module, input_size: tuple[int, int]) -> Cost:
    """Parameters, and multiply-adds of convolutions and linear layers for one image of ``input_size`` (H, W).

    Normalisation and activations are left out, as published figures do.

    >>> count_cost(nn.Conv2d(3, 8, 3, padding=1, bias=False), (10, 10))
    Cost(parameters=216, multiply_adds=21600)
    """
    total = 0

    def add(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        total += layer_multiply_adds(layer, output)

    hooks = [x.register_forward_hook(add) for x in module.modules() if isinstance(x, nn.Conv2d | nn.Linear)]
    was_training = module.training
    example = next(module.parameters())
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(1, 3, *input_size, device=example.device, dtype=example.dtype))
    finally:
        module.train(was_training)
        for hook in hooks:
            hook.remove()
    return Cost(sum(parameter.numel() for parameter in module.parameters()), total)
