from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from facemargin.errors import ModelNotFoundError, NoFaceError, SeveralFacesError
from facemargin.preprocessing import TEMPLATES, Detector, Face, align, central_face, one_face, read_image


def face(x: float, y: float, width: float, height: float) -> Face:
    return Face((x, y, width, height), np.zeros((5, 2), np.float32), 0.9)


@pytest.fixture(autouse=True, scope="module")
def one_processor() -> Iterator[None]:
    """OpenCV's own threads make small pictures slower, above all on a busy machine."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)


@pytest.fixture(scope="module")
def model(shared_data: Path) -> Path:
    return shared_data / "models" / "yunet_n_dynamic.onnx"


@pytest.fixture(scope="module")
def detector(model: Path) -> Detector:
    return Detector(model)


@pytest.fixture(scope="module")
def group(shared_data: Path) -> np.ndarray:
    """A photograph with six people, 1280x886."""
    return read_image(shared_data / "photos" / "t1.jpg")


def test_one_face_by_policy() -> None:
    small, large = face(0, 0, 10, 10), face(50, 50, 20, 20)
    assert one_face([small]) is small
    assert one_face([small, large], "largest") is large
    with pytest.raises(SeveralFacesError, match="2 faces") as caught:
        one_face([small, large])
    assert caught.value.count == 2
    for policy in ("single", "largest"):
        with pytest.raises(NoFaceError):
            one_face([], policy)
    with pytest.raises(ValueError, match="policy must be"):
        one_face([small], "first")


def test_the_central_face_is_near_in_its_own_size() -> None:
    portrait, bystander, speck = face(60, 50, 100, 120), face(0, 0, 60, 60), face(118, 118, 6, 6)
    assert central_face([bystander, portrait, speck], (250, 250)) is portrait
    assert central_face([bystander, speck], (250, 250)) is speck
    assert central_face([face(0, 0, 10, 10), bystander], (60, 60)) is bystander
    with pytest.raises(NoFaceError):
        central_face([], (250, 250))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 0.0}, r"score_threshold must be in \(0, 1\), got 0"),
        ({"nms_threshold": 1.0}, "nms_threshold"),
        ({"max_side": 31}, "max_side must be at least 32"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detector(Path("unused.onnx"), **options)


def test_a_missing_or_damaged_model_says_where_to_get_it(tmp_path: Path) -> None:
    path = tmp_path / "yunet.onnx"
    with pytest.raises(ModelNotFoundError, match="facemargin models pull yunet"):
        Detector(path)
    for content in (b"", b"this is no network"):
        path.write_bytes(content)
        with pytest.raises(ModelNotFoundError, match="is not a face detector"):
            Detector(path)


def test_a_group_gives_its_faces_largest_first_inside_the_picture(detector: Detector, group: np.ndarray) -> None:
    faces = detector.detect(group)
    assert len(faces) == 6
    areas = [found.area for found in faces]
    assert areas == sorted(areas, reverse=True)
    for found in faces:
        x, y, width, height = found.box
        assert 0 <= x < x + width <= group.shape[1]
        assert 0 <= y < y + height <= group.shape[0]
        assert 0.6 <= found.score <= 1.0
        left_eye, right_eye, nose, left_mouth, right_mouth = found.landmarks
        assert found.landmarks.dtype == np.float32
        assert left_eye[0] < right_eye[0]  # "left" as seen in the picture, as the template has it
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_a_picture_without_a_face(detector: Detector) -> None:
    assert detector.detect(np.zeros((300, 200, 3), np.uint8)) == []
    assert detector.detect(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)) == []
    assert detector.detect(np.zeros((1, 1, 3), np.uint8)) == []
    assert detector.detect(np.zeros((3, 4000, 3), np.uint8)) == []


@pytest.mark.parametrize("wrong", [np.zeros((10, 10), np.uint8), np.zeros((10, 10, 3)), np.zeros((0, 10, 3), np.uint8)])
def test_other_arrays_are_refused(detector: Detector, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 of shape"):
        detector.detect(wrong)


@pytest.mark.parametrize("scale", [0.5, 2.0, 3.7])
def test_boxes_and_landmarks_scale_with_the_picture(detector: Detector, group: np.ndarray, scale: float) -> None:
    reference = detector.detect(group)[0]
    scaled = cv2.resize(
        group, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    found = detector.detect(scaled)[0]
    tolerance = 0.06 * reference.box[2]
    np.testing.assert_allclose(np.array(found.box) / scale, reference.box, atol=tolerance)
    np.testing.assert_allclose(found.landmarks / scale, reference.landmarks, atol=tolerance)


def test_crops_of_real_photographs_are_upright(detector: Detector, shared_data: Path) -> None:
    """Detected again, the landmarks of an aligned crop lie on the template."""
    template = TEMPLATES["arcface-112"].points
    people = sorted((shared_data / "lfw" / "images").iterdir())[::600]
    distances = []
    for person in people:
        image = read_image(min(person.iterdir()))
        crop = align(image, central_face(detector.detect(image), image.shape[:2]).landmarks)
        padded = cv2.copyMakeBorder(crop, 56, 56, 56, 56, cv2.BORDER_REPLICATE)
        landmarks = central_face(detector.detect(padded), padded.shape[:2]).landmarks - 56
        distances.append(np.linalg.norm(landmarks - template, axis=1).mean())
    assert len(distances) == 10
    assert np.median(distances) < 4.5
    assert max(distances) < 12


def test_any_number_of_threads_gives_the_same_faces(detector: Detector, group: np.ndarray, shared_data: Path) -> None:
    other = read_image(shared_data / "photos" / "bbt2.jpg")
    images = [picture[::4, ::4] for picture in (group, other, group[200:800], group[:, :600])] * 6
    alone = [detector.detect(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(detector.detect, images))
    assert sum(map(len, alone)) > 24
    for one, two in zip(alone, together, strict=True):
        assert [found.box for found in one] == [found.box for found in two]
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a.landmarks, b.landmarks)


def test_a_higher_threshold_keeps_fewer(model: Path, group: np.ndarray, detector: Detector) -> None:
    strict = Detector(model, score_threshold=0.93)
    kept = {found.box for found in strict.detect(group)}
    assert len(kept) < 6
    assert kept < {found.box for found in detector.detect(group)}
