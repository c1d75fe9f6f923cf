"""What is known about an aligned folder: the report that lies in it, and the settings its crops were made with."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from facemargin.errors import DataError

REPORT_NAME = "align-report.json"

FacePolicy = Literal["central", "largest"]
CropFormat = Literal["png", "jpeg"]

CROP_SUFFIXES: dict[CropFormat, str] = {"png": ".png", "jpeg": ".jpg"}


class AlignSettings(BaseModel):
    """What decides how a crop looks; a folder is only resumed with the settings it was begun with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str
    face: FacePolicy
    crop_format: CropFormat
    score_threshold: float
    detector_sha256: str


class Unreadable(BaseModel):
    """A file that is no usable picture, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    error: str


class AlignReport(BaseModel):
    """The state of an aligned folder, written to ``align-report.json`` in it. Files are named ``person/file``.

    Attributes:
        settings: how the crops were made.
        complete: every photograph was looked at.
        people: person folders in the source.
        images: photographs in the source.
        aligned: crops in the target.
        aligned_before: of these, how many an earlier run had made.
        not_detected: photographs in which no face was found; they have no crop.
        unreadable: files with the ending of a picture that could not be decoded.
        several_faces: photographs with more than one face and how many; the crop is the face that the policy chose.
        people_without_faces: people none of whose photographs gave a crop; they have no folder in the target.
        other_files: files that are no pictures by their ending, skipped.
        seconds: duration of this run.
        images_per_second: photographs looked at in this run per second.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: AlignSettings
    complete: bool
    people: int
    images: int
    aligned: int
    aligned_before: int
    not_detected: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]
    several_faces: dict[str, int]
    people_without_faces: tuple[str, ...]
    other_files: int
    seconds: float
    images_per_second: float

    @property
    def detection_rate(self) -> float:
        """Share of the readable photographs looked at so far in which a face was found; 0 when there is none."""
        looked_at = self.aligned + len(self.not_detected)
        return self.aligned / looked_at if looked_at else 0.0


def not_detected(aligned_root: Path) -> frozenset[str]:
    """Photographs that `facemargin data align` found no face in, as ``person/stem``; empty without its report.

    Raises:
        DataError: a report that cannot be read.
    """
    path = aligned_root / REPORT_NAME
    if not path.is_file():
        return frozenset()
    try:
        report = AlignReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{path} is not a report of `facemargin data align`: {error}") from error
    return frozenset(name.rpartition(".")[0] for name in report.not_detected)
