"""How good a picture of a face is for recognition, in four measured numbers.

Owns the definitions; who refuses what is the caller's business. Angles are in radians.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from facemargin.preprocessing.align import TEMPLATES
from facemargin.preprocessing.detect import Face

_FRONTAL = TEMPLATES["arcface-112"].points
_NOSE_DEPTH = 0.4
"""How far the nose tip stands out before the plane of eyes and mouth corners, in eye distances of a frontal face."""


class Pose(NamedTuple):
    """Where a head is turned, estimated from five landmarks.

    Attributes:
        yaw_rad: about the vertical axis; positive when the face looks to the right side of the picture.
        pitch_rad: about the axis through the ears; positive when it looks up.
        roll_rad: in the plane of the picture; positive when the head is tilted clockwise.
    """

    yaw_rad: float
    pitch_rad: float
    roll_rad: float


class Quality(NamedTuple):
    """What is measured of one face.

    Attributes:
        score: the detector's confidence, 0 to 1; None for a crop that came already aligned.
        eye_distance_px: distance between the eyes in pixels of the picture as displayed; None for an aligned crop.
        sharpness: see `sharpness`; below about 50 the crop looks blurred.
        pose: None for an aligned crop.
    """

    score: float | None
    eye_distance_px: float | None
    sharpness: float
    pose: Pose | None


def measure(face: Face, crop: NDArray[np.uint8]) -> Quality:
    """Measure a detected face and its aligned crop, uint8 (H, W, 3)."""
    return Quality(face.score, eye_distance_px(face.landmarks), sharpness(crop), pose(face.landmarks))


def measure_crop(crop: NDArray[np.uint8]) -> Quality:
    """Measure a crop that came already aligned, uint8 (H, W, 3): only its sharpness can be known."""
    return Quality(None, None, sharpness(crop), None)


def eye_distance_px(landmarks: NDArray[np.float32]) -> float:
    """Distance between the first two of the landmarks (5, 2), in pixels."""
    return float(np.linalg.norm(landmarks[1] - landmarks[0]))


def sharpness(crop: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of the grey crop.

    sharpness = Var(∇²g), g the grey values 0…255 and ∇² the 3×3 kernel (0 1 0; 1 −4 1; 0 1 0). It grows with the
    strength of fine edges, so it is comparable only between crops of one size.

    Args:
        crop: uint8 (H, W, 3), RGB.

    Returns:
        At least 0, in squared grey levels.
    """
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def pose(landmarks: NDArray[np.float32]) -> Pose:
    """Estimate where the head is turned.

    A rigid head of five points (the alignment template as its front view, the nose tip `_NOSE_DEPTH` eye distances
    nearer to the viewer) is fitted by least squares under weak perspective: landmarks = s·(R·head)_xy + t. R is the
    nearest pair of orthonormal rows to the affine solution, completed by their cross product, and is read as
    Rz(roll)·Ry(yaw)·Rx(pitch). Heads differ, so expect errors of some 5 to 10 degrees; a face that lies exactly on
    the template has angles 0 by definition.

    Args:
        landmarks: (5, 2) in pixels, in the order of the template.

    Returns:
        The three angles in radians; yaw within [-π/2, π/2].
    """
    head = _head()
    affine, *_ = np.linalg.lstsq(head, landmarks - landmarks.mean(axis=0), rcond=None)
    left, _, right = np.linalg.svd(affine.T, full_matrices=False)
    rows = left @ right
    depth = np.cross(rows[0], rows[1])
    return Pose(
        yaw_rad=math.asin(float(np.clip(depth[0], -1.0, 1.0))),
        pitch_rad=math.atan2(-float(depth[1]), float(depth[2])),
        roll_rad=math.atan2(float(rows[1, 0]), float(rows[0, 0])),
    )


def _head() -> NDArray[np.float64]:
    """Centred (5, 3) points of a head seen from the front: x to the right, y down, z away from the viewer."""
    depth = np.zeros((5, 1))
    depth[2] = -_NOSE_DEPTH * np.linalg.norm(_FRONTAL[1] - _FRONTAL[0])
    head = np.hstack([_FRONTAL, depth])
    return np.asarray(head - head.mean(axis=0), dtype=np.float64)
