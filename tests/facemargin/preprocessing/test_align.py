import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemargin.preprocessing import TEMPLATES, align, similarity_transform, template_named

coordinates = st.floats(-500, 500, allow_nan=False, width=32)
point_sets = st.lists(st.tuples(coordinates, coordinates), min_size=2, max_size=8).map(np.array)


def spread(points: np.ndarray) -> float:
    return float(np.abs(points - points.mean(axis=0)).max())


@settings(deadline=None)
@given(
    points=point_sets.filter(lambda points: spread(points) > 0.5),
    angle=st.floats(-math.pi, math.pi),
    scale=st.floats(0.05, 20),
    shift=st.tuples(coordinates, coordinates),
)
def test_a_similarity_is_recovered(points: np.ndarray, angle: float, scale: float, shift: tuple[float, float]) -> None:
    linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    target = points @ linear.T + shift
    found = similarity_transform(points, target)
    assert found.shape == (2, 3)
    size = max(1.0, float(np.abs(target).max()), scale * float(np.abs(points).max()))
    np.testing.assert_allclose(points @ found[:, :2].T + found[:, 2], target, atol=1e-6 * size)


@settings(deadline=None, max_examples=60)
@given(points=point_sets.filter(lambda points: spread(points) > 0.5), seed=st.integers(0, 1000))
def test_no_other_similarity_fits_better(points: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.uniform(-100, 100, points.shape)

    def error(matrix: np.ndarray) -> float:
        return float(((points @ matrix[:, :2].T + matrix[:, 2] - target) ** 2).sum())

    # In complex numbers a similarity is z -> a z + b, whose least squares have a closed form of their own.
    z, w = points @ [1, 1j], target @ [1, 1j]
    zc, wc = z - z.mean(), w - w.mean()
    a = np.vdot(zc, wc) / np.vdot(zc, zc)
    b = w.mean() - a * z.mean()
    oracle = np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
    found = similarity_transform(points, target)
    assert error(found) <= error(oracle) * (1 + 1e-9) + 1e-6
    assert np.linalg.det(found[:, :2]) >= -1e-9


def test_mirrored_points_are_never_reflected() -> None:
    points = TEMPLATES["arcface-112"].points
    found = similarity_transform(points * (-1, 1), points)
    assert np.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (np.zeros((5, 2)), np.ones((4, 2)), "must both be"),
        (np.zeros((1, 2)), np.ones((1, 2)), "K >= 2"),
        (np.zeros((5, 3)), np.ones((5, 3)), "must both be"),
        (np.full((5, 2), 7.0), np.ones((5, 2)), "coincide"),
        (np.full((5, 2), np.nan), np.ones((5, 2)), "finite"),
    ],
)
def test_points_without_a_transform_are_refused(source: np.ndarray, target: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        similarity_transform(source, target)


def test_templates_are_the_published_ones() -> None:
    arcface, sphereface = TEMPLATES["arcface-112"], TEMPLATES["sphereface-112x96"]
    assert arcface.size == (112, 112)
    assert sphereface.size == (112, 96)
    assert arcface.points[0].tolist() == [38.2946, 51.6963]
    np.testing.assert_allclose(arcface.points - sphereface.points, np.tile([8.0, 0.0], (5, 1)))
    for template in TEMPLATES.values():
        height, width = template.size
        assert (template.points > 0).all()
        assert (template.points < (width, height)).all()
        assert template_named(template.name) is template


def test_an_unknown_template_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="arcface-112, sphereface-112x96; got 'arc'"):
        template_named("arc")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(("scale", "angle"), [(0.7, 0.0), (1.0, 0.4), (2.6, -0.3), (7.3, 0.2), (12.0, 1.0)])
def test_marks_at_the_landmarks_land_on_the_template(name: str, scale: float, angle: float) -> None:
    template = TEMPLATES[name]
    linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    landmarks = (template.points - template.points.mean(axis=0)) @ linear.T + (900, 800)
    image = np.zeros((1600, 1800, 3), dtype=np.float32)
    for x, y in landmarks:  # a soft dot of two crop pixels around each landmark, with its exact sub-pixel centre
        reach = int(12 * scale)
        top, left = int(y) - reach, int(x) - reach
        rows, columns = np.mgrid[top : top + 2 * reach, left : left + 2 * reach]
        dot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * (2 * scale) ** 2))
        patch = image[top : top + 2 * reach, left : left + 2 * reach]
        np.maximum(patch, dot[:, :, None], out=patch)
    crop = align(image.astype(np.uint8), landmarks, name)
    assert crop.shape == (*template.size, 3)
    assert crop.dtype == np.uint8
    for x, y in template.points:
        top, left = round(y) - 6, round(x) - 6
        patch = crop[top : top + 13, left : left + 13, 0].astype(float)
        rows, columns = np.mgrid[top : top + 13, left : left + 13]
        centre = ((columns * patch).sum() / patch.sum(), (rows * patch).sum() / patch.sum())
        np.testing.assert_allclose(centre, (x, y), atol=0.12)


def test_a_face_at_the_template_is_cut_out_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    np.testing.assert_array_equal(align(image, TEMPLATES["arcface-112"].points), image)


def test_outside_the_picture_is_black() -> None:
    image = np.full((112, 112, 3), 200, dtype=np.uint8)
    crop = align(image, TEMPLATES["arcface-112"].points + np.array([56.0, 0.0]))
    assert (crop[:, :50] == 200).all()
    assert (crop[:, 60:] == 0).all()


def test_a_large_face_is_averaged_not_sampled() -> None:
    """A checkerboard of single pixels is grey from afar; bilinear sampling alone would show false patterns."""
    board = (np.indices((1400, 1400)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[:, :, None], 3, axis=2)
    landmarks = TEMPLATES["arcface-112"].points * 10.3 + 100
    crop = align(image, landmarks)
    assert np.abs(crop.astype(int) - 127).max() <= 4
    matrix = similarity_transform(landmarks, TEMPLATES["arcface-112"].points)
    assert cv2.warpAffine(image, matrix, (112, 112)).std() > 30


def test_the_picture_is_left_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    before = image.copy()
    align(image, TEMPLATES["arcface-112"].points * 2.5)
    np.testing.assert_array_equal(image, before)
