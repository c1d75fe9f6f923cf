"""From pairs of file names, as lists hold them, to pictures: finds the files and says which are missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import DataError
from training.align.report import not_detected
from training.data.pairs import SUFFIXES
from training.data.pictures import Picture
from training.data.protocols.pair_set import PairSet
from training.data.protocols.source import SHOWN, Source


@dataclass(frozen=True, eq=False)
class ListedPairs:
    """Pairs of names, before anything is looked for on disk.

    Attributes:
        name: of the protocol, for reports.
        first: one photograph of each pair: a path below the folder of the pictures, with or without suffix.
        second: the other.
        same: bool (P,).
        fold: int64 (P,), from 1.
        people: the person in each photograph as its name tells; None where names tell nothing.
        order: every photograph once, in the order in which they are embedded; sorted by default.
    """

    name: str
    first: Sequence[str]
    second: Sequence[str]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]
    people: Mapping[str, str] | None
    order: Sequence[str] | None = None


def find_pictures(listed: ListedPairs, source: Source) -> PairSet:
    """Find the pictures of the chosen folds.

    A picture is the listed file, or one of the same name with another accepted suffix. In an aligned folder, those
    whose face was not found (by the folder's report) are no missing files: they are failures to acquire.

    Raises:
        DataError: a fold that the protocol does not have, a name that leads out of the folder, one pair listed as
            genuine and as impostor, missing pictures (unless they are to be skipped), or no pair left.
    """
    pairs = _numbered(listed, source.aligned)
    pairs = pairs if source.folds is None else pairs.select(source.folds)
    found = [find_picture(source.images, photo) for photo in pairs.photos]
    excused = not_detected(source.images) if source.aligned else frozenset()
    missing = [
        k for k, (photo, path) in enumerate(zip(pairs.photos, found, strict=True))
        if path is None and without_suffix(photo) not in excused
    ]  # fmt: skip
    pictures = tuple(None if path is None else Picture.of_file(path) for path in found)
    pairs = replace(pairs, pictures=pictures)
    if not missing:
        return pairs
    names = tuple(pairs.photos[k] for k in missing)
    if source.missing == "fail":
        raise DataError(missing_message(names, len(pairs.photos), source.images))
    kept = replace(pairs.without(missing), missing=names)
    if not len(kept):
        raise DataError(f"no pair is left: {missing_message(names, len(pairs.photos), source.images)}")
    return kept


def missing_message(names: Sequence[str], of: int, folder: Path) -> str:
    """How many pictures are missing, the first of them by name, and what to do."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        f"{len(names)} of {of} photographs of the protocol are not in {folder} (with a suffix of "
        f"{' '.join(SUFFIXES)}): {', '.join(names[:SHOWN])}{more}; --missing skip leaves their pairs out"
    )


def find_picture(folder: Path, photo: str) -> Path | None:
    """The listed file, or one of its name with another accepted suffix; None where there is none.

    Raises:
        DataError: a name that leads out of the folder.
    """
    if PurePosixPath(photo).is_absolute() or ".." in PurePosixPath(photo).parts or "\\" in photo:
        raise DataError(f"'{photo}' is not a path below the folder of the pictures")
    stem = without_suffix(photo)
    given = [photo] if stem != photo else []
    candidates = (folder / name for name in (*given, *(stem + suffix for suffix in SUFFIXES)))
    return next((path for path in candidates if path.is_file()), None)


def without_suffix(photo: str) -> str:
    """The name without the suffix of a picture, if it has one: names may hold other dots.

    >>> without_suffix("J.Doe/J.Doe_0001.jpg"), without_suffix("J.Doe_0001")
    ('J.Doe/J.Doe_0001', 'J.Doe_0001')
    """
    stem, dot, suffix = photo.rpartition(".")
    return stem if f".{suffix}".lower() in SUFFIXES and dot else photo


def _numbered(listed: ListedPairs, aligned: bool) -> PairSet:
    photos = tuple(listed.order if listed.order is not None else sorted({*listed.first, *listed.second}))
    number = {photo: k for k, photo in enumerate(photos)}
    first = np.array([number[photo] for photo in listed.first], dtype=np.int64)
    second = np.array([number[photo] for photo in listed.second], dtype=np.int64)
    _refuse_contradictions(listed)
    return PairSet(
        name=listed.name,
        photos=photos,
        pictures=(None,) * len(photos),
        first=first,
        second=second,
        same=listed.same,
        fold=listed.fold,
        people=_people(listed, photos),
        aligned=aligned,
    )


def _people(listed: ListedPairs, photos: Sequence[str]) -> tuple[str, ...] | None:
    """The people as the names tell, unless the list contradicts them in any pair: then they are unknown."""
    if listed.people is None:
        return None
    one = np.array([listed.people[photo] for photo in listed.first])
    other = np.array([listed.people[photo] for photo in listed.second])
    agree = bool(((one == other) == listed.same).all())
    return tuple(listed.people[photo] for photo in photos) if agree else None


def _refuse_contradictions(listed: ListedPairs) -> None:
    said: dict[tuple[str, str], bool] = {}
    for a, b, same in zip(listed.first, listed.second, listed.same, strict=True):
        if said.setdefault((min(a, b), max(a, b)), bool(same)) != same:
            raise DataError(f"{listed.name} lists {a} and {b} both as one person and as two; keep one of the lines")
