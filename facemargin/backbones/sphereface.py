"""SphereFace-20: twenty convolutions with PReLU, residual pairs and no batch normalisation.

Reference: W. Liu et al., "SphereFace", arXiv 1704.08063, table 2, column "20-layer CNN". The paper's crops are 112×96.
"""

import itertools

import torch
from torch import Tensor, nn

from facemargin.backbones.base import Backbone, final_size, scaled

STAGES = ((64, 1), (128, 2), (256, 4), (512, 1))
"""Channels and number of residual pairs of each stage; each begins with a 3×3 convolution of stride 2."""

PAIR_STD = 0.01
"""Standard deviation of a residual pair's first weights, as in the authors' network: pairs begin near identity."""


class Pair(nn.Module):
    """Two 3×3 convolutions with PReLU, added to their input.

    Shape:
        input and output (N, channels, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.PReLU(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features plus what the two convolutions add."""
        out: Tensor = features + self.body(features)
        return out


class SphereFace20(Backbone):
    """The 20-layer network of SphereFace. Arguments as in ``Backbone``; the paper has no dropout."""

    name = "sphereface20"

    def __init__(
        self,
        *,
        embedding_dim: int = 512,
        width: float = 1.0,
        input_size: tuple[int, int] = (112, 112),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(embedding_dim=embedding_dim, width=width, input_size=input_size, dropout=dropout)
        channels = 3
        layers: list[nn.Module] = []
        for stage_channels, pairs in STAGES:
            channels_out = scaled(stage_channels, width)
            layers += [nn.Conv2d(channels, channels_out, 3, 2, 1), nn.PReLU(channels_out)]
            layers += [Pair(channels_out) for _ in range(pairs)]
            channels = channels_out
        height, breadth = final_size(self.input_size)
        self.body = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(channels * height * breadth, embedding_dim)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        for layer in self.modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            if layer.bias is None:  # only the convolutions of residual pairs have no bias
                nn.init.normal_(layer.weight, std=PAIR_STD)
            else:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def parts(self) -> dict[str, nn.Module]:
        """``stage1`` to ``stage4``, ``embedding``; see `Backbone.parts`."""
        counts = [2 + pairs for _, pairs in STAGES]  # convolution, PReLU, pairs
        ends = itertools.accumulate(counts)
        stages = {
            f"stage{number}": self.body[end - count : end]
            for number, (count, end) in enumerate(zip(counts, ends, strict=True), start=1)
        }
        return {**stages, "embedding": nn.ModuleList([self.dropout, self.projection])}

    def forward(self, images: Tensor) -> Tensor:
        """Raw embeddings (N, D) of images (N, 3, H, W)."""
        self.check_input(images)
        out: Tensor = self.projection(self.dropout(self.body(images)).flatten(1))
        return out
