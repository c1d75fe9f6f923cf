"""The training images of a run, and the record of them that checkpoints and manifests keep."""

import hashlib
from typing import Any

from facemargin.errors import ConfigError
from training.config import TrainConfig
from training.data.formats import format_name
from training.data.lfw_open import lfw_open
from training.data.pictures import LabelledImages
from training.data.sources import label_people


def training_images(config: TrainConfig) -> LabelledImages:
    """The labelled images that a config trains on.

    Raises:
        ConfigError: no data set is named, or protocol ``lfw-open`` without an image folder in first place.
        DataError: a data set cannot be used.
    """
    if not config.data.folders:
        raise ConfigError("no training images: set data.folders in the config or pass --data DIR")
    only = None
    if config.data.protocol == "lfw-open" and config.data.pairs is not None:
        if format_name(config.data.folders[0]) != "folder":
            raise ConfigError(f"protocol lfw-open needs an image folder of LFW first, not {config.data.folders[0]}")
        only = lfw_open(config.data.folders[0], config.data.pairs).train
    return label_people(config.data.folders, only=only, min_images=config.data.min_images)


def data_record(images: LabelledImages) -> dict[str, Any]:
    """Size and fingerprint of a training set, for checkpoints and manifests."""
    return {
        "people": len(images.people),
        "images": len(images.pictures),
        "sha256": images.fingerprint(),
        "people_sha256": hashlib.sha256("\n".join(images.people).encode()).hexdigest(),
    }
