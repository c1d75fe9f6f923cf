"""IJB-B and IJB-C: faces, the templates they make, pairs of templates (1:1), galleries and probes (1:N).

Reads the lists that are handed on with the cropped faces (``meta``; ``?`` is ijbb or ijbc):

::

    ?_face_tid_mid.txt          name template media          one line a face
    ?_name_5pts_score.txt       name x1 y1 … x5 y5 score     landmarks in the picture, and the detector's score
    ?_template_pair_label.txt   template template 0|1        1:1
    ?_1N_gallery_*.csv          TEMPLATE_ID,SUBJECT_ID,…     1:N: one file a gallery, one line a face
    ?_1N_probe_mixed.csv        TEMPLATE_ID,SUBJECT_ID,…     1:N: the probes

Frames of one video share a media. Owns the lists; `training.templates` owns what is made of them.

Source: C. Whitelam et al., IARPA Janus Benchmark-B, CVPRW 2017; B. Maze et al., IARPA Janus Benchmark-C, ICB 2018; the
readme of InsightFace's IJB evaluation.
"""

import csv
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import ConfigError, DataError
from training.data.pictures import Picture
from training.data.protocols.listed import find_picture, missing_message
from training.data.protocols.source import SHOWN, Source, read_lines

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Faces:
    """Every face of the protocol.

    Attributes:
        pictures: N pictures.
        landmarks: float32 (N, 5, 2), x and y in pixels of each picture.
        score: float32 (N,), the detector's.
        template: int64 (N,), the template that the face belongs to.
        media: int64 (N,), the photograph or video that it comes from.
        aligned: the pictures are aligned crops, and the landmarks mean nothing.
        missing: faces whose picture was not found, left out on request.
    """

    pictures: tuple[Picture, ...]
    landmarks: NDArray[np.float32]
    score: NDArray[np.float32]
    template: Ids
    media: Ids
    aligned: bool
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class TemplatePairs:
    """IJB's 1:1 protocol: P pairs of templates.

    Attributes:
        name: for reports.
        faces: all faces.
        first: int64 (P,), one template of each pair.
        second: int64 (P,), the other.
        same: bool (P,).
    """

    name: str
    faces: Faces
    first: Ids
    second: Ids
    same: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Enrolled:
    """Templates with the subject of each: a gallery, or the probes."""

    name: str
    templates: Ids
    subjects: Ids


@dataclass(frozen=True, eq=False)
class TemplateSearch:
    """IJB's 1:N protocol: probes, and galleries that share no subject."""

    name: str
    faces: Faces
    galleries: tuple[Enrolled, ...]
    probes: Enrolled


def load_ijb_pairs(source: Source) -> TemplatePairs:
    """Read the 1:1 protocol.

    Raises:
        ConfigError: no folder of lists, or folds.
        DataError: a list that is missing or of another form, or missing pictures (unless they are to be skipped).
    """
    meta = _meta(source)
    path = _only(meta, "*_template_pair_label.txt")
    rows = _numbers(path, "template template 0|1", columns=3)
    if not len(rows) or not np.isin(rows[:, 2], (0, 1)).all():
        raise DataError(f"{path} must have lines 'template template 0|1', and at least one")
    name = f"{path.name.split('_')[0]} 1:1"
    return TemplatePairs(name, _faces(meta, source), rows[:, 0], rows[:, 1], rows[:, 2] == 1)


def load_ijb_search(source: Source) -> TemplateSearch:
    """Read the 1:N protocol.

    Raises:
        ConfigError: no folder of lists, or folds.
        DataError: as in `load_ijb_pairs`, or galleries that share a subject.
    """
    meta = _meta(source)
    paths = sorted(meta.glob("*_1N_gallery_*.csv"))
    if not paths:
        raise DataError(f"{meta} has no gallery; expected *_1N_gallery_*.csv")
    galleries = tuple(_enrolled(path) for path in paths)
    subjects = np.concatenate([np.unique(gallery.subjects) for gallery in galleries])
    shared = np.flatnonzero(np.bincount(np.unique(subjects, return_inverse=True)[1]) > 1)
    if shared.size:
        raise DataError(
            f"the galleries {', '.join(path.name for path in paths)} share {shared.size} subjects, "
            f"among them {np.unique(subjects)[shared[0]]}; strangers to a gallery are taken from the other"
        )
    probes = _enrolled(_only(meta, "*_1N_probe_mixed.csv"))
    return TemplateSearch(f"{paths[0].name.split('_')[0]} 1:N", _faces(meta, source), galleries, probes)


