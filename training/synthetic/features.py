"""Eyes, brows, nose and mouth."""

import numpy as np
from numpy.typing import NDArray

from training.synthetic.canvas import Points
from training.synthetic.pen import SIDES, Pen, arc, loop, points

_EYE_LIFT = -0.03
_WHITE, _PUPIL, _LID_SHADOW = (226, 220, 214), (12, 10, 10), (60, 50, 50)
_THROAT, _TEETH = (58, 18, 20), (228, 222, 212)


def draw_eyes(pen: Pen) -> None:
    """Both eyes with their brows."""
    for side in SIDES:
        _draw_eye(pen, side)
        _draw_brow(pen, side)


def _draw_eye(pen: Pen, side: int) -> None:
    person, scene, canvas = pen.person, pen.scene, pen.canvas
    openness = person.eye_height * (1 - 0.9 * scene.closed_eye) * (1 - 0.22 * max(0.0, scene.smile)) + 0.006
    x = np.linspace(-1, 1, 11)
    upper, lower = -openness * (1 - np.abs(x) ** 2.3), 0.72 * openness * (1 - x**2)
    slope = -np.tan(person.eye_tilt_rad) * x * person.eye_width

    def place(values: NDArray[np.float64], stretch: float = 1.0) -> Points:
        along = side * (person.eye_x + x * person.eye_width * stretch)
        return pen.at(points(along, values + slope), _EYE_LIFT)

    top, low = place(upper), place(lower)
    shape = np.concatenate([top, low[::-1]])
    ball = canvas.copy()
    ball.polygon(shape, _WHITE)
    centre = (side * person.eye_x + 0.05 * scene.gaze[0], -0.012 + 0.03 * scene.gaze[1])
    for share, colour in ((1.0, person.iris * 0.62), (0.82, person.iris), (0.42, np.array(_PUPIL))):
        size = share * person.iris_size
        ball.polygon(pen.at(arc(centre, (size, size), 14), _EYE_LIFT), colour)
    glint = (centre[0] + 0.043 * scene.light[0], centre[1] - 0.028)
    ball.polygon(pen.at(arc(glint, (0.018, 0.018), 8), _EYE_LIFT), (250, 250, 250))
    ball.blend(np.concatenate([top, (top * 0.55 + low * 0.45)[::-1]]), _LID_SHADOW, alpha=0.35, blur=0.5)
    canvas.clip(shape, ball)
    canvas.line(top, person.skin * 0.28, 0.6 + 0.9 * person.lashes)
    canvas.line(low, person.skin * 0.58, 0.5)
    crease = place(upper * 1.25 - 0.02 - 0.035 * person.lid, 1.05)
    canvas.line(crease[1:-1], person.skin * 0.6, 0.5)


def _draw_brow(pen: Pen, side: int) -> None:
    person = pen.person
    x = np.linspace(-1.05, 1.25, 9)
    arch = person.brow_arch * (1 - ((x - 0.25) / 1.2) ** 2)
    tilt = np.tan(person.brow_tilt_rad) * x * person.eye_width
    centre = -person.brow_gap - 0.035 * pen.scene.raised_brow - arch - tilt
    half = person.brow_thickness / 2 * np.sqrt(np.clip(1.15 - np.abs(x + 0.15) ** 3 / 2.3, 0.05, 1))
    along = side * (person.eye_x + x * person.eye_width * 1.15)
    pen.canvas.blend(pen.at(loop(along, centre - half, centre + half), 0.02), person.brow_colour, alpha=0.9, blur=0.45)


