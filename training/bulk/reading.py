"""One picture -> its faces, cut out and measured, or the reason why there is none."""

import errno
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from facemargin.errors import DataError, FaceCountError, ImageError
from facemargin.preprocessing import Detector, Face, align, one_face
from facemargin.preprocessing.quality import Quality, measure, measure_crop
from training.align import PHOTOGRAPH_LIMITS
from training.bulk.plan import Faces
from training.bulk.sources import printable
from training.crops import CropReader
from training.data.pictures import Picture

Status = Literal["unreadable", "no_face", "several_faces"]

_OF_THE_PICTURE = {
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO,
}  # fmt: skip
"""Errors of a system call that are about one file; all others are the disk's, the network's or the process's."""


class Failure(BaseModel):
    """A picture that gave no embedding.

    Attributes:
        source: as it was named.
        key: of the picture in it.
        person: where the source names one.
        status: ``unreadable``, ``no_face``, or ``several_faces`` where one is demanded.
        reason: one sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    key: str
    person: str | None
    status: Status
    reason: str


@dataclass(frozen=True, eq=False)
class Found:
    """One face of a picture.

    Attributes:
        crop: uint8 (h, w, 3), RGB.
        quality: measured on it.
        face: the detection; None for a picture that is a crop itself.
        number: of the face in its picture, from 0, the largest first.
        of: faces that were detected in the picture; None for a crop.
    """

    crop: NDArray[np.uint8]
    quality: Quality
    face: Face | None = None
    number: int = 0
    of: int | None = None


@dataclass(frozen=True)
class FaceReader:
    """How pictures become crops.

    Attributes:
        template: of the model.
        detector: None where the pictures are aligned crops.
        faces: which faces of a photograph: the largest, all, or the only one.
    """

    template: str
    detector: Detector | None = None
    faces: Faces = "largest"

    def read(self, picture: Picture) -> list[Found]:
        """The faces of a picture, at least one.

        Raises:
            DataError: a file that cannot be read, or a picture that is no crop of the template where it should be one.
            ImageError: no accepted picture.
            FaceCountError: no face, or several where one is demanded.
        """
        if self.detector is None:
            crop = CropReader(self.template).read_aligned(picture)
            return [Found(crop, measure_crop(crop))]
        image = picture.decode(PHOTOGRAPH_LIMITS)
        faces = self.detector.detect(image)
        return [self._cut(image, face, number, len(faces)) for number, face in enumerate(self._chosen(faces))]

    def _chosen(self, found: list[Face]) -> list[Face]:
        """The faces that are taken of those found, the largest first."""
        if self.faces == "all" and found:
            return found
        return [one_face(found, "single" if self.faces == "one" else "largest")]

    def _cut(self, image: NDArray[np.uint8], face: Face, number: int, of: int) -> Found:
        crop = align(image, face.landmarks, self.template)
        return Found(crop, measure(face, crop), face, number, of)


def is_of_the_machine(error: Exception) -> bool:
    """Whether a file was not read because a disk, a network or the process failed: the picture is not to blame."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno is not None and cause.errno not in _OF_THE_PICTURE


def status_of(error: DataError | ImageError | FaceCountError) -> Status:
    """What an error of `FaceReader.read` is recorded as."""
    if isinstance(error, FaceCountError):
        return "several_faces" if error.count else "no_face"
    return "unreadable"


def reason_of(error: DataError | ImageError | FaceCountError) -> str:
    """The same in words, on one line."""
    if isinstance(error, FaceCountError) and error.count:
        return f"{error.count} faces were detected, and --faces one demands a single one"
    return printable(" ".join(str(error).split()))
