"""Hair behind and before the face, hats, beards and moustaches."""

import numpy as np

from training.synthetic.canvas import Points, smooth
from training.synthetic.head import outline
from training.synthetic.pen import Pen, arc, mirrored, points
from training.synthetic.scene import HEAD_CENTRE_Y

_FALLS_TO = {"long": 2.4, "bob": 0.95, "curly": 0.75}
_PUFF = {"short": 0.45, "curly": 1.2}
_STRANDS = 18


def draw_hair_behind(pen: Pen) -> None:
    """The part of long, bobbed and curly hair that lies behind the head."""
    person = pen.person
    bottom = _FALLS_TO.get(person.hair_style)
    if bottom is None:
        return
    curly = person.hair_style == "curly"
    wide = person.half_width + person.hair_volume * (1.2 if curly else 0.75)
    top = arc((0, -0.1), (wide, person.hair_volume - person.crown_y - 0.1), 20, np.pi, 2 * np.pi)
    shape = np.concatenate([top, mirrored([wide * 1.06, wide], [bottom * 0.6, bottom])])
    if curly:
        shape = _curled(smooth(shape, 1), person.hair_volume * 0.35, person.parting)
    pen.canvas.polygon(smooth(pen.at.flat(shape, -0.25)), person.hair * 0.72)


def _curled(shape: Points, size: float, phase: float) -> Points:
    """The outline with bumps of ``size`` face units outwards and inwards."""
    outward = shape - np.array([0.0, HEAD_CENTRE_Y])
    bumps = size * np.sin(np.arange(len(shape)) * 2.2 + phase * 9)
    curled: Points = shape + outward / np.linalg.norm(outward, axis=1, keepdims=True) * bumps[:, None]
    return curled


def draw_hair_before(pen: Pen) -> None:
    """Hair over the forehead, or a hat."""
    person = pen.person
    if pen.scene.hat:
        _draw_hat(pen)
        return
    if person.hair_style == "bald":
        return
    puff = person.hair_volume * _PUFF.get(person.hair_style, 0.8)
    cap = arc((0, -0.1), (person.half_width + puff * 0.45, puff - person.crown_y - 0.1), 22, np.pi, 2 * np.pi)
    if person.hair_style == "curly":
        cap = _curled(cap, 0.3 * person.hair_volume, person.parting)
    outer, inner = pen.at.flat(cap, -0.05), pen.at(_hairline(pen), 0.03)
    shape = np.concatenate([outer, inner])
    pen.canvas.polygon(shape, person.hair)
    _draw_strands(pen, shape, outer, inner)


def _hairline(pen: Pen) -> Points:
    """From the temple on the right over the forehead to the temple on the left."""
    style, line, part = pen.person.hair_style, pen.person.hairline_y, pen.person.parting
    wide = pen.person.half_width
    if style == "fringe":
        x = wide * np.array([1.0, 0.7, 0.5, 0.15, -0.2, -0.55, -0.72, -1.0])
        return points(x, [-0.12, -0.2, -0.34, -0.3, -0.33, -0.3, -0.2, -0.12])
    if style in ("parted", "long", "bob"):
        middle = [part + 0.16, part, part - 0.16]
        x = np.array([wide, 0.86 * wide, 0.62 * wide, *middle, -0.62 * wide, -0.86 * wide, -wide])
        return points(x, [-0.12, -0.35, line + 0.22, line + 0.02, line - 0.12, line + 0.04, line + 0.2, -0.35, -0.12])
    x = np.array([wide, 0.86 * wide, 0.7 * wide, 0.3 * wide, part * 0.5, -0.3 * wide, -0.7 * wide, -0.86 * wide, -wide])
    return points(x, [-0.12, -0.42, line + 0.06, line, line + 0.05, line, line + 0.06, -0.42, -0.12])


def _draw_strands(pen: Pen, shape: Points, outer: Points, inner: Points) -> None:
    """Lighter and darker strands from the crown to the hairline, inside the shape."""
    combed = pen.canvas.copy()
    start = outer[np.linspace(1, len(outer) - 2, _STRANDS).astype(int)]
    stop = inner[np.linspace(len(inner) - 1, 0, _STRANDS).astype(int)]
    for number, (a, b) in enumerate(zip(start, stop, strict=True)):
        middle = (a + b) / 2 + (number % 5 - 2) * 0.9
        combed.line(np.array([a, middle, b]), pen.person.hair * (0.72 if number % 2 else 1.28) + 6, 0.8)
    pen.canvas.clip(shape, combed, alpha=0.55)


def _draw_hat(pen: Pen) -> None:
    wide = pen.person.half_width
    colour = pen.scene.clothes[::-1]
    crown = arc((0, -0.35), (wide * 1.1, -pen.person.crown_y - 0.1), 20, np.pi, 2 * np.pi)
    pen.canvas.polygon(pen.at.flat(crown), colour * 0.8)
    pen.canvas.polygon(pen.at.flat(mirrored([wide * 1.12, wide * 1.1], [-0.5, -0.33]), 0.1), colour * 0.6)


def draw_beard(pen: Pen) -> None:
    """Stubble, goatee or full beard, along the jaw."""
    person = pen.person
    if person.beard in ("none", "moustache"):
        return
    goatee = person.beard == "goatee"
    widest = 0.38 if goatee else 0.97
    jaw = outline(person)
    jaw = jaw[jaw[:, 1] > (0.8 if goatee else 0.25)]
    jaw = points(np.clip(jaw[:, 0] * 0.985, -widest, widest), jaw[:, 1])
    upper = person.mouth_y - (0.02 if goatee else 0.12)
    inner = points([-0.3, 0.3], [upper, upper])
    if not goatee:
        x = [-0.62, -0.45, -0.2, 0.2, 0.45, 0.62]
        inner = points(x, [0.42, upper, upper + 0.02, upper + 0.02, upper, 0.42])
    shape = np.concatenate([inner, jaw[jaw[:, 0] > 0], [(0, person.chin_y)], jaw[jaw[:, 0] <= 0]])
    alpha, blur = (0.38, 2.0) if person.beard == "stubble" else (0.9, 1.0)
    pen.canvas.blend(pen.at.flat(shape, 0.05), person.beard_colour, alpha=alpha, blur=blur)


def draw_moustache(pen: Pen) -> None:
    """The moustache, alone or as part of a beard."""
    person = pen.person
    if person.beard in ("none", "stubble"):
        return
    y = person.mouth_y - person.upper_lip - 0.02 - 0.03 * pen.scene.smile
    wide = person.mouth_width
    shape = mirrored([0, wide * 0.6, wide, wide * 0.5, 0], y + np.array([-0.09, -0.05, 0.07, 0.03, 0.01]))
    pen.canvas.blend(smooth(pen.at(shape, 0.06), 1), person.beard_colour, alpha=0.92, blur=0.6)
