"""Draws one aligned 112×112 picture of a person in a scene. Nothing here is, or comes from, a real photograph.

Owns the order of the layers, the light and the camera.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.canvas import Canvas, Points
from training.synthetic.features import draw_eyes, draw_mouth, draw_nose
from training.synthetic.hair import draw_beard, draw_hair_before, draw_hair_behind, draw_moustache
from training.synthetic.head import draw_body, draw_ears, draw_glasses, draw_skin, draw_spots
from training.synthetic.identity import Identity
from training.synthetic.pen import Pen
from training.synthetic.scene import Projection, Scene

SIDE = 112
_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


def draw_face(person: Identity, scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw an aligned crop.

    Args:
        person: who.
        scene: how they are seen.
        rng: of the camera's noise.

    Returns:
        uint8 (112, 112, 3), RGB, landmarks where the template ``arcface-112`` has them but for the scene's error.
    """
    backdrop = np.clip(scene.background, 0, 255).astype(np.uint8)
    pen = Pen(person, scene, Projection(person, scene), Canvas(backdrop, SIDE))
    face = _draw_layers(pen)
    picture = pen.canvas.finish().astype(np.float32)
    picture *= _light(scene, face)[..., None] * scene.tint.astype(np.float32)
    return _photographed(picture, scene, rng)


def _draw_layers(pen: Pen) -> Points:
    """Everything from back to front; returns the outline of the face in crop pixels."""
    draw_hair_behind(pen)
    draw_body(pen)
    draw_ears(pen)
    face = draw_skin(pen)
    draw_beard(pen)
    draw_nose(pen)
    draw_mouth(pen)
    draw_eyes(pen)
    draw_spots(pen)
    draw_moustache(pen)
    draw_hair_before(pen)
    draw_glasses(pen)
    return face


def _light(scene: Scene, face: Points) -> NDArray[np.float32]:
    """How much light each pixel gets (112, 112): Lambert on an ellipsoid over the face, plain light around it."""
    low, high = face.min(axis=0), face.max(axis=0)
    centre, radii = (low + high) / 2, (high - low) / 2 * 1.04
    across = (_X - np.float32(centre[0])) / np.float32(radii[0])
    down = (_Y - np.float32(centre[1])) / np.float32(radii[1])
    inside = 1 - across * across - down * down
    x, y, z = scene.light.astype(np.float32)
    lambert = np.maximum(0, across * x + down * y + np.sqrt(np.maximum(inside, 0.02)) * z)
    lit = np.float32(scene.ambient) + np.float32(scene.diffuse) * lambert
    plain = np.float32(scene.ambient + scene.diffuse * 0.55)
    light = plain + np.clip(inside * 6 + 1, 0, 1) * (lit - plain)
    if scene.shadow > 0:
        beyond = (_X - 56) * (2 * x) + (_Y - 56) * np.float32(0.4)
        light = light * (1 - np.float32(scene.shadow) / (1 + np.exp(np.clip(beyond / 3, -30, 30))))
    scaled: NDArray[np.float32] = (light * scene.gain).astype(np.float32)
    return scaled


def _photographed(picture: NDArray[np.float32], scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur and noise of the camera."""
    if scene.blur > 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), scene.blur)
    picture = picture + rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(scene.noise)
    finished: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return finished