def _meta(source: Source) -> Path:
    if source.folds is not None:
        raise ConfigError("IJB has no folds: leave --folds away")
    if source.meta is None:
        raise ConfigError("--meta is needed: the folder of IJB's lists")
    if not source.meta.is_dir():
        raise DataError(f"there is no folder {source.meta} with IJB's lists")
    return source.meta


def _only(meta: Path, pattern: str) -> Path:
    found = sorted(meta.glob(pattern))
    if len(found) != 1:
        raise DataError(f"{meta} must have one {pattern}, not {len(found)}")
    return found[0]


def _faces(meta: Path, source: Source) -> Faces:
    path = _only(meta, "*_face_tid_mid.txt")
    lines = read_lines(path)
    named = [(number, line.split()) for number, line in lines]
    for number, line in named:
        if len(line) != 3 or not (line[1].isdecimal() and line[2].isdecimal()):
            raise DataError(f"{path} line {number}: expected 'name template media', not '{' '.join(line)}'")
    names = [line[0] for _, line in named]
    known = _landmarks(_only(meta, "*_name_5pts_score.txt"))
    unknown = [name for name in dict.fromkeys(names) if name not in known]
    if not names or unknown:
        shown = ", ".join(unknown[:SHOWN])
        raise DataError(f"{path}: {len(unknown)} of {len(names)} faces have no landmarks in {meta}: {shown}")
    values = np.array([known[name] for name in names], dtype=np.float32)
    found = {name: find_picture(source.images, name) for name in dict.fromkeys(names)}
    missing = tuple(name for name, place in found.items() if place is None)
    if missing and (source.missing == "fail" or len(missing) == len(found)):
        raise DataError(missing_message(missing, len(found), source.images))
    kept = np.array([found[name] is not None for name in names])
    pictures = [Picture(name, place) for name in names if (place := found[name]) is not None]
    ids = np.array([[int(line[1]), int(line[2])] for _, line in named], dtype=np.int64)[kept]
    return Faces(
        pictures=tuple(pictures),
        landmarks=values[kept, :10].reshape(-1, 5, 2),
        score=values[kept, 10],
        template=ids[:, 0],
        media=ids[:, 1],
        aligned=source.aligned,
        missing=missing,
    )


def _landmarks(path: Path) -> dict[str, list[float]]:
    """Ten coordinates and the score of each name."""
    known: dict[str, list[float]] = {}
    for number, line in read_lines(path):
        name, *values = line.split()
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            numbers = []
        if len(numbers) != 11 or not np.isfinite(numbers).all() or numbers[10] < 0 or name in known:
            raise DataError(
                f"{path} line {number}: expected a new name, x1 y1 … x5 y5 and a score, not '{line.strip()}'"
            )
        known[name] = numbers
    return known


def _numbers(path: Path, form: str, *, columns: int) -> Ids:
    """A table of whole numbers; IJB-C's 15.7 million pairs are 380 MB."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty file, which the caller refuses in its own words
            rows = np.loadtxt(path, dtype=np.int64, ndmin=2, usecols=range(columns), comments=None)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must have lines '{form}': {error}") from error
    return rows.reshape(-1, columns)


def _enrolled(path: Path) -> Enrolled:
    """The templates of a gallery or of the probes, each once, with its subject."""
    subjects: dict[int, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                template, subject = int(row["TEMPLATE_ID"]), int(row["SUBJECT_ID"])
                if subjects.setdefault(template, subject) != subject:
                    raise DataError(f"{path} line {reader.line_num}: template {template} has two subjects")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} must be a CSV with the columns TEMPLATE_ID and SUBJECT_ID, whole numbers ({error})"
        ) from error
    if not subjects:
        raise DataError(f"{path} has no templates")
    name = path.stem.split("_")[-1]
    return Enrolled(name, np.array(list(subjects), dtype=np.int64), np.array(list(subjects.values()), dtype=np.int64))
