"""How a drawn person is seen in one picture: pose, expression, light, background and camera; and the projection."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemargin.preprocessing.align import TEMPLATES, similarity_transform
from training.synthetic.identity import Identity

HEAD_CENTRE_Y = 0.12
HEAD_DEPTH = 0.95
CAMERA_DISTANCE = 6.5


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture's circumstances; angles in radians.

    Attributes:
        yaw_rad, pitch_rad, roll_rad: head pose; alignment removes the roll but for the detector's error.
        landmark_error: (5, 2) error of the five landmarks in face units, as a detector makes.
        smile, open_mouth, raised_brow, closed_eye: expression, 0…1.
        gaze: (x, y) direction of the eyes, −1…1.
        light: unit vector to the light; ambient, diffuse: strengths; tint: RGB factors of the light.
        background, clothes: colours; glasses_on: whether a wearer of glasses wears them here.
        blur, noise, quality: camera: blur in pixels, noise in grey levels, JPEG quality.
    """

    yaw_rad: float
    pitch_rad: float
    roll_rad: float
    landmark_error: NDArray[np.float64]
    smile: float
    open_mouth: float
    raised_brow: float
    closed_eye: float
    gaze: NDArray[np.float64]
    light: NDArray[np.float64]
    ambient: float
    diffuse: float
    tint: NDArray[np.float64]
    background: NDArray[np.float64]
    clothes: NDArray[np.float64]
    glasses_on: bool
    hat: bool
    shadow: float
    gain: float
    blur: float
    noise: float
    quality: int


def draw_scene(rng: np.random.Generator) -> Scene:
    """Circumstances drawn at random, independent of the person."""
    direction = np.array([rng.normal(0, 0.75), rng.normal(-0.35, 0.4), 1.0])
    smiling = rng.random() < 0.5
    return Scene(
        yaw_rad=float(np.clip(rng.normal(0, 0.3), -0.75, 0.75)),
        pitch_rad=float(np.clip(rng.normal(0, 0.16), -0.4, 0.4)),
        roll_rad=float(rng.normal(0, 0.15)),
        landmark_error=rng.normal(0, 0.02, (5, 2)),
        smile=float(rng.uniform(0.3, 1)) if smiling else float(rng.uniform(-0.25, 0.2)),
        open_mouth=float(max(0.0, rng.normal(0.0, 0.4))) * (1.0 if smiling else 0.5),
        raised_brow=float(rng.normal(0, 0.5)),
        closed_eye=1.0 if rng.random() < 0.03 else float(rng.uniform(0, 0.35)),
        gaze=rng.normal(0, 0.35, 2),
        light=direction / np.linalg.norm(direction),
        ambient=float(rng.uniform(0.3, 0.65)),
        diffuse=float(rng.uniform(0.3, 0.75)),
        tint=1 + rng.uniform(-0.11, 0.11) * np.array([1.0, 0.1, -1.0]),
        background=rng.uniform(20, 230, 3) * 0.55 + rng.uniform(20, 230) * 0.45 + _backdrop(rng),
        clothes=rng.uniform(15, 235, 3),
        glasses_on=bool(rng.random() < 0.8),
        hat=bool(rng.random() < 0.05),
        shadow=float(rng.uniform(0, 0.5)) if rng.random() < 0.25 else 0.0,
        gain=float(np.exp(rng.normal(0, 0.16))),
        blur=float(abs(rng.normal(0, 0.55))),
        noise=float(rng.uniform(0.5, 6)),
        quality=int(rng.integers(60, 96)),
    )


def _backdrop(rng: np.random.Generator) -> NDArray[np.float64]:
    """Differences of grey and, less, of colour on a 4×4 grid."""
    size = float(rng.uniform(3, 40))
    return rng.normal(0, size, (4, 4, 1)) + rng.normal(0, 0.4 * size, (4, 4, 3))


class Projection:
    """Face units to crop pixels for one head in one pose, aligned by its five landmarks as a photograph would be.

    Points without depth are put on the head's ellipsoid.
    """

    def __init__(self, person: Identity, scene: Scene) -> None:
        self.radii = np.array([person.half_width, 0.5 * (person.chin_y - person.crown_y), HEAD_DEPTH])
        self.yaw = scene.yaw_rad
        self.rotation = _rotation(scene.yaw_rad, scene.pitch_rad, scene.roll_rad)
        seen = self._seen(*self.landmarks(person))
        matrix = similarity_transform(seen + scene.landmark_error, TEMPLATES["arcface-112"].points)
        self.linear, self.shift = matrix[:, :2], matrix[:, 2]
        self.pixels_per_unit = float(np.hypot(matrix[0, 0], matrix[1, 0]))

    def landmarks(self, person: Identity) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The five landmarks in face units, and how far each stands out of the head's surface."""
        eye, mouth = person.eye_x, person.mouth_width
        points = np.array(
            [(-eye, 0), (eye, 0), (0, person.nose_y), (-mouth, person.mouth_y), (mouth, person.mouth_y)], dtype=float
        )
        return points, np.array([-0.04, -0.04, person.nose_length, 0.0, 0.0])

    def surface(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Depth z of the head's surface at (x, y); 0 outside its outline."""
        x, y = points[..., 0] / self.radii[0], (points[..., 1] - HEAD_CENTRE_Y) / (1.12 * self.radii[1])
        depth: NDArray[np.float64] = self.radii[2] * np.sqrt(np.maximum(0.0, 1 - x**2 - y**2))
        return depth

    def _seen(self, points: ArrayLike, lift: float | NDArray[np.float64] = 0.0) -> NDArray[np.float64]:
        flat = np.asarray(points, dtype=np.float64)
        solid = np.concatenate([flat, (self.surface(flat) + lift)[..., None]], axis=-1)
        solid[..., 1] -= HEAD_CENTRE_Y
        turned = solid @ self.rotation.T
        seen: NDArray[np.float64] = turned[..., :2] / (1 - turned[..., 2:] / CAMERA_DISTANCE)
        return seen

    def __call__(self, points: ArrayLike, lift: float | NDArray[np.float64] = 0.0) -> NDArray[np.float64]:
        """Crop pixels (K, 2) of points (K, 2) on the head, ``lift`` face units above its surface."""
        projected: NDArray[np.float64] = self._seen(points, lift) @ self.linear.T + self.shift
        return projected

    def flat(self, points: ArrayLike, depth: float = 0.0, turn: float = 1.0) -> NDArray[np.float64]:
        """Crop pixels of an outline (a silhouette): it shifts by its depth but does not narrow with the yaw."""
        outline = np.asarray(points, dtype=np.float64)
        widen = np.hypot(np.cos(self.yaw), self.radii[2] / self.radii[0] * np.sin(self.yaw)) / np.cos(self.yaw)
        solid = np.column_stack([outline[:, 0] * widen * turn, outline[:, 1] - HEAD_CENTRE_Y])
        solid = np.column_stack([solid, np.full(len(solid), depth)])
        turned = solid @ self.rotation.T
        # The silhouette lies in the picture's plane: what the rotation moved in depth is dropped.
        projected: NDArray[np.float64] = turned[:, :2] @ self.linear.T + self.shift
        return projected


def _rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    rotation: NDArray[np.float64] = about_z @ about_x @ about_y
    return rotation
