"""Five landmarks -> an upright crop in which eyes, nose and mouth always lie at the same place.

Owns the templates. Points are (x, y) in pixels, a pixel's centre at whole numbers.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

_ARCFACE_POINTS = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


@dataclass(frozen=True, eq=False)
class Template:
    """Where the five landmarks go.

    Attributes:
        name: as the manifest names it.
        size: height and width of the crop in pixels.
        points: float64 (5, 2), x and y in the crop: left eye, right eye (as seen in the picture), nose tip, left and
            right corner of the mouth.
    """

    name: str
    size: tuple[int, int]
    points: NDArray[np.float64]


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template("arcface-112", (112, 112), np.array(_ARCFACE_POINTS)),
        Template("sphereface-112x96", (112, 96), np.array(_ARCFACE_POINTS) - (8.0, 0.0)),
    )
}


def template_named(name: str) -> Template:
    """The template of that name.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name not in TEMPLATES:
        raise ValueError(f"template must be one of {', '.join(TEMPLATES)}; got {name!r}")
    return TEMPLATES[name]


def similarity_transform(source: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """Least-squares similarity (rotation, one scale, shift; never a reflection) that takes source to target.

    Minimises Σ‖s·R·source_i + t − target_i‖² over s > 0, R in SO(2), t: with the singular value decomposition
    U·diag(d)·Vᵀ of the covariance of the centred points, R = U·S·Vᵀ and s = tr(diag(d)·S) / var(source), where
    S = diag(1, det(U)·det(V)).

    Args:
        source: (K, 2) points, K ≥ 2.
        target: (K, 2) points.

    Returns:
        float64 (2, 3) matrix [s·R | t].

    Raises:
        ValueError: shapes that differ, fewer than two points, a value that is not finite, or source points that all
            coincide.

    Reference:
        S. Umeyama, Least-squares estimation of transformation parameters between two point patterns, IEEE TPAMI 13(4),
        1991, equations 40 to 43.
    """
    src = np.asarray(source, dtype=np.float64)
    dst = np.asarray(target, dtype=np.float64)
    if src.shape != dst.shape or src.ndim != 2 or src.shape[1] != 2 or len(src) < 2:
        raise ValueError(f"source and target must both be (K, 2) with K >= 2, got {src.shape} and {dst.shape}")
    if not (np.isfinite(src).all() and np.isfinite(dst).all()):
        raise ValueError("source and target must be finite")
    src_mean, dst_mean = src.mean(axis=0), dst.mean(axis=0)
    src_centred, dst_centred = src - src_mean, dst - dst_mean
    variance = (src_centred**2).sum() / len(src)
    if variance <= np.finfo(np.float64).eps * max(1.0, (src_mean**2).sum()):
        raise ValueError("source points must not all coincide")
    u, d, vt = np.linalg.svd(dst_centred.T @ src_centred / len(src))
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    linear = (u * signs) @ vt * ((d * signs).sum() / variance)
    return np.column_stack([linear, dst_mean - linear @ src_mean])


def align(image: NDArray[np.uint8], landmarks: ArrayLike, template: str = "arcface-112") -> NDArray[np.uint8]:
    """Cut the face out, upright and at the template's size.

    Bilinear interpolation; what lies outside the picture is black. Where the face is more than twice as large as the
    template, the picture is first averaged down by a whole factor: bilinear sampling alone would skip pixels and alias.

    Args:
        image: uint8 (H, W, 3).
        landmarks: (5, 2) in pixels of the image, in the template's order.
        template: a name in `TEMPLATES`.

    Returns:
        uint8 (h, w, 3), the template's size, colours in the order of the image.

    Raises:
        ValueError: an unknown template, landmarks of another shape, not finite or all at one place.
    """
    chosen = template_named(template)
    matrix = similarity_transform(landmarks, chosen.points)
    factor = int(1 / max(np.hypot(matrix[0, 0], matrix[1, 0]), 1e-6))
    if factor >= 2:
        image, matrix = _shrunk(image, matrix, factor)
    height, width = chosen.size
    crop: NDArray[np.uint8] = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    return crop


def _shrunk(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], factor: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The picture averaged down by the factor, and the matrix that takes its pixels to where they went before."""
    height, width = image.shape[:2]
    new_width, new_height = max(1, width // factor), max(1, height // factor)
    small: NDArray[np.uint8] = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)
    stretch = np.array([width / new_width, height / new_height])
    # A pixel covers [i - 1/2, i + 1/2]: old = stretch * (new + 1/2) - 1/2.
    shift = matrix[:, :2] @ (stretch / 2 - 0.5) + matrix[:, 2]
    return small, np.column_stack([matrix[:, :2] * stretch, shift])
