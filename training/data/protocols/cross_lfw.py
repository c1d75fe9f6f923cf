"""CALFW and CPLFW: ``pairs_CALFW.txt``, ``pairs_CPLFW.txt``, two lines ``file flag`` a pair, in one flat folder.

A flag of 0 on both lines is two people; any other is one person. CALFW writes the fold of a genuine pair (1 to 10) as
its flag, CPLFW writes 1. Impostor pairs carry no fold: they are cut, in the order of the list, into ten equal parts, as
are genuine pairs whose flag is only 1.

Source: T. Zheng, W. Deng, J. Hu, Cross-Age LFW, arXiv 1708.08197; T. Zheng, W. Deng, Cross-Pose LFW, BUPT technical
report 18-01, 2018; the lists that come with them.
"""

import re
from pathlib import Path, PurePosixPath

import numpy as np

from facemargin.errors import DataError
from training.data.protocols.listed import ListedPairs, find_pictures
from training.data.protocols.pair_set import PairSet, folds_of_each_kind
from training.data.protocols.source import Source, fields, read_lines

_NUMBER = re.compile(r"_\d+\.[^.]+$")


def load_cross_lfw(source: Source) -> PairSet:
    """Read either list and find its photographs.

    Raises:
        ConfigError: no list was given.
        DataError: an odd number of lines, a line of another form, with its number, or as in `find_pictures`.
    """
    return find_pictures(read_cross_lfw(source.list_file("pairs_CALFW.txt or pairs_CPLFW.txt")), source)


def read_cross_lfw(path: Path) -> ListedPairs:
    """The pairs of a list.

    Raises:
        DataError: as in `load_cross_lfw`.
    """
    lines = [(number, *_entry(path, number, line)) for number, line in read_lines(path)]
    if not lines or len(lines) % 2:
        raise DataError(f"{path} has {len(lines)} lines 'file flag'; there must be two a pair")
    for (_, _, flag), (number, _, other) in zip(lines[::2], lines[1::2], strict=True):
        if flag != other:
            raise DataError(f"{path} line {number}: the two lines of a pair must have one flag, not {flag} and {other}")
    flags = np.array([flag for _, _, flag in lines[::2]], dtype=np.int64)
    same = flags > 0
    fold = folds_of_each_kind(same)
    if flags.max() > 1:  # CALFW: the flag of a genuine pair is its fold
        fold[same] = flags[same]
    return ListedPairs(
        name=path.name,
        first=[photo for _, photo, _ in lines[::2]],
        second=[photo for _, photo, _ in lines[1::2]],
        same=same,
        fold=fold,
        people={photo: person_of(photo) for _, photo, _ in lines},
    )


def person_of(photo: str) -> str:
    """The name before the number.

    >>> person_of("Aaron_Eckhart_0001.jpg")
    'Aaron_Eckhart'
    """
    return _NUMBER.sub("", PurePosixPath(photo).name)


def is_calfw(source: Source) -> bool:
    """Whether the list is called after CALFW."""
    return _is_list(source) and source.pairs is not None and "calfw" in source.pairs.name.lower()


def is_cplfw(source: Source) -> bool:
    """Whether the list is called after CPLFW."""
    return _is_list(source) and source.pairs is not None and "cplfw" in source.pairs.name.lower()


def _is_list(source: Source) -> bool:
    first = source.first_fields()
    return len(first) == 2 and not first[0].isdecimal() and first[1].isdecimal()


def _entry(path: Path, number: int, line: str) -> tuple[str, int]:
    found = fields(line)
    if len(found) != 2 or not found[1].isdecimal() or int(found[1]) > 10:
        raise DataError(f"{path} line {number}: expected 'file flag' with a flag from 0 to 10, not '{line.strip()}'")
    return found[0], int(found[1])
