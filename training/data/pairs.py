"""LFW's ``pairs.txt``: which photographs are compared, and in which fold.

Owns the text format and the way from a (name, number) to a file. Knows nothing of pixels, embeddings or scores.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_MISSING_SHOWN = 5


class Photo(NamedTuple):
    """One photograph of a protocol: the person's name and the number of the picture, counted from 1."""

    name: str
    number: int

    @property
    def stem(self) -> str:
        """File name without suffix, as in ``Abel_Pacheco_0001``."""
        return f"{self.name}_{self.number:04d}"

    def find(self, images_root: Path) -> Path | None:
        """The file ``<images_root>/<name>/<stem>`` with any accepted suffix, or None where there is none."""
        candidates = (images_root / self.name / (self.stem + suffix) for suffix in SUFFIXES)
        return next((path for path in candidates if path.is_file()), None)


@dataclass(frozen=True)
class Pairs:
    """The pairs of a verification protocol, in file order.

    Attributes:
        first: one photograph of each pair.
        second: the other photograph of each pair.
        same: bool (P,), True where both show one person.
        fold: int64 (P,), the fold of each pair, counted from 1.
    """

    first: tuple[Photo, ...]
    second: tuple[Photo, ...]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.first)

    @property
    def folds(self) -> tuple[int, ...]:
        """The fold numbers that occur, ascending."""
        return tuple(int(fold) for fold in np.unique(self.fold))

    def select(self, folds: Sequence[int]) -> "Pairs":
        """The pairs of some folds, in file order and with their fold numbers kept.

        Raises:
            DataError: a fold that the protocol does not have, or none at all.
        """
        unknown = sorted(set(folds) - set(self.folds))
        if unknown or not folds:
            raise DataError(
                f"the protocol has the folds {format_folds(self.folds)}, not {format_folds(unknown) or 'none'}"
            )
        chosen = np.flatnonzero(np.isin(self.fold, list(folds)))
        return Pairs(
            first=tuple(self.first[i] for i in chosen),
            second=tuple(self.second[i] for i in chosen),
            same=self.same[chosen],
            fold=self.fold[chosen],
        )

    def people(self, folds: Sequence[int] | None = None) -> list[str]:
        """Names of everybody in the pairs of these folds (default: all), sorted."""
        chosen = self if folds is None else self.select(folds)
        return sorted({photo.name for photo in chosen.first} | {photo.name for photo in chosen.second})

    def photos(self) -> list[Photo]:
        """Every photograph once, sorted."""
        return sorted(set(self.first) | set(self.second))

    def resolve(self, images_root: Path) -> list[tuple[Path, Path]]:
        """The two files of every pair.

        Raises:
            DataError: photographs without a file, naming the first few.
        """
        files = {photo: photo.find(images_root) for photo in self.photos()}
        require_found(files, images_root)
        found = {photo: path for photo, path in files.items() if path is not None}
        return [(found[first], found[second]) for first, second in zip(self.first, self.second, strict=True)]


def require_found(files: dict[Photo, Path | None], images_root: Path) -> None:
    """Raise a DataError that names the photographs without a file, if there are any."""
    missing = [photo for photo, path in files.items() if path is None]
    if not missing:
        return
    named = ", ".join(f"{photo.name}/{photo.stem}" for photo in missing[:_MISSING_SHOWN])
    more = f" and {len(missing) - _MISSING_SHOWN} more" if len(missing) > _MISSING_SHOWN else ""
    raise DataError(
        f"{len(missing)} of {len(files)} photographs of the protocol are not in {images_root} "
        f"(with a suffix of {' '.join(SUFFIXES)}): {named}{more}"
    )


def read_pairs(path: Path) -> Pairs:
    """Read a protocol in the form of LFW's ``pairs.txt``, ``pairsDevTrain.txt`` or ``pairsDevTest.txt``.

    The first line is ``folds pairs`` or only ``pairs`` (one fold). Each fold then has ``pairs`` lines ``name a b`` of
    one person followed by ``pairs`` lines ``name a other b`` of two; fields are separated by tabs or blanks.

    Raises:
        DataError: a file that cannot be read, or a line that is not of this form, with its number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the pairs file {path}: {error}") from error
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty; its first line should be the number of folds and of pairs")
    folds, per_kind = _read_header(path, *lines[0])
    expected = 2 * folds * per_kind
    if len(lines) - 1 != expected:
        raise DataError(
            f"{path} announces {folds} x 2 x {per_kind} = {expected} pairs but has {len(lines) - 1} lines of pairs"
        )
    pairs = [_read_pair(path, number, fields) for number, fields in lines[1:]]
    position = np.arange(expected)
    announced = position % (2 * per_kind) < per_kind
    same = np.array([first.name == second.name for first, second in pairs])
    wrong = np.flatnonzero(same != announced)
    if wrong.size:
        kind = "one person" if announced[wrong[0]] else "two people"
        raise DataError(f"{path} line {lines[wrong[0] + 1][0]}: a pair of {kind} is expected here")
    return Pairs(
        first=tuple(first for first, _ in pairs),
        second=tuple(second for _, second in pairs),
        same=same,
        fold=(position // (2 * per_kind) + 1).astype(np.int64),
    )


def parse_folds(text: str) -> tuple[int, ...]:
    """Fold numbers from ``"5"``, ``"6-10"`` or ``"1,3,6-10"``, ascending and each once.

    Raises:
        DataError: anything else.

    >>> parse_folds("1,3,6-8")
    (1, 3, 6, 7, 8)
    """
    folds: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high:
            raise DataError(f"folds '{text}' cannot be read; write them as 5, 6-10 or 1,3,6-10 (counted from 1)")
        folds.update(range(low, high + 1))
    return tuple(sorted(folds))


def format_folds(folds: Iterable[int]) -> str:
    """The short form of fold numbers: the inverse of `parse_folds`.

    >>> format_folds((1, 3, 6, 7, 8))
    '1,3,6-8'
    """
    runs: list[list[int]] = []
    for fold in sorted(set(folds)):
        if runs and runs[-1][-1] == fold - 1:
            runs[-1].append(fold)
        else:
            runs.append([fold])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _read_header(path: Path, number: int, fields: list[str]) -> tuple[int, int]:
    """(folds, pairs of each kind per fold) from the first line."""
    if len(fields) not in (1, 2) or not all(field.isdecimal() and int(field) > 0 for field in fields):
        raise DataError(
            f"{path} line {number}: expected 'folds pairs' or 'pairs' as positive numbers, not '{' '.join(fields)}'"
        )
    return (1, int(fields[0])) if len(fields) == 1 else (int(fields[0]), int(fields[1]))


def _read_pair(path: Path, number: int, fields: list[str]) -> tuple[Photo, Photo]:
    """One line: ``name a b`` or ``name a other b``."""
    if len(fields) == 3:
        fields = [fields[0], fields[1], fields[0], fields[2]]
    if len(fields) != 4 or not (fields[1].isdecimal() and fields[3].isdecimal()):
        raise DataError(f"{path} line {number}: expected 'name a b' or 'name a other b', not '{' '.join(fields)}'")
    for name in (fields[0], fields[2]):
        if "/" in name or "\\" in name or name in (".", ".."):
            raise DataError(f"{path} line {number}: '{name}' is not a name of a person's folder")
    return Photo(fields[0], int(fields[1])), Photo(fields[2], int(fields[3]))
