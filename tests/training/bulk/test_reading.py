import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facemargin.errors import ConfigError, DataError, NoFaceError, SeveralFacesError, UnsupportedImageError
from facemargin.preprocessing import Detector, Preprocessing, align, encode_png, read_image
from facemargin.preprocessing.quality import measure, sharpness
from tests.conftest import MakeTinyBundle
from tests.training.bulk.conftest import Asked, crop, finished
from training.bulk.job import prepare
from training.bulk.reading import FaceReader
from training.data.pictures import Picture


@pytest.fixture(scope="module")
def detector_file(shared_data: Path) -> Path:
    return shared_data / "models" / "yunet_n_dynamic.onnx"


@pytest.fixture
def photographs(shared_data: Path, tmp_path: Path) -> Path:
    """A photograph of six people, one of one, one without anybody, and two that are no pictures."""
    root = tmp_path / "photographs"
    (root / "party").mkdir(parents=True)
    shutil.copy(shared_data / "photos" / "t1.jpg", root / "party" / "group.jpg")
    shutil.copy(shared_data / "lfw" / "images" / "Aaron_Peirsol" / "Aaron_Peirsol_0001.jpg", root / "single.jpg")
    (root / "black.png").write_bytes(encode_png(np.zeros((60, 80, 3), np.uint8)))
    (root / "text.jpg").write_text("this is text")
    (root / "zero.jpg").touch()
    return root


def test_a_crop_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(crop(1))
    (found,) = FaceReader("arcface-112").read(Picture.of_file(tmp_path / "a.png"))
    np.testing.assert_array_equal(found.crop, read_image(tmp_path / "a.png"))
    assert (found.face, found.number, found.of) == (None, 0, None)
    assert found.quality == (None, None, sharpness(found.crop), None)


def test_a_picture_that_cannot_be_a_crop_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((60, 80, 3), np.uint8)))
    with pytest.raises(DataError, match="60x80, not a crop aligned to arcface-112"):
        FaceReader("arcface-112").read(Picture.of_file(tmp_path / "a.png"))


def test_which_faces_of_a_photograph_are_taken(photographs: Path, detector_file: Path) -> None:
    detector, group = Detector(detector_file), Picture.of_file(photographs / "party" / "group.jpg")
    image = read_image(group.path)
    expected = detector.detect(image)
    assert len(expected) == 6
    everyone = FaceReader("arcface-112", detector, "all").read(group)
    assert [(found.number, found.of) for found in everyone] == [(number, 6) for number in range(6)]
    for found, face in zip(everyone, expected, strict=True):
        np.testing.assert_array_equal(found.crop, align(image, face.landmarks))
        assert found.quality == measure(face, found.crop)
    (largest,) = FaceReader("arcface-112", detector, "largest").read(group)
    np.testing.assert_array_equal(largest.crop, everyone[0].crop)
    assert (largest.number, largest.of) == (0, 6)
    with pytest.raises(SeveralFacesError):
        FaceReader("arcface-112", detector, "one").read(group)
    (single,) = FaceReader("arcface-112", detector, "one").read(Picture.of_file(photographs / "single.jpg"))
    assert single.of == 1


def test_a_file_that_is_no_picture_is_an_error(photographs: Path) -> None:
    with pytest.raises(UnsupportedImageError):
        FaceReader("arcface-112").read(Picture.of_file(photographs / "text.jpg"))


def test_photographs_without_an_embedding_are_recorded_with_the_reason(
    photographs: Path, detector_file: Path, asked: Asked
) -> None:
    found = finished(asked(sources=(photographs,), aligned=False, faces="one", detector=detector_file))
    assert [(row["key"], row["faces"]) for row in found.rows] == [("single.jpg", 1)]
    told = {(error["key"], error["person"], error["status"]): error["reason"] for error in found.errors}
    assert told.keys() == {
        ("black.png", None, "no_face"),
        ("party/group.jpg", "party", "several_faces"),
        ("text.jpg", None, "unreadable"),
        ("zero.jpg", None, "unreadable"),
    }
    assert told["party/group.jpg", "party", "several_faces"].startswith("6 faces were detected, and --faces one")
    assert "empty" in told["zero.jpg", None, "unreadable"]
    assert found.manifest.failed == {"no_face": 1, "several_faces": 1, "unreadable": 2}
    assert (found.manifest.pictures, found.manifest.faces) == (5, 1)


def test_another_detector_or_threshold_is_another_plan(
    photographs: Path, detector_file: Path, asked: Asked, tmp_path: Path
) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(detector_file.read_bytes() + b"\x9a\x06\x00")  # a field 99 that nobody knows
    request = asked(sources=(photographs,), aligned=False, detector=detector_file, score_threshold=0.5)
    options = prepare(request, {}).output.plan.options
    assert options.detector_sha256 == hashlib.sha256(detector_file.read_bytes()).hexdigest()
    assert (options.score_threshold, options.faces) == (0.5, "largest")
    with pytest.raises(ConfigError, match=r"begun otherwise: now detector_sha256 \w{64} \(there \w{64}\); name"):
        prepare(replace(request, detector=other), {})
    with pytest.raises(ConfigError, match=r"begun otherwise: now score_threshold 0\.7 \(there 0\.5\); name"):
        prepare(replace(request, score_threshold=0.7), {})


def test_threshold_and_template_are_those_that_were_asked_for(
    photographs: Path, detector_file: Path, asked: Asked, make_tiny_bundle: MakeTinyBundle
) -> None:
    bundle = make_tiny_bundle(preprocessing=Preprocessing(template="sphereface-112x96", size=(112, 96)))
    job = prepare(asked(sources=(photographs,), bundle=bundle.path, aligned=False, detector=detector_file), {})
    assert job.work.reader.template == "sphereface-112x96"
    strict = prepare(
        asked(
            sources=(photographs,), output=asked().output / ".." / "strict", aligned=False, detector=detector_file,
            faces="all", score_threshold=0.99,
        ),
        {},
    )  # fmt: skip
    with pytest.raises(NoFaceError):
        strict.work.reader.read(Picture.of_file(photographs / "party" / "group.jpg"))


def test_a_row_tells_where_the_face_was(photographs: Path, detector_file: Path, asked: Asked) -> None:
    found = finished(asked(sources=(photographs,), aligned=False, faces="all", detector=detector_file))
    faces = Detector(detector_file).detect(read_image(photographs / "party" / "group.jpg"))
    rows = [row for row in found.rows if row["key"] == "party/group.jpg"]
    assert [row["face"] for row in rows] == list(range(6))
    for row, face in zip(rows, faces, strict=True):
        assert row["box"] == pytest.approx(face.box)
        np.testing.assert_allclose(np.reshape(row["landmarks"], (5, 2)), face.landmarks)
        assert row["score"] == pytest.approx(face.score)
        assert row["eye_distance_px"] > 0
        assert row["sharpness"] > 0
        assert all(abs(row[name]) < 3.2 for name in ("yaw_rad", "pitch_rad", "roll_rad"))
