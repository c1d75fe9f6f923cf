"""The four measures of quality."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facemargin.preprocessing import TEMPLATES, Face
from facemargin.preprocessing.quality import eye_distance_px, measure, measure_crop, pose, sharpness

FRONTAL = TEMPLATES["arcface-112"].points.astype(np.float32)


def turned(yaw: float, pitch: float, roll: float, *, scale: float = 1.0, shift: float = 0.0) -> NDArray[np.float32]:
    """Landmarks of the model head under a rotation, written out by the rotation's own matrices."""
    depth = np.zeros((5, 1))
    depth[2] = -0.4 * np.linalg.norm(FRONTAL[1] - FRONTAL[0])
    head = np.hstack([FRONTAL, depth]) - np.hstack([FRONTAL, depth]).mean(axis=0)
    about_x = np.array([[1, 0, 0], [0, math.cos(pitch), math.sin(pitch)], [0, -math.sin(pitch), math.cos(pitch)]])
    about_y = np.array([[math.cos(yaw), 0, -math.sin(yaw)], [0, 1, 0], [math.sin(yaw), 0, math.cos(yaw)]])
    about_z = np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
    projected = (head @ (about_z @ about_y @ about_x).T)[:, :2]
    return np.asarray(projected * scale + shift, dtype=np.float32)


def test_the_template_is_frontal() -> None:
    assert pose(FRONTAL) == pytest.approx((0, 0, 0), abs=1e-6)


@settings(deadline=None)
@given(st.floats(-1.2, 1.2), st.floats(-1.0, 1.0), st.floats(-3.0, 3.0), st.floats(0.3, 20), st.floats(-500, 500))
def test_a_turned_head_gives_its_angles_back(yaw: float, pitch: float, roll: float, scale: float, shift: float) -> None:
    found = pose(turned(yaw, pitch, roll, scale=scale, shift=shift))
    assert found == pytest.approx((yaw, pitch, roll), abs=2e-3)


def test_signs_are_as_documented() -> None:
    nose, mouth = 2, slice(3, 5)
    to_the_right, up, clockwise = FRONTAL.copy(), FRONTAL.copy(), turned(0, 0, 0.3)
    to_the_right[nose, 0] += 8
    up[nose, 1] -= 8
    assert pose(to_the_right).yaw_rad > 0.1
    assert pose(up).pitch_rad > 0.1
    assert pose(clockwise).roll_rad == pytest.approx(0.3, abs=1e-4)
    assert clockwise[1, 1] > clockwise[0, 1]  # the eye on the right of the picture hangs lower
    assert clockwise[mouth, 0].mean() < clockwise[nose, 0]


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (12, 10)).astype(np.float64)
    padded = np.pad(grey, 1, mode="reflect")
    by_hand = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * grey
    crop = np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    assert sharpness(crop) == pytest.approx(by_hand.var())
    assert sharpness(np.full((112, 112, 3), 90, np.uint8)) == 0


def test_blur_lowers_sharpness() -> None:
    crop = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    blurred = ((crop[:-1].astype(int) + crop[1:]) // 2).astype(np.uint8)
    assert sharpness(blurred) < sharpness(crop)


def test_measure_of_a_face_and_of_a_crop() -> None:
    crop = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    face = Face(box=(0, 0, 112, 112), landmarks=FRONTAL, score=0.75)
    quality = measure(face, crop)
    assert quality.score == 0.75
    assert quality.eye_distance_px == pytest.approx(35.2377, abs=1e-3) == eye_distance_px(FRONTAL)
    assert quality.sharpness == sharpness(crop)
    assert measure_crop(crop) == (None, None, sharpness(crop), None)
