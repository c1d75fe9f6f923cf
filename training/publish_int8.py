"""A finished run or a float32 bundle -> an int8 bundle, with thresholds of its own where there are people for them."""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from facemargin.bundle import MANIFEST_NAME, MODEL_NAME, Bundle, load_bundle, write_bundle
from facemargin.errors import ConfigError
from facemargin.preprocessing import template_named
from facemargin.preprocessing.normalise import resized
from training.calibration import calibrate_bundle
from training.crops import CropReader
from training.data.folder import people_of
from training.data.pictures import Picture
from training.publish import publish, sample_crops
from training.quantize import MAX_CROPS, quantize_bundle
from training.trainer import restore_model


def publish_int8(
    source: Path,
    output: Path,
    *,
    crops: Path | None = None,
    calibration_images: Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
    **options: Any,
) -> Bundle:
    """Export a run, or take a bundle, quantise it, and fit its thresholds; or write nothing.

    Args:
        source: a run's output folder, a checkpoint folder, or a float32 bundle.
        output: folder of the int8 bundle.
        crops: image folder of aligned crops that the ranges come from; by default the calibration images, or else
            the run's training images.
        calibration_images: a folder a person of aligned crops, people the model was not trained on: the bundle's own
            thresholds are fitted to them. Without it, it has none.
        overwrite: replace a bundle that is already there.
        console: where progress is drawn; default stderr.
        options: of `publish`, for a run only: average, name, licence, flip_sum.

    Raises:
        ConfigError: a bundle without crops, or with options that only a run has.
        CalibrationError: too few pairs for thresholds.
        CheckpointError, DataError, ImageError, ExportRefusedError, BundleError: as `publish` and `quantize_bundle`.
    """
    folder = crops or calibration_images
    with tempfile.TemporaryDirectory() as scratch:
        if (source / MANIFEST_NAME).is_file():
            original = _float32_bundle(source, folder, options)
        else:
            original = publish(source, Path(scratch) / "float32", crops=crops, console=console, **options)
        sample = _training_crops(source, console) if folder is None else _crops_in(folder, original)
        quantised = quantize_bundle(original, Path(scratch) / "int8", sample)
        if calibration_images is not None:
            name = calibration_images.name
            quantised = calibrate_bundle(quantised, calibration_images, aligned=True, source=name, console=console)
        manifest = quantised.manifest.model_copy(update={"files": {}})
        model = quantised.model_path.read_bytes()
    return write_bundle(output, manifest, {MODEL_NAME: model}, overwrite=overwrite)


def _float32_bundle(source: Path, folder: Path | None, options: dict[str, Any]) -> Bundle:
    if options:
        raise ConfigError(f"{', '.join(options)} belong to the export of a run; {source} is a bundle already")
    if folder is None:
        raise ConfigError(f"{source} is a bundle; give crops for its ranges by --calibration-images DIR or --crops DIR")
    return load_bundle(source)


def _training_crops(run: Path, console: Console | None) -> NDArray[np.uint8]:
    return sample_crops(restore_model(run)[1], None, run, console, count=MAX_CROPS)


def _crops_in(folder: Path, bundle: Bundle) -> NDArray[np.uint8]:
    """Up to `MAX_CROPS` from all over the folder, at the template's size as the service takes them."""
    paths = [path for images in people_of(folder).values() for path in images]
    spread = paths[:: math.ceil(len(paths) / MAX_CROPS)]
    template = bundle.manifest.preprocessing.template
    reader, size = CropReader(template), template_named(template).size
    return np.stack([resized(reader.read_aligned(Picture.of_file(path)), size) for path in spread])
