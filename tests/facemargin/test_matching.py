from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facemargin.bundle import Bundle
from facemargin.embedder import Embedder
from facemargin.errors import FaceCountError, UnsupportedFmrError
from facemargin.matching import compare
from facemargin.preprocessing import Detector, read_image


@pytest.fixture
def crop() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)


def test_aligned_crops_by_the_calibration(tiny_bundle: Bundle, crop: np.ndarray) -> None:
    embedder, calibration = Embedder(tiny_bundle), tiny_bundle.manifest.calibration
    assert calibration is not None
    same = compare(crop, crop, embedder, detector=None)
    other = compare(crop, 255 - crop, embedder, detector=None)
    assert same.similarity == pytest.approx(1.0)
    assert other.similarity == pytest.approx(-1.0, abs=1e-4)
    assert same.model_id == tiny_bundle.model_id
    assert same.decision is not None
    assert other.decision is not None
    assert (same.decision.match, other.decision.match) == (True, False)
    assert same.decision.threshold == calibration.threshold(1e-3, extrapolate=True).value
    assert same.decision.probability == calibration.probability(same.similarity) > 0.5 > other.decision.probability
    assert (same.decision.fmr_extrapolated, same.decision.threshold_extrapolated) == (True, False)
    assert other.decision.fmr == 1.0


def test_a_stricter_rate_moves_the_threshold_and_says_when_it_is_extrapolated(
    tiny_bundle: Bundle, crop: np.ndarray
) -> None:
    embedder = Embedder(tiny_bundle)
    decisions = [compare(crop, crop, embedder, detector=None, max_fmr=fmr).decision for fmr in (1e-1, 1e-3, 1e-6)]
    assert [decision.threshold_extrapolated for decision in decisions if decision] == [False, False, True]
    thresholds = [decision.threshold for decision in decisions if decision]
    assert thresholds == sorted(thresholds)
    with pytest.raises(UnsupportedFmrError):
        compare(crop, crop, embedder, detector=None, max_fmr=1e-20)
    with pytest.raises(ValueError, match="max_fmr"):
        compare(crop, crop, embedder, detector=None, max_fmr=0)


def test_without_calibration_there_is_no_decision(make_tiny_bundle: Any, crop: np.ndarray) -> None:
    found = compare(crop, crop, Embedder(make_tiny_bundle(calibrated=False)), detector=None)
    assert found.decision is None
    assert found.similarity == pytest.approx(1.0)


def test_photographs_are_detected_and_aligned(tiny_bundle: Bundle, shared_data: Path) -> None:
    detector = Detector(shared_data / "models" / "yunet_n_dynamic.onnx")
    embedder = Embedder(tiny_bundle)
    person = shared_data / "lfw" / "images" / "Aaron_Peirsol"
    photograph = read_image(person / "Aaron_Peirsol_0001.jpg")
    group = read_image(shared_data / "photos" / "bbt2.jpg")
    assert compare(photograph, photograph, embedder, detector=detector).similarity == pytest.approx(1.0)
    crop = embedder.crop(photograph, detector.detect(photograph)[0])
    assert compare(photograph, crop, embedder, detector=detector).similarity != pytest.approx(1.0, abs=1e-6)
    with pytest.raises(FaceCountError, match="in the second photograph: 3 faces") as caught:
        compare(photograph, group, embedder, detector=detector)
    assert caught.value.count == 3
    with pytest.raises(FaceCountError, match="in the first photograph: no face"):
        compare(np.zeros_like(group), group, embedder, detector=detector)
    assert compare(photograph, group, embedder, detector=detector, face="largest").similarity < 0.999
