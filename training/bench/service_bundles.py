"""Bundles and crops for the benchmark of the service: ``python -m training.bench.service_bundles DIR``.

IResNet-18 and MobileFaceNet at full width and 112x112, as float32 and as int8, with random weights: what they compute
is worth nothing, how long it takes is what a trained one takes. The crops are drawn faces. `service.bench.load` runs
this in a process of its own, since the service and the training know nothing of each other.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from facemargin.backbones import make_backbone
from facemargin.preprocessing import Preprocessing, encode_jpeg
from training.export import export_bundle
from training.quantize import quantize_bundle
from training.synthetic import draw_face, draw_identity, draw_scene

BACKBONES = ("iresnet18", "mobilefacenet")
CROPS = 32


def write_bundles(output: Path) -> None:
    """Write ``iresnet18``, ``iresnet18-int8``, ``mobilefacenet``, ``mobilefacenet-int8`` and ``crops/*.jpg``."""
    crops = _draw_crops()
    folder = output / "crops"
    folder.mkdir(parents=True, exist_ok=True)
    for number, crop in enumerate(crops):
        (folder / f"{number:02}.jpg").write_bytes(encode_jpeg(crop))
    for name in BACKBONES:
        torch.manual_seed(0)
        model = make_backbone(name)
        bundle = export_bundle(
            model, output / name, crops=crops[:2], preprocessing=Preprocessing(), name=f"{name}, random weights"
        )
        quantize_bundle(bundle, output / f"{name}-int8", crops)


def _draw_crops() -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return np.stack([draw_face(draw_identity(rng), draw_scene(rng), rng) for _ in range(CROPS)])


def main(output: Annotated[Path, typer.Argument(help="Folder of the bundles and crops.")]) -> None:
    """Write the bundles and crops that `service.bench.load` measures."""
    write_bundles(output)


if __name__ == "__main__":
    typer.run(main)
