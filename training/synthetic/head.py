"""Head and shoulders: outline, neck, clothes, ears, skin with its shadows, freckles, glasses."""

import numpy as np

from training.synthetic.canvas import Points, smooth
from training.synthetic.identity import Identity
from training.synthetic.pen import SIDES, Pen, arc, mirrored, points

_SHADOW = (0.7, 0.62, 0.62)
_SPOT = (0.62, 0.54, 0.5)


def outline(person: Identity) -> Points:
    """The face's outline in face units: half an ellipse above, a jaw of its own shape below."""
    top = arc((0, 0.2), (person.half_width, 0.2 - person.crown_y), 24, np.pi, 2 * np.pi)
    down = np.linspace(0, 1, 16)[1:-1]
    narrowing = (1 - down**person.jaw_power) ** 0.62
    width = person.half_width * narrowing * (1 - (1 - person.jaw_width / 0.6) * 0.45 * np.sin(np.pi * down))
    right = points(width, 0.2 + (person.chin_y - 0.2) * down)
    return np.concatenate([top, right, [(0.0, person.chin_y)], right[::-1] * (-1, 1)])


def draw_body(pen: Pen) -> None:
    """Neck and shoulders."""
    person = pen.person
    neck, chin = person.jaw_width * 0.86, person.chin_y
    column = mirrored([neck, neck * 1.05], [0.6, chin + 0.5])
    pen.canvas.polygon(pen.at.flat(column, -0.35), person.skin * 0.74)
    shoulders = mirrored([0, neck, 2.6, 2.6], [chin + 0.42, chin + 0.22, chin + 0.75, 4])
    pen.canvas.polygon(smooth(pen.at.flat(shoulders, -0.35), 1), pen.scene.clothes)


def draw_ears(pen: Pen) -> None:
    """Both ears with the dark of their shells."""
    person = pen.person
    for side in SIDES:
        ear = arc((side * (person.half_width + 0.04), 0.18), (person.ear_size * 0.55, person.ear_size), 14)
        seen = pen.at.flat(ear, -0.12)
        pen.canvas.polygon(seen, person.skin * 0.88)
        pen.canvas.blend(seen * 0.6 + seen.mean(axis=0) * 0.4, person.skin * 0.62, alpha=0.6, blur=0.6)


def draw_skin(pen: Pen) -> Points:
    """The face with cheeks, eye sockets, folds and chin; returns its outline in crop pixels."""
    person, canvas, at = pen.person, pen.canvas, pen.at
    face = smooth(at.flat(outline(person)), 1)
    canvas.polygon(face, person.skin)
    red = np.clip(person.skin * (1.08, 0.78, 0.76), 0, 255)
    fold_alpha = 0.15 + 0.4 * person.folds * (0.6 + pen.scene.smile)
    for side in SIDES:
        canvas.blend(at(arc((side * 0.44, 0.46), (0.2, 0.15), 12)), red, alpha=person.blush, blur=3.0)
        socket = at(arc((side * person.eye_x, -0.02), (0.24, 0.15), 12))
        canvas.blend(socket, person.skin * _SHADOW, alpha=0.42, blur=2.6)
        fold = points(side * np.array([0.2, 0.3, 0.36, 0.35, 0.27]), [0.45, 0.56, 0.72, 0.74, 0.6])
        canvas.blend(at(fold), person.skin * 0.55, alpha=fold_alpha, blur=0.8)
    chin = at(arc((0, person.chin_y - 0.17), (0.17, 0.05), 10))
    canvas.blend(chin, np.minimum(person.skin * 1.12, 255), alpha=0.35, blur=2.0)
    return face


def draw_spots(pen: Pen) -> None:
    """Freckles or moles, where the person has any."""
    size = pen.person.spot_size
    if size < 0.008:
        return
    for x, y in pen.person.spots:
        pen.canvas.polygon(pen.at(arc((x, y), (size, size), 6)), pen.person.skin * _SPOT)


def draw_glasses(pen: Pen) -> None:
    """Glasses, when a wearer has them on."""
    person, canvas, at = pen.person, pen.canvas, pen.at
    if person.glasses == "none" or not pen.scene.glasses_on:
        return
    size = person.glasses_size
    power, height = (1.0, 0.95) if person.glasses == "round" else (0.45, 0.68)
    circle = arc((0, 0), (1, 1), 25)[:-1]
    ring = np.sign(circle) * np.abs(circle) ** power * (size, size * height)
    for side in SIDES:
        lens = at(ring + np.array([side * (person.eye_x + 0.01), 0.03]), 0.1)
        canvas.blend(lens, (205, 215, 225), alpha=0.1)
        canvas.line(lens, person.frame, 0.95, closed=True)
        arm = points([side * (person.eye_x + size), side * person.half_width * 0.98], [-0.02, -0.06])
        canvas.line(at(arm, np.array([0.1, 0.0])), person.frame, 0.9)
    gap = person.eye_x - size
    canvas.line(at(points([-gap, 0, gap], [0.0, -0.03, 0.0]), 0.16), person.frame, 0.95)
