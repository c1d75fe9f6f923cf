"""Two photographs and a bundle -> whether they show one person.

Owns the comparison that `facemargin verify` prints; the service has its own path with stored templates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facemargin.embedder import Embedder
from facemargin.errors import FaceCountError
from facemargin.metrics.calibration import Calibration
from facemargin.preprocessing import Detector, one_face
from facemargin.preprocessing.detect import FaceChoice


@dataclass(frozen=True)
class Decision:
    """What a similarity means by the bundle's calibration.

    Attributes:
        match: the similarity reaches the threshold.
        probability: P(same person) at the prior below.
        prior: P(same person) assumed before looking.
        fmr: share of pairs of different people at least as similar.
        fmr_extrapolated: that share comes from the fitted tail.
        threshold: least similarity of a match.
        max_fmr: false match rate asked for.
        threshold_extrapolated: the threshold comes from the fitted tail.
    """

    match: bool
    probability: float
    prior: float
    fmr: float
    fmr_extrapolated: bool
    threshold: float
    max_fmr: float
    threshold_extrapolated: bool


@dataclass(frozen=True)
class Comparison:
    """The result of comparing two photographs.

    Attributes:
        similarity: cosine of the two embeddings, -1 to 1.
        model_id: which model made them.
        decision: None where the bundle has no calibration.
    """

    similarity: float
    model_id: str
    decision: Decision | None


def compare(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    embedder: Embedder,
    *,
    detector: Detector | None,
    face: FaceChoice = "single",
    max_fmr: float = 1e-3,
) -> Comparison:
    """Compare the faces in two pictures.

    Args:
        first: uint8 (H, W, 3), RGB.
        second: uint8 (H, W, 3), RGB.
        embedder: of the bundle to use.
        detector: finds the faces; None says that both pictures are aligned crops already.
        face: what to do with several faces in a picture, as in `one_face`.
        max_fmr: highest false match rate of a match, in (0, 1].

    Raises:
        FaceCountError: no face, or several where one is demanded; the message says in which picture.
        UnsupportedFmrError: the calibration has no threshold for `max_fmr`, not even by its tail.
        ValueError: max_fmr out of range.
    """
    crops = [_crop(image, which, embedder, detector, face) for which, image in (("first", first), ("second", second))]
    a, b = (embedder.embed(crop[None])[0] for crop in crops)
    similarity = float(np.clip(a @ b, -1.0, 1.0))
    calibration = embedder.bundle.manifest.calibration
    decision = None if calibration is None else _decide(similarity, calibration, max_fmr)
    return Comparison(similarity, embedder.model_id, decision)


def _crop(
    image: NDArray[np.uint8], which: str, embedder: Embedder, detector: Detector | None, face: FaceChoice
) -> NDArray[np.uint8]:
    if detector is None:
        return image
    try:
        return embedder.crop(image, one_face(detector.detect(image), face))
    except FaceCountError as error:
        raise FaceCountError(f"in the {which} photograph: {error}", error.count) from error


def _decide(similarity: float, calibration: Calibration, max_fmr: float) -> Decision:
    threshold = calibration.threshold(max_fmr, extrapolate=True)
    return Decision(
        match=similarity >= threshold.value,
        probability=calibration.probability(similarity),
        prior=calibration.prior,
        fmr=calibration.fmr(similarity),
        fmr_extrapolated=calibration.is_extrapolated(similarity),
        threshold=threshold.value,
        max_fmr=max_fmr,
        threshold_extrapolated=threshold.extrapolated,
    )
