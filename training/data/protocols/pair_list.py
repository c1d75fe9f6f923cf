"""A plain list of pairs: ``pathA pathB 0|1 [fold]``, or ``0|1 pathA pathB``; 1 is one person.

The form in which AgeDB-30 and private sets are mostly handed on. Fields are separated by tabs or blanks (with tabs,
paths may hold blanks); paths are below the folder of the pictures.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from facemargin.errors import DataError
from training.data.protocols.listed import ListedPairs, find_pictures
from training.data.protocols.pair_set import PairSet, folds_of_each_kind
from training.data.protocols.source import Source, fields, read_lines

_AGEDB_NAME = re.compile(r"\d+_(.+)_\d+_[mf]", re.IGNORECASE)


def load_pair_list(source: Source) -> PairSet:
    """Read a plain list; the person is the folder of a picture, where that agrees with every pair.

    Raises:
        ConfigError: no list was given.
        DataError: a line of another form, with its number, or as in `find_pictures`.
    """
    path = source.list_file("lines 'pathA pathB 0|1 [fold]'")
    return find_pictures(read_pair_list(path, person=folder_of), source)


def load_agedb(source: Source) -> PairSet:
    """Read AgeDB-30's pairs as a plain list; the person stands in names such as ``7_JohnWayne_35_m.jpg``.

    Raises:
        ConfigError: no list was given.
        DataError: as in `load_pair_list`.
    """
    path = source.list_file("AgeDB-30's pairs as lines 'pathA pathB 0|1 [fold]'")
    return find_pictures(read_pair_list(path, person=agedb_person), source)


def read_pair_list(path: Path, *, person: Callable[[str], str]) -> ListedPairs:
    """The pairs of a list. Without fold numbers, ten folds with an equal share of each kind, in the list's order.

    Raises:
        DataError: an empty list, a line of another form, or fold numbers on some lines only.
    """
    lines = [(number, fields(line)) for number, line in read_lines(path)]
    if not lines:
        raise DataError(f"{path} is empty; its lines should be 'pathA pathB 0|1 [fold]'")
    label_first = all(len(line) == 3 and line[0] in ("0", "1") for _, line in lines) and not all(
        line[2] in ("0", "1") for _, line in lines
    )
    rows = [_row(path, number, [*line[1:], line[0]] if label_first else line) for number, line in lines]
    with_fold = {row[3] is not None for row in rows}
    if len(with_fold) > 1:
        number = next(number for (number, _), row in zip(lines, rows, strict=True) if row[3] is None)
        raise DataError(f"{path} line {number} has no fold, others have one; give every pair a fold or none")
    same = np.array([row[2] for row in rows])
    fold = np.array([row[3] for row in rows], dtype=np.int64) if True in with_fold else folds_of_each_kind(same)
    photos = {photo for row in rows for photo in row[:2]}
    return ListedPairs(
        name=path.name,
        first=[row[0] for row in rows],
        second=[row[1] for row in rows],
        same=same,
        fold=fold,
        people={photo: person(photo) for photo in photos},
    )


def folder_of(photo: str) -> str:
    """The folder that a picture lies in; pictures of one flat folder all get the same, which no list agrees with."""
    return str(PurePosixPath(photo).parent)


def agedb_person(photo: str) -> str:
    """The person in AgeDB's file name, else the folder.

    >>> agedb_person("03_Protocol_Images/7_JohnWayne_35_m.jpg")
    'JohnWayne'
    """
    match = _AGEDB_NAME.match(PurePosixPath(photo).name)
    return match[1] if match else folder_of(photo)


def is_pair_list(source: Source) -> bool:
    """Whether the first line has the form of a pair, and nothing says that it is AgeDB."""
    return _is_list(source.first_fields()) and not _named_agedb(source)


def is_agedb(source: Source) -> bool:
    """Whether the first line has the form of a pair, and the file is called after AgeDB."""
    return _is_list(source.first_fields()) and _named_agedb(source)


def _is_list(first: Sequence[str]) -> bool:
    return len(first) in (3, 4) and (first[2] in ("0", "1") or (len(first) == 3 and first[0] in ("0", "1")))


def _named_agedb(source: Source) -> bool:
    return source.pairs is not None and "agedb" in source.pairs.name.lower()


def _row(path: Path, number: int, line: Sequence[str]) -> tuple[str, str, bool, int | None]:
    right = len(line) in (3, 4) and line[2] in ("0", "1")
    if not right or (len(line) == 4 and not (line[3].isdecimal() and 0 < int(line[3]) < 10_000)):
        raise DataError(
            f"{path} line {number}: expected 'pathA pathB 0|1 [fold]' with folds from 1, not '{' '.join(line)}'"
        )
    return line[0], line[1], line[2] == "1", int(line[3]) if len(line) == 4 else None
