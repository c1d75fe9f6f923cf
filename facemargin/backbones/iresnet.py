"""IResNet: the improved residual network of ArcFace, for small aligned faces.

Each unit is BN-conv-BN-PReLU-conv-BN, the stem keeps the full resolution (3×3, stride 1), the first unit of each of the
four stages halves it, and the embedding leaves through BN-dropout-FC-BN.

Reference: J. Deng et al., "ArcFace", arXiv 1801.07698, section 3.1; units after D. Han et al., arXiv 1610.02915.
"""

import itertools
from typing import ClassVar

from torch import Tensor, nn

from facemargin.backbones.base import Backbone, final_size, initialise, scaled

STAGE_CHANNELS = (64, 128, 256, 512)


class Unit(nn.Module):
    """One residual unit: BN, 3×3 convolution, BN, PReLU, 3×3 convolution (strided), BN; plus the shortcut.

    Shape:
        input (N, channels_in, H, W); output (N, channels_out, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.PReLU(channels_out),
            nn.Conv2d(channels_out, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Sum of the transformed and the passed-on features."""
        out: Tensor = self.body(features) + self.shortcut(features)
        return out


class IResNet(Backbone):
    """Improved residual network; the depth is the subclass's ``units``. Arguments as in ``Backbone``.

    The scale of the last batch normalisation is learned, so that heads with free feature norms (``softmax``,
    ``a-softmax``) can choose the norm.
    """

    units: ClassVar[tuple[int, int, int, int]]

    def __init__(
        self,
        *,
        embedding_dim: int = 512,
        width: float = 1.0,
        input_size: tuple[int, int] = (112, 112),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(embedding_dim=embedding_dim, width=width, input_size=input_size, dropout=dropout)
        channels = scaled(STAGE_CHANNELS[0], width)
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.PReLU(channels)
        )
        layers: list[nn.Module] = []
        for stage_channels, count in zip(STAGE_CHANNELS, self.units, strict=True):
            for position in range(count):
                channels_out = scaled(stage_channels, width)
                layers.append(Unit(channels, channels_out, stride=2 if position == 0 else 1))
                channels = channels_out
        self.stages = nn.Sequential(*layers)
        height, breadth = final_size(self.input_size)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(channels * height * breadth, embedding_dim)
        self.embedding_norm = nn.BatchNorm1d(embedding_dim)
        initialise(self)

    def parts(self) -> dict[str, nn.Module]:
        """``stem``, ``stage1`` to ``stage4``, ``embedding``; see `Backbone.parts`."""
        ends = list(itertools.accumulate(self.units))
        stages = {
            f"stage{number}": self.stages[end - count : end]
            for number, (count, end) in enumerate(zip(self.units, ends, strict=True), start=1)
        }
        last = nn.ModuleList([self.norm, self.dropout, self.projection, self.embedding_norm])
        return {"stem": self.stem, **stages, "embedding": last}

    def forward(self, images: Tensor) -> Tensor:
        """Raw embeddings (N, D) of images (N, 3, H, W)."""
        self.check_input(images)
        features = self.dropout(self.norm(self.stages(self.stem(images))))
        out: Tensor = self.embedding_norm(self.projection(features.flatten(1)))
        return out


class IResNet18(IResNet):
    """IResNet with 2, 2, 2, 2 units."""

    name = "iresnet18"
    units = (2, 2, 2, 2)


class IResNet34(IResNet):
    """IResNet with 3, 4, 6, 3 units."""

    name = "iresnet34"
    units = (3, 4, 6, 3)


class IResNet50(IResNet):
    """IResNet with 3, 4, 14, 3 units."""

    name = "iresnet50"
    units = (3, 4, 14, 3)


class IResNet100(IResNet):
    """IResNet with 3, 13, 30, 3 units."""

    name = "iresnet100"
    units = (3, 13, 30, 3)
