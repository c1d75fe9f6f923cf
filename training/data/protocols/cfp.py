"""CFP in its own layout: frontal against frontal (FF) and frontal against profile (FP).

::

    Protocol/Pair_list_F.txt                    number path     frontal pictures, numbered from 1
    Protocol/Pair_list_P.txt                    number path     profile pictures
    Protocol/Split/FF/01 … 10/same.txt diff.txt  a,b             numbers of the pictures of a pair; FP likewise
    Data/Images/001 … 500/frontal/01 … 10.jpg    profile/01 … 04.jpg

Paths in the lists are relative to ``Protocol``. Of an FP pair the first number is a frontal picture, the second a
profile.

Source: S. Sengupta et al., Frontal to Profile Face Verification in the Wild, WACV 2016, and the data set's readme.
"""

import posixpath
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from facemargin.errors import DataError
from training.data.protocols.listed import ListedPairs, find_pictures
from training.data.protocols.pair_set import PairSet
from training.data.protocols.source import Source, read_lines

_LISTS = {"FF": ("F", "F"), "FP": ("F", "P")}


def load_cfp(source: Source, split: str) -> PairSet:
    """Read one split and find its pictures.

    Args:
        source: `images` is the folder above ``Data``; `pairs` the folder ``Protocol``, by default the one beside it.
        split: ``FF`` or ``FP``.

    Raises:
        DataError: a list that cannot be read, a line of another form, with its number, a fold without pairs, or as in
            `find_pictures`.
    """
    protocol = _protocol(source)
    return find_pictures(read_cfp(protocol, split), source)


load_cfp_ff = partial(load_cfp, split="FF")
load_cfp_fp = partial(load_cfp, split="FP")


def read_cfp(protocol: Path, split: str) -> ListedPairs:
    """The pairs of a split.

    Raises:
        DataError: as in `load_cfp`.
    """
    folder = _split_folder(protocol, split)
    pictures = {kind: _pictures(protocol / f"Pair_list_{kind}.txt") for kind in _LISTS[split]}
    one, other = (pictures[kind] for kind in _LISTS[split])
    folders = sorted(fold for fold in folder.iterdir() if fold.name.isdecimal())
    numbers = [int(folder.name) for folder in folders]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise DataError(f"{protocol / 'Split' / split} must have the folders 01, 02 … without a gap, not {numbers}")
    rows = [
        (one_path, other_path, name == "same.txt", int(folder.name))
        for folder in folders
        for name in ("same.txt", "diff.txt")
        for one_path, other_path in _pairs(folder / name, one, other)
    ]
    photos = {photo for row in rows for photo in row[:2]}
    return ListedPairs(
        name=f"CFP-{split}",
        first=[row[0] for row in rows],
        second=[row[1] for row in rows],
        same=np.array([row[2] for row in rows]),
        fold=np.array([row[3] for row in rows], dtype=np.int64),
        people={photo: str(PurePosixPath(photo).parent.parent) for photo in photos},
    )


def is_cfp(source: Source) -> bool:
    """Whether there is a ``Protocol`` folder with splits."""
    return (_protocol(source) / "Split").is_dir()


def _protocol(source: Source) -> Path:
    return source.images / "Protocol" if source.pairs is None else source.pairs


def _split_folder(protocol: Path, split: str) -> Path:
    folder = protocol / "Split" / split
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; --images is CFP's folder, with Protocol and Data inside")
    return folder


def _pictures(path: Path) -> dict[int, str]:
    """Path of each picture, below the folder of the data set, by its number."""
    pictures: dict[int, str] = {}
    for number, line in read_lines(path):
        found = line.split(maxsplit=1)
        place = posixpath.normpath(f"Protocol/{found[1].strip()}") if len(found) == 2 else ".."
        if not found[0].isdecimal() or place.startswith((".", "/")) or int(found[0]) in pictures:
            raise DataError(f"{path} line {number}: expected a new number and a path, not '{line.strip()}'")
        pictures[int(found[0])] = place
    return pictures


def _pairs(path: Path, one: dict[int, str], other: dict[int, str]) -> list[tuple[str, str]]:
    pairs = []
    for number, line in read_lines(path):
        a, comma, b = (part.strip() for part in line.partition(","))
        if not (comma and a.isdecimal() and b.isdecimal() and int(a) in one and int(b) in other):
            raise DataError(f"{path} line {number}: expected two numbers of listed pictures, not '{line.strip()}'")
        pairs.append((one[int(a)], other[int(b)]))
    if not pairs:
        raise DataError(f"{path} has no pairs: the fold is empty")
    return pairs