def draw_nose(pen: Pen) -> None:
    """The shaded side away from the light, the bridge's highlight, the wings and nostrils."""
    person, canvas, at = pen.person, pen.canvas, pen.at
    tip, wide, height, bridge = person.nose_y, person.nose_width, person.nose_length, person.nose_bridge
    away = -1.0 if pen.scene.light[0] > 0 else 1.0
    shaded = points(
        away * np.array([bridge, bridge * 1.2, wide, wide * 0.4, 0.01, 0.01]),
        [-0.08, 0.15, tip + 0.02, tip + 0.03, tip - 0.1, 0.0],
    )
    lift = np.array([0.08, 0.1, 0.05, 0.12, height * 0.8, 0.1])
    strength = 0.34 + 0.2 * abs(float(pen.scene.light[0]))
    canvas.blend(at(shaded, lift), person.skin * (0.55, 0.48, 0.48), alpha=strength, blur=1.3)
    ridge = points([-0.03, 0.03, 0.045, -0.045], [-0.1, -0.1, tip - 0.06, tip - 0.06])
    ridge_seen = at(ridge, np.array([0.12, 0.12, height, height]))
    canvas.blend(ridge_seen, np.minimum(person.skin * 1.2 + 12, 255), alpha=0.45, blur=1.3)
    base = np.concatenate(
        [
            arc((-wide * 0.72, tip + 0.03), (wide * 0.34, 0.06), 6, np.pi * 1.2, np.pi * 0.4),
            arc((0, tip + 0.04), (wide * 0.5, 0.06), 5, np.pi * 0.75, np.pi * 0.25),
            arc((wide * 0.72, tip + 0.03), (wide * 0.34, 0.06), 6, np.pi * 0.6, -np.pi * 0.2),
        ]
    )
    canvas.line(at(base, height * 0.55), person.skin * 0.52, 0.7)
    for side in SIDES:
        nostril = arc((side * wide * 0.45, tip + 0.055), (wide * 0.24, 0.026), 8)
        canvas.polygon(at(nostril, height * 0.6), person.skin * 0.32)


def draw_mouth(pen: Pen) -> None:
    """Lips, with teeth and throat where the mouth is open."""
    person, scene, canvas = pen.person, pen.scene, pen.canvas
    wide = person.mouth_width * (1 + 0.14 * scene.smile)
    corner = person.mouth_y - 0.07 * scene.smile - person.lip_curve
    gap = 0.16 * scene.open_mouth + 0.045 * max(0.0, scene.smile - 0.4)
    x = np.linspace(-1, 1, 13)
    bow = 1 - x**2
    middle = corner + (person.mouth_y + 0.02 * scene.smile - corner) * bow
    upper_in, lower_in = middle - 0.3 * gap * bow, middle + 0.7 * gap * bow
    cupid = 1 - 0.28 * np.exp(-((x / 0.16) ** 2))
    upper_out = upper_in - person.upper_lip * np.sqrt(bow) * cupid
    lower_out = lower_in + person.lower_lip * np.sqrt(bow)
    lift = 0.05 * np.concatenate([bow, bow])

    def band(top: NDArray[np.float64], low: NDArray[np.float64]) -> Points:
        return pen.at(loop(x * wide, top, low), lift)

    under = arc((0, person.mouth_y + person.lower_lip + 0.09 + gap * 0.7), (wide * 0.55, 0.03), 10)
    canvas.blend(pen.at(under), person.skin * 0.55, alpha=0.4, blur=1.5)
    if gap > 0.015:
        canvas.polygon(band(upper_in, lower_in), _THROAT)
        canvas.polygon(band(upper_in, np.minimum(upper_in + min(0.075, 0.75 * gap) * bow, lower_in)), _TEETH)
    canvas.polygon(band(upper_out, upper_in), person.lip * 0.9)
    canvas.polygon(band(lower_in, lower_out), person.lip)
    shine = band(lower_in + 0.45 * person.lower_lip - 0.01, lower_in + 0.45 * person.lower_lip + 0.015 * bow)
    canvas.blend(shine[4:-4], np.minimum(person.lip * 1.35 + 15, 255), alpha=0.5, blur=0.7)
    if gap <= 0.015:
        canvas.line(pen.at(points(x * wide * 1.03, middle), 0.04), person.lip * 0.45, 0.6)
