"""Where the faces lie in the pictures of a set: aligned to which template, whole photographs, or something else.

Runs the detector on some of the pictures and compares the five landmarks with the template. Owns the measurement and
its reading; sizes are here too, because a template is a size and five places.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facemargin.doctor import Finding
from facemargin.errors import ModelNotFoundError
from facemargin.preprocessing import TEMPLATES, Detector, Template, central_face, similarity_transform
from training.doctor.case import Case, DataSet
from training.doctor.reading import in_threads, measured

PICTURES = 150
"""Pictures of a set that the detector looks at, drawn at random with a fixed seed."""

FOUND = 0.5
WHOLE, TIGHT = 0.75, 1.3
"""Scale of the face against the template: below it a picture is a whole photograph, above it cut too tightly."""

SCALES = (0.86, 1.1)
SHIFT = 4.0
ROTATION_DEG = 4.0
WANDER = 8.0
"""Limits of an aligned set, in pixels of a 112-pixel-high crop: the median shift, and the 90 % point of how far faces
lie from their own median place. YuNet itself errs on right crops by a factor of 0.95 in scale (docs/doctor.md)."""

_HEIGHT = 112.0
_PADDING = 0.25
_RATIO = 0.01
_SHAPES_SHOWN = 5


@dataclass(frozen=True)
class Layout:
    """The faces of a set against a template, in pixels of a 112-pixel-high crop.

    Attributes:
        template: compared with.
        looked: pictures given to the detector.
        found: those with a face.
        scale: median size of the face against the template.
        rotation_deg: median rotation, clockwise as displayed.
        shift: median place of the face's centre minus the template's, x and y.
        wander: 90 % point of the distance of a face from the set's own median place, over all five landmarks.
    """

    template: str
    looked: int
    found: int
    scale: float
    rotation_deg: float
    shift: tuple[float, float]
    wander: float

    @property
    def verdict(self) -> str:
        """What the pictures are; empty for crops aligned to the template."""
        if self.found < FOUND * self.looked:
            return "most have no face that the detector finds"
        if self.scale < WHOLE:
            return "they look like whole or loosely cut photographs"
        if self.scale > TIGHT:
            return "the faces are cut more tightly than the template"
        if self.wander > WANDER:
            return "the faces lie at different places: they are not aligned"
        if max(map(abs, self.shift)) > SHIFT or abs(self.rotation_deg) > ROTATION_DEG:
            return "they look aligned, but to another template: shifted or rotated"
        if not SCALES[0] <= self.scale <= SCALES[1]:
            return "they look aligned, but to another template: the faces have another size"
        return ""


def layout(case: Case, data: DataSet) -> Layout | None:
    """Where the faces lie; None without a detector or without pictures.

    The template is the bundle's or config's, else the one with the ratio of sides of most pictures.
    """
    found = case.once(measured, data)
    if not len(found.places):
        return None
    try:
        detector = Detector(score_threshold=0.5)
    except ModelNotFoundError:
        return None
    chosen = np.random.default_rng(0).permutation(found.places)[:PICTURES]
    template = _template(case, [figures.size for figures in found.figures])

    def landmarks(place: int) -> NDArray[np.float64] | None:
        return find_landmarks(detector, data.picture(place).decode())

    marks = list(in_threads(landmarks, chosen.tolist(), f"detecting in {data.name}", case.console))
    return summarised(template, [one for one in marks if one is not None], len(chosen))


def _template(case: Case, sizes: list[tuple[int, int]]) -> Template:
    if case.expected is not None:
        return TEMPLATES[case.expected.template]
    height, width = Counter(sizes).most_common(1)[0][0]
    fitting = [one for one in TEMPLATES.values() if _same_ratio((height, width), one.size)]
    return fitting[0] if fitting else next(iter(TEMPLATES.values()))


def find_landmarks(detector: Detector, image: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Landmarks (5, 2) of the central face in pixels of the picture at a height of 112, or None where there is no face.

    The picture is brought to that height and its border repeated by a quarter outwards: in a tight crop the detector
    needs to see where the face ends. A photograph in which nothing is found so is searched at three times the size.
    """
    for enlargement in (1.0, 3.0):
        scale = enlargement * _HEIGHT / image.shape[0]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        size = (max(1, round(image.shape[1] * scale)), round(_HEIGHT * enlargement))
        resized = cv2.resize(image, size, interpolation=how)
        edge = round(_PADDING * size[1])
        padded = cv2.copyMakeBorder(resized, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        faces = detector.detect(padded)
        if faces:
            points = central_face(faces, padded.shape[:2]).landmarks.astype(np.float64)
            return (points - edge) / enlargement
    return None


def summarised(template: Template, marks: list[NDArray[np.float64]], looked: int) -> Layout:
    """The layout of a set from the landmarks (5, 2) of its faces, in pixels at a height of 112."""
    if not marks:
        nothing = float("nan")
        return Layout(template.name, looked, 0, nothing, nothing, (nothing, nothing), nothing)
    points = np.array(marks)
    matrices = np.array([similarity_transform(template.points, one) for one in marks])
    shift = np.median(points.mean(axis=1) - template.points.mean(axis=0), axis=0)
    wander = np.linalg.norm(points - np.median(points, axis=0), axis=2).mean(axis=1)
    return Layout(
        template=template.name,
        looked=looked,
        found=len(marks),
        scale=float(np.median(np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]))),
        rotation_deg=float(np.median(np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])))),
        shift=(float(shift[0]), float(shift[1])),
        wander=float(np.percentile(wander, 90)),
    )


