"""Faces in a picture: boxes, five landmarks and scores, by YuNet through OpenCV.

Owns the detector and the rules that pick one face among several. Landmarks are in the order of the alignment template:
the eye on the left of the picture, the eye on its right, the nose tip, the mouth corner on the left, on the right.
"""

import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from facemargin.errors import ModelNotFoundError, NoFaceError, SeveralFacesError
from facemargin.models import locate

FaceChoice = Literal["single", "largest"]
"""Which face of a picture is meant; see `one_face`."""

_KEPT_BEFORE_NMS = 5000
_SMALLEST_EXTENT = 1e-3  # landmarks closer together than this (pixels) have no pose to align


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face, in pixels of the picture as displayed.

    Attributes:
        box: x, y of the upper left corner, width, height; inside the picture.
        landmarks: float32 (5, 2), x and y; may lie outside the picture where a face is cut off.
        score: the detector's confidence, 0 to 1.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32]
    score: float

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        return self.box[2] * self.box[3]


class Detector:
    """YuNet face detector; one instance may be used by any number of threads at once.

    Args:
        model: the ONNX file; by default the one that `facemargin models pull yunet` fetched.
        score_threshold: lowest confidence of a detection, in (0, 1). 0.6 keeps profile and dim faces; raise it towards
            0.9 where a false detection costs more than a missed face.
        nms_threshold: overlap (intersection over union) above which the weaker of two detections is dropped, in (0, 1).
        max_side: pictures with a longer side are scaled down to this for detection, in pixels (at least 32).

    Raises:
        ModelNotFoundError: the file is missing or is no detector.
        ValueError: a value out of range.
    """

    def __init__(
        self,
        model: Path | None = None,
        score_threshold: float = 0.6,
        nms_threshold: float = 0.3,
        max_side: int = 640,
    ) -> None:
        for name, value in (("score_threshold", score_threshold), ("nms_threshold", nms_threshold)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must be in (0, 1), got {value}")
        if max_side < 32:
            raise ValueError(f"max_side must be at least 32 pixels, got {max_side}")
        self.model = locate("yunet") if model is None else Path(model)
        if not self.model.is_file():
            raise ModelNotFoundError(
                f"there is no face detector at {self.model}; `facemargin models pull yunet` gets it"
            )
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_side = max_side
        # cv2.FaceDetectorYN keeps state between calls, so that each call borrows one for itself.
        self._idle: deque[Any] = deque([self._create()])

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Find faces.

        Args:
            image: uint8 (H, W, 3), RGB, as `decode` returns it.

        Returns:
            The faces, the largest first.

        Raises:
            ValueError: another shape or type.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"image must be uint8 of shape (H, W, 3), got {image.dtype} of shape {image.shape}")
        return sorted(self._detect(image), key=lambda face: face.area, reverse=True)

    def _detect(self, image: NDArray[np.uint8]) -> list[Face]:
        height, width = image.shape[:2]
        scale = min(1.0, self.max_side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        scaled = image if scale == 1.0 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        with self._borrowed() as detector:
            detector.setInputSize(size)
            rows = detector.detect(cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR))[1]
        if rows is None:
            return []
        stretch = np.array([width / size[0], height / size[1]])
        found = (_face(row, stretch, (height, width)) for row in rows)
        return [face for face in found if face is not None]

    @contextmanager
    def _borrowed(self) -> Iterator[Any]:
        try:
            detector = self._idle.pop()
        except IndexError:
            detector = self._create()
        try:
            yield detector
        finally:
            self._idle.append(detector)

    def _create(self) -> Any:
        try:
            with _quiet_opencv():
                return cv2.FaceDetectorYN.create(
                    str(self.model), "", (320, 320), self.score_threshold, self.nms_threshold, _KEPT_BEFORE_NMS
                )
        except cv2.error as error:
            raise ModelNotFoundError(
                f"{self.model} is not a face detector that OpenCV {cv2.__version__} can load; "
                "`facemargin models pull yunet` gets one, for OpenCV 5 or newer"
            ) from error


_log_level_lock = threading.Lock()
_SILENT = 0  # OpenCV's LOG_LEVEL_SILENT; not every version has a name for it


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """No output of OpenCV: version 5 warns about its own default target for every network that is loaded."""
    logging = getattr(cv2.utils, "logging", cv2)  # where OpenCV 4 has them, so that its refusal below is understood
    with _log_level_lock:  # the level is one for the whole process
        level = logging.getLogLevel()
        logging.setLogLevel(_SILENT)
        try:
            yield
        finally:
            logging.setLogLevel(level)


def one_face(faces: Sequence[Face], policy: FaceChoice = "single") -> Face:
    """The face meant, of those found.

    Args:
        faces: the detections of one picture.
        policy: "single" demands exactly one; "largest" takes the one with the largest box.

    Raises:
        NoFaceError: no face.
        SeveralFacesError: more than one where one is demanded; carries the count.
        ValueError: another policy.
    """
    if policy not in ("single", "largest"):
        raise ValueError(f"policy must be 'single' or 'largest', got {policy!r}")
    if not faces:
        raise NoFaceError
    if policy == "single" and len(faces) > 1:
        raise SeveralFacesError(len(faces))
    return max(faces, key=lambda face: face.area)


def central_face(faces: Sequence[Face], size: tuple[int, int]) -> Face:
    """The face a portrait is of: nearest to the centre of the picture, measured in its own size.

    It minimises d / √(w·h), d the distance from the centre of the box to the centre of the picture: a large face a
    little off centre is preferred to a small one in the background that happens to be nearer.

    Args:
        faces: the detections of one picture.
        size: height and width of the picture in pixels.

    Raises:
        NoFaceError: no face.
    """
    if not faces:
        raise NoFaceError
    height, width = size

    def distance(face: Face) -> float:
        x, y, w, h = face.box
        return math.hypot(x + w / 2 - width / 2, y + h / 2 - height / 2) / math.sqrt(w * h)

    return min(faces, key=distance)


def _face(row: NDArray[np.float32], stretch: NDArray[np.float64], size: tuple[int, int]) -> Face | None:
    """One row of YuNet's result in pixels of the whole picture; None where it describes no usable face."""
    if not np.isfinite(row).all():
        return None
    landmarks = (row[4:14].reshape(5, 2) * stretch).astype(np.float32)
    limits = np.array([size[1], size[0]])
    corner = row[:2] * stretch
    low = np.clip(corner, 0, limits)
    high = np.clip(corner + row[2:4] * stretch, 0, limits)
    if (high <= low).any() or np.ptp(landmarks, axis=0).max() < _SMALLEST_EXTENT:
        return None
    box = (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))
    return Face(box=box, landmarks=landmarks, score=float(np.clip(row[14], 0.0, 1.0)))
