"""Fitting a bundle's calibration to photographs of people it was not trained on."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from facemargin.bundle import Bundle, update_manifest
from facemargin.embedder import Embedder
from facemargin.metrics import calibrate
from facemargin.preprocessing import Detector
from training.all_pairs import embed_people


def calibrate_bundle(
    bundle: Bundle,
    images_root: Path,
    *,
    people: Iterable[str] | None = None,
    aligned: bool,
    detector: Detector | None = None,
    source: str,
    prior: float = 0.5,
    console: Console | None = None,
) -> Bundle:
    """Fit the calibration of a bundle to photographs of people it was not trained on, and write it to its manifest.

    Args:
        bundle: the model.
        images_root: a folder per person, photographs or aligned crops.
        people: names of the folders to use; None takes all.
        aligned: the files are aligned crops.
        detector: for whole photographs; None takes the default one.
        source: whose photographs these are, in words, for the manifest.
        prior: P(same) that the probabilities shall assume.
        console: where progress is drawn; default stderr.

    Returns:
        The bundle with its new manifest; nothing is written when something fails.

    Raises:
        BundleError: a model that cannot be run, or a manifest that cannot be written.
        CalibrationError: too few pairs.
        DataError: as in `embed_people`.
        ImageError: as in `embed_people`.
    """
    vectors, names = embed_people(
        Embedder(bundle).embed,
        images_root,
        people,
        aligned=aligned,
        detector=detector,
        template=bundle.manifest.preprocessing.template,
        console=console,
    )
    calibration = calibrate(vectors, names, prior=prior, source=source)
    return update_manifest(bundle, bundle.manifest.model_copy(update={"calibration": calibration}))
