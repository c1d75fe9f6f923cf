"""Backbones: networks from normalised crops (N, 3, H, W) to raw embeddings (N, D), one family a file.

To add one: a new file with a subclass of ``Backbone`` and one line in ``BACKBONES``.
"""

from typing import Final

from facemargin.backbones.base import Backbone
from facemargin.backbones.cost import Cost, count_cost
from facemargin.backbones.iresnet import IResNet18, IResNet34, IResNet50, IResNet100
from facemargin.backbones.mobilefacenet import MobileFaceNet
from facemargin.backbones.sphereface import SphereFace20

BACKBONES: Final[dict[str, type[Backbone]]] = {
    "iresnet18": IResNet18,
    "iresnet34": IResNet34,
    "iresnet50": IResNet50,
    "iresnet100": IResNet100,
    "mobilefacenet": MobileFaceNet,
    "sphereface20": SphereFace20,
}
"""Every backbone by the name that configs and manifests use."""


def make_backbone(
    name: str,
    *,
    embedding_dim: int = 512,
    width: float = 1.0,
    input_size: tuple[int, int] = (112, 112),
    dropout: float = 0.0,
) -> Backbone:
    """Build a backbone by name; its weights depend on ``torch.manual_seed`` alone.

    Args:
        name: one of ``BACKBONES``.
        embedding_dim: size D of the embedding.
        width: multiplier on every channel count.
        input_size: (height, width) of the crops in pixels, 32 or more each.
        dropout: probability in [0, 1) before the last projection.

    Returns:
        A module from (N, 3, H, W) to (N, D).

    Raises:
        ValueError: an unknown name or an argument out of its range.

    >>> make_backbone("iresnet18", width=0.5, input_size=(64, 64)).options()["width"]
    0.5
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}; got {name!r}")
    return BACKBONES[name](embedding_dim=embedding_dim, width=width, input_size=input_size, dropout=dropout)


__all__ = ["BACKBONES", "Backbone", "Cost", "count_cost", "make_backbone"]
