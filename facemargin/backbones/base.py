"""What every backbone shares: its arguments, their ranges, its input check and its initial weights."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

MIN_SIDE = 32
"""Smallest input height or width; below it four halvings leave less than 2×2 positions for the embedding."""

HALVINGS = 4
"""Every backbone halves height and width four times (rounding up), so 112×112 ends as 7×7."""


def scaled(channels: int, width: float) -> int:
    """Number of channels times ``width``, rounded to a multiple of 8 and at least 8."""
    return max(8, int(channels * width / 8 + 0.5) * 8)


def final_size(input_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the last feature map for an input of ``input_size`` (H, W)."""
    height, width = (math.ceil(side / 2**HALVINGS) for side in input_size)
    return height, width


class Backbone(nn.Module):
    """An image network that maps normalised crops to raw embeddings.

    Args:
        embedding_dim: size D of the embedding, 1 or more.
        width: multiplier on every channel count (not on D), above 0; channels are rounded to multiples of 8.
        input_size: (height, width) of the crops in pixels, 32 or more each; multiples of 16 waste nothing.
        dropout: probability in [0, 1) with which features before the last projection are dropped in training.

    Shape:
        input (N, 3, H, W) floating point, normalised as ``facemargin.preprocessing`` does; output (N, D), not of unit
        length.

    Raises:
        ValueError: an argument out of its range, or an input whose shape is not (N, 3, H, W) for the given size.
    """

    name: ClassVar[str]

    def __init__(self, *, embedding_dim: int, width: float, input_size: tuple[int, int], dropout: float) -> None:
        super().__init__()
        if isinstance(embedding_dim, bool) or not isinstance(embedding_dim, int) or embedding_dim < 1:
            raise ValueError(f"embedding_dim must be an integer of 1 or more, got {embedding_dim!r}")
        if not (0 < width < math.inf):
            raise ValueError(f"width must be a finite number above 0, got {width!r}")
        if not (0 <= dropout < 1):
            raise ValueError(f"dropout must be in [0, 1), got {dropout!r}")
        sides = tuple(input_size)
        if len(sides) != 2 or any(not isinstance(side, int) or side < MIN_SIDE for side in sides):
            raise ValueError(f"input_size must be (height, width), integers of {MIN_SIDE} or more, got {input_size!r}")
        self.embedding_dim = embedding_dim
        self.width = float(width)
        self.input_size: tuple[int, int] = (sides[0], sides[1])
        self.dropout_p = float(dropout)

    def options(self) -> dict[str, Any]:
        """Name and arguments, as ``make_backbone(**options)`` takes them and as the bundle's manifest holds them."""
        return {
            "name": self.name,
            "embedding_dim": self.embedding_dim,
            "width": self.width,
            "input_size": list(self.input_size),
            "dropout": self.dropout_p,
        }

    def parts(self) -> dict[str, nn.Module]:
        """The network cut into named parts, from input to output; each parameter and each layer is in exactly one.

        What fine-tuning freezes and gives learning rates of their own. The parts share their layers with the network.
        The last one, ``embedding``, ends with the projection.
        """
        raise NotImplementedError

    def check_input(self, images: Tensor) -> None:
        """Refuse images of another shape than this network was built for."""
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.input_size):
            height, width = self.input_size
            raise ValueError(f"images must have shape (N, 3, {height}, {width}), got {tuple(images.shape)}")


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """He initialisation for convolutions (fan-out, PReLU slope .25), Xavier for linear layers, zero biases.

    Reference: K. He et al., "Delving deep into rectifiers", arXiv 1502.01852, equation 15 and section 2.2.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0.25, mode="fan_out", nonlinearity="leaky_relu")
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