def layout_findings(case: Case) -> Iterator[Finding]:
    """Sizes and places of the faces of every set."""
    for data in case.sets:
        if len(case.once(measured, data).places):
            yield _sizes(case, data)
            yield _places(case, data)


def _sizes(case: Case, data: DataSet) -> Finding:
    subject = f"{data.name}: sizes"
    sizes = Counter(figures.size for figures in case.once(measured, data).figures)
    shown = ", ".join(f"{h}x{w} ({count:,})" for (h, w), count in sizes.most_common(_SHAPES_SHOWN))
    shown += f" and {len(sizes) - _SHAPES_SHOWN} others" if len(sizes) > _SHAPES_SHOWN else ""
    wanted = case.expected
    if wanted is None:
        several = len(sizes) > 1
        return Finding(
            subject, "note" if several else "ok", shown, "align them: facemargin data align" if several else ""
        )
    template = TEMPLATES[wanted.template]
    wrong = sum(count for size, count in sizes.items() if not _same_ratio(size, template.size))
    if wrong:
        other = [one.name for one in TEMPLATES.values() if _same_ratio(sizes.most_common(1)[0][0], one.size)]
        like = f"; most have the ratio of {other[0]}" if other and other[0] != template.name else ""
        return Finding(
            subject, "problem",
            f"{wrong:,} pictures are not as wide against their height as template {template.name} ({shown}){like}",
            f"align the photographs to {template.name}, or choose the template they were aligned to",
        )  # fmt: skip
    small = sum(count for size, count in sizes.items() if size[0] < wanted.size[0])
    if small:
        return Finding(
            subject, "note", f"{small:,} pictures are lower than the network's input, {wanted.size[0]} pixels, and are "
            f"enlarged ({shown})",
            "use a smaller preprocessing.size, or crops from larger photographs",
        )  # fmt: skip
    return Finding(subject, "ok", shown)


def _places(case: Case, data: DataSet) -> Finding:
    subject = f"{data.name}: alignment"
    found = case.once(layout, data)
    if found is None:
        return Finding(
            subject, "missing", "no face detector on this machine", "facemargin models pull yunet, then run this again"
        )
    detail = f"{found.found} of {found.looked} sampled pictures have a face"
    if found.found:
        detail += (
            f"; against {found.template} at a height of 112: scale {found.scale:.2f}, shift "
            f"({found.shift[0]:+.1f}, {found.shift[1]:+.1f}) pixels, rotation {found.rotation_deg:+.1f}°, "
            f"90 % of the faces within {found.wander:.1f} pixels of their median place"
        )
    if found.verdict:
        return Finding(
            subject, "problem", f"{found.verdict} ({detail})",
            "cut the crops from the photographs: facemargin data align FROM TO "
            f"--template {found.template}; a model sees faces only where it was trained to see them",
        )  # fmt: skip
    return Finding(subject, "ok", detail)


def _same_ratio(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) <= _RATIO


def is_aligned(case: Case, data: DataSet) -> bool:
    """Whether the pictures may be embedded as they are; without a detector they are taken for aligned."""
    found = case.once(layout, data)
    return found is None or not found.verdict
