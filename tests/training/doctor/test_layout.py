"""Aligned crops, whole photographs, other templates and unaligned faces are told apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facemargin.preprocessing import TEMPLATES, Detector, Preprocessing, align, central_face, read_image
from training.doctor.case import Case
from training.doctor.layout import layout, layout_findings, summarised

TEMPLATE = TEMPLATES["arcface-112"]


def faces(
    *, scale: float = 1.0, shift: tuple[float, float] = (0, 0), rotation_deg: float = 0.0, noise: float = 1.0,
    wander: float = 0.0,
) -> list[NDArray[np.float64]]:  # fmt: skip
    rng = np.random.default_rng(0)
    angle = np.radians(rotation_deg)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = TEMPLATE.points.mean(axis=0)
    right = (TEMPLATE.points - centre) @ turn * scale + centre + shift
    return [right + rng.normal(0, noise, (5, 2)) + rng.normal(0, wander, 2) for _ in range(60)]


def test_faces_on_the_template_are_aligned() -> None:
    found = summarised(TEMPLATE, faces(scale=0.95), 60)
    assert found.verdict == ""
    assert found.scale == pytest.approx(0.95, abs=0.02)
    assert found.shift == pytest.approx((0, 0), abs=0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": 0.5}, "whole or loosely cut"),
        ({"scale": 1.5}, "more tightly"),
        ({"shift": (8, 0)}, "another template: shifted"),
        ({"rotation_deg": 10}, "another template: shifted or rotated"),
        ({"scale": 0.8}, "another size"),
        ({"wander": 8}, "not aligned"),
    ],
)
def test_other_faces_are_named_for_what_they_are(change: dict[str, Any], words: str) -> None:
    assert words in summarised(TEMPLATE, faces(**change), 60).verdict


def test_the_figures_are_those_of_the_change() -> None:
    found = summarised(TEMPLATE, faces(scale=1.2, shift=(3, -5), rotation_deg=7), 60)
    assert found.scale == pytest.approx(1.2, abs=0.03)
    assert found.shift == pytest.approx((3, -5), abs=0.6)
    assert found.rotation_deg == pytest.approx(7, abs=1)


def test_no_face_is_said(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    assert "no face" in summarised(TEMPLATE, faces()[:3], 60).verdict
    assert "no face" in summarised(TEMPLATE, [], 60).verdict


def test_without_a_detector_the_alignment_is_unknown(
    drawn_faces: Any, write: Any, case_of: Callable[..., Case]
) -> None:
    sizes, places = layout_findings(case_of(data=write("set", drawn_faces)))
    assert (sizes.state, places.state) == ("ok", "missing")
    assert "models pull yunet" in places.advice


def test_sizes_that_do_not_fit_the_template_are_a_problem(
    drawn_faces: Any, write: Any, case_of: Callable[..., Case]
) -> None:
    narrow = {name: [one[:, 8:-8] for one in pictures] for name, pictures in drawn_faces.items()}
    case = case_of(data=write("narrow", narrow))
    case.expected = Preprocessing()
    found = next(layout_findings(case))
    assert found.state == "problem"
    assert "sphereface-112x96" in found.detail
    case.expected = Preprocessing(size=(112, 96), template="sphereface-112x96")
    assert next(layout_findings(case)).state == "ok"
    case.expected = Preprocessing(size=(224, 192), template="sphereface-112x96")
    assert next(layout_findings(case)).state == "note"


@pytest.fixture(scope="session")
def photographs(shared_data: Path) -> list[Path]:
    return sorted((shared_data / "lfw" / "images").glob("*/*_0001.jpg"))[:2000:100]


@pytest.fixture
def found_in(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, case_of: Callable[..., Case], write: Any
) -> Callable[[list[NDArray[np.uint8]]], str]:
    def verdict(pictures: list[NDArray[np.uint8]]) -> str:
        case = case_of(data=write("real", {"everyone": pictures}))
        monkeypatch.setenv("FACEMARGIN_MODELS", str(shared_data / "models"))
        found = layout(case, case.sets[0])
        assert found is not None
        return found.verdict

    return verdict


def crops(photographs: list[Path], shared_data: Path, template: str) -> list[NDArray[np.uint8]]:
    detector = Detector(shared_data / "models" / "yunet_n_dynamic.onnx")
    images = [read_image(path) for path in photographs]
    return [align(image, central_face(detector.detect(image), image.shape[:2]).landmarks, template) for image in images]


@pytest.mark.parametrize("template", TEMPLATES)
def test_real_aligned_crops_are_recognised(
    template: str, photographs: list[Path], shared_data: Path, found_in: Callable[..., str]
) -> None:
    assert found_in(crops(photographs, shared_data, template)) == ""


def test_real_photographs_are_recognised(photographs: list[Path], found_in: Callable[..., str]) -> None:
    assert "whole or loosely cut" in found_in([read_image(path) for path in photographs])


def test_real_crops_shifted_by_six_pixels_are_recognised(
    photographs: list[Path], shared_data: Path, found_in: Callable[..., str]
) -> None:
    shifted = [np.roll(crop, 6, axis=1) for crop in crops(photographs, shared_data, "arcface-112")]
    assert "shifted" in found_in(shifted)
