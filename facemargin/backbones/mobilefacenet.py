"""MobileFaceNet: inverted residual bottlenecks and a global depthwise convolution, one million parameters.

Reference: S. Chen et al., "MobileFaceNets", arXiv 1804.07573, table 1.
"""

import itertools

from torch import Tensor, nn

from facemargin.backbones.base import Backbone, final_size, initialise, scaled

BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
"""Rows of table 1: expansion, output channels, repetitions, stride of the first repetition."""

STEM_LAYERS = 2
"""Convolutions before the bottlenecks: the strided one and the depthwise one."""


def convolution(
    channels_in: int, channels_out: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, linear: bool = False
) -> nn.Sequential:
    """Convolution with batch normalisation and, unless ``linear``, a PReLU per channel."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
    ]
    if not linear:
        layers.append(nn.PReLU(channels_out))
    return nn.Sequential(*layers)


class Bottleneck(nn.Module):
    """Inverted residual: 1×1 expansion, 3×3 depthwise, linear 1×1 projection; a shortcut where the shape stays.

    Shape:
        input (N, channels_in, H, W); output (N, channels_out, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.residual = stride == 1 and channels_in == channels_out
        self.body = nn.Sequential(
            convolution(channels_in, hidden),
            convolution(hidden, hidden, 3, stride=stride, groups=hidden),
            convolution(hidden, channels_out, linear=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Transformed features, added to the input where the shapes agree."""
        out: Tensor = self.body(features)
        return features + out if self.residual else out


class MobileFaceNet(Backbone):
    """MobileFaceNet; the last map is weighed position by position (global depthwise convolution), not averaged.

    Arguments as in ``Backbone``. ``dropout`` is not in the paper and is off by default. The paper's D is 128.
    """

    name = "mobilefacenet"

    def __init__(
        self,
        *,
        embedding_dim: int = 512,
        width: float = 1.0,
        input_size: tuple[int, int] = (112, 112),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(embedding_dim=embedding_dim, width=width, input_size=input_size, dropout=dropout)
        channels = scaled(64, width)
        layers: list[nn.Module] = [
            convolution(3, channels, 3, stride=2),
            convolution(channels, channels, 3, groups=channels),
        ]
        for expansion, row_channels, repetitions, stride in BOTTLENECKS:
            for position in range(repetitions):
                channels_out = scaled(row_channels, width)
                step = stride if position == 0 else 1
                layers.append(Bottleneck(channels, channels_out, stride=step, expansion=expansion))
                channels = channels_out
        hidden = scaled(512, width)
        layers.append(convolution(channels, hidden))
        self.body = nn.Sequential(*layers)
        self.pool = nn.Sequential(
            nn.Conv2d(hidden, hidden, final_size(self.input_size), groups=hidden, bias=False), nn.BatchNorm2d(hidden)
        )
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(hidden, embedding_dim, bias=False)
        self.embedding_norm = nn.BatchNorm1d(embedding_dim)
        initialise(self)

    def parts(self) -> dict[str, nn.Module]:
        """``stem``, a ``stage`` for each row of ``BOTTLENECKS``, ``embedding``; see `Backbone.parts`."""
        counts = [repetitions for _, _, repetitions, _ in BOTTLENECKS]
        ends = itertools.accumulate(counts, initial=STEM_LAYERS)
        stages = {
            f"stage{number}": self.body[start : start + count]
            for number, (start, count) in enumerate(zip(ends, counts, strict=False), start=1)
        }
        last = nn.ModuleList([self.body[-1], self.pool, self.dropout, self.projection, self.embedding_norm])
        return {"stem": self.body[:STEM_LAYERS], **stages, "embedding": last}

    def forward(self, images: Tensor) -> Tensor:
        """Raw embeddings (N, D) of images (N, 3, H, W)."""
        self.check_input(images)
        features = self.dropout(self.pool(self.body(images)).flatten(1))
        out: Tensor = self.embedding_norm(self.projection(features))
        return out
