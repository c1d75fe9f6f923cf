"""A finished run -> a bundle: reads the checkpoint, tells the manifest what was trained on what, and exports."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from facemargin.bundle import Bundle
from facemargin.errors import CheckpointError
from training.checkpoint import Checkpoint
from training.config import TrainConfig
from training.data.folder import people_of
from training.data.pictures import Picture
from training.export import export_bundle
from training.rereading import Rereading
from training.trainer import restore_model, training_images

PARITY_CROPS = 64


def publish(
    run: Path,
    output: Path,
    *,
    crops: Path | None = None,
    average: bool = True,
    name: str = "",
    licence: str = "",
    flip_sum: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Bundle:
    """Export the newest checkpoint of a run (or one checkpoint) as a bundle.

    Args:
        run: a run's output folder, or a checkpoint folder.
        output: the bundle's folder.
        crops: image folder whose aligned crops the parity check runs on; the run's own training images by default.
        average: take the averaged weights where the run kept them; False takes those of the last step.
        name: of the bundle; made from backbone, head and size of the data by default.
        licence: of the weights, an SPDX identifier where there is one.
        flip_sum: whether an embedding adds the mirrored crop.
        overwrite: replace a bundle that is already there.
        console: where crops that cannot be read are named; stderr by default.

    Raises:
        CheckpointError: no readable checkpoint, or its training images are gone and `crops` is not given.
        DataError, ImageError: a crop of the parity check that cannot be read, unless the run leaves such images out.
        ExportRefusedError: the ONNX model disagrees with PyTorch; nothing was written.
        BundleError: something is at `output` already, or it cannot be written.
    """
    backbone, config, checkpoint = restore_model(run, average=average)
    return export_bundle(
        backbone,
        output,
        crops=sample_crops(config, crops, run, console),
        preprocessing=config.preprocessing,
        overwrite=overwrite,
        name=name or _name(config, checkpoint),
        licence=licence,
        flip_sum=flip_sum,
        backbone=backbone.options(),
        head=without_class_counts(checkpoint.state["head_options"]),
        data=checkpoint.state["data"] | {"protocol": config.data.protocol},
        card=_card(config, checkpoint, average=average),
    )


def without_class_counts(options: dict[str, Any]) -> dict[str, Any]:
    """Head options without the number of images of each person, which a bundle that is given away need not tell."""
    return {
        key: without_class_counts(value) if isinstance(value, dict) else value
        for key, value in options.items()
        if key != "class_counts"
    }


def sample_crops(
    config: TrainConfig, folder: Path | None, run: Path, console: Console | None, *, count: int = PARITY_CROPS
) -> NDArray[np.uint8]:
    """Aligned crops from all over a folder, or from the run's own training images.

    Args:
        config: of the run.
        folder: image folder; None takes the training images.
        run: named in errors.
        console: where crops that cannot be read are named; stderr by default.
        count: how many at most.

    Raises:
        CheckpointError: the training images are gone, or none can be read.
        DataError, ImageError: a crop that cannot be read, unless the run leaves such images out.
    """
    if folder is not None:
        pictures: Sequence[Picture] = [
            Picture.of_file(path) for images in people_of(folder).values() for path in images
        ]
    elif all(source.exists() or "{" in source.name for source in config.data.folders):
        pictures = training_images(config).pictures
    else:
        raise CheckpointError(f"the training images of {run} are gone; pass --crops DIR, a folder of aligned crops")
    spread = range(0, len(pictures), max(1, len(pictures) // count))[:count]
    reading = Rereading(config)
    read = [reading.read(picture) for picture in reading.find(pictures, spread).values()]
    crops = [crop for crop in read if crop is not None]
    reading.say("crops of the parity check", len(spread), console)
    if not crops:
        raise CheckpointError(
            f"none of {len(spread)} training images of {run} can be read; pass --crops DIR, a folder of aligned crops"
        )
    return np.stack([crop for crop in crops if crop.shape == crops[0].shape])


def _name(config: TrainConfig, checkpoint: Checkpoint) -> str:
    width = "" if config.backbone.width == 1 else f" width {config.backbone.width:g}"
    return f"{config.backbone.name}{width} {config.head} {checkpoint.state['data']['people']} people"


def _card(config: TrainConfig, checkpoint: Checkpoint, *, average: bool) -> str:
    data = checkpoint.state["data"]
    averaged = f", averaged with decay {config.ema_decay:g}" if average and config.ema_decay else ""
    return (
        f"Face embedding: {config.backbone.name}, width {config.backbone.width:g}, trained with head {config.head} on "
        f"{data['people']:,} people, {data['images']:,} images ({checkpoint.step:,} steps of {config.batch_size}"
        f"{averaged}). Error rates hold for photographs like those of the stated protocols only, and may differ "
        "between groups of people. There is no liveness detection: a photograph of a photograph is accepted."
    )
