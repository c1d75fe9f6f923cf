"""List files: a path and a label a line, as text; also the two forms of InsightFace's and MXNet's ``.lst``.

``path label`` or ``path<TAB>label``; ``index<TAB>label<TAB>path`` (im2rec); ``aligned<TAB>path<TAB>label…``, aligned 0
or 1 (InsightFace). Labels are whole numbers, or names. Paths are relative to the list's folder unless a root is given.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from facemargin.errors import DataError
from training.data.formats.base import Entry
from training.data.formats.columns import FilePictures, PersonColumn, TextColumn, Texts, gaps_of
from training.data.formats.folder import FileWriter
from training.data.pictures import LabelledImages

_SUFFIXES = frozenset({".txt", ".lst", ".list", ".tsv"})
_SHOWN = 5


class Listing:
    """The format ``list``."""

    grouped = False

    def recognises(self, path: Path) -> bool:
        """A text file by its ending."""
        return path.suffix.lower() in _SUFFIXES and not path.is_dir()

    def read(self, path: Path, *, root: Path | None = None) -> LabelledImages:
        """See `Format.read`; every file must be there."""
        paths, persons = TextColumn(), PersonColumn()
        try:
            with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        place, label = _fields(path, number, line.strip())
                        paths.add(place.replace("\\", "/"))
                        persons.add(label)
        except OSError as error:
            raise DataError(f"cannot read the list {path}: {error.strerror or error}") from error
        people, labels = persons.finish(path)
        pictures = FilePictures(root or path.parent, paths.finish())
        _require_files(path, pictures.root, pictures.paths)
        return LabelledImages(pictures, labels, people, gaps=gaps_of(people))

    def outputs(self, target: Path) -> tuple[Path, ...]:
        """See `Format.outputs`; the pictures go to a folder beside the list."""
        if target.suffix.lower() not in _SUFFIXES:
            raise DataError(f"{target} should be a list, ending in {', '.join(sorted(_SUFFIXES))}")
        return (_pictures_of(target), target)

    def write(self, target: Path, people: Sequence[str], entries: Iterable[Entry], *, shard_pictures: int) -> None:
        """See `Format.write`; the pictures become files beside the list."""
        files = FileWriter(_pictures_of(target), people)
        with target.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
            for entry in entries:
                lines.write(f"{files.target.name}/{files.write(entry)}\t{people[entry.label]}\n")


def _pictures_of(target: Path) -> Path:
    return target.with_name(f"{target.stem}-pictures")


def _fields(path: Path, number: int, line: str) -> tuple[str, str]:
    """(path, label) of a line."""
    cells = [cell.strip() for cell in line.split("\t")]
    if len(cells) == 1:
        cells = line.rsplit(None, 1)
    if len(cells) == 2 and all(cells):
        return cells[0], cells[1]
    if len(cells) == 3 and cells[0].isdecimal() and _is_number(cells[1]) and not _is_number(cells[2]):
        return cells[2], cells[1]
    if len(cells) >= 3 and cells[0] in ("0", "1") and not _is_number(cells[1]) and _is_number(cells[2]):
        return cells[1], cells[2]
    raise DataError(
        f"{path} line {number:,}: expected 'path label', 'index<TAB>label<TAB>path' or 'aligned<TAB>path<TAB>label', "
        f"not {line[:80]!r}"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _require_files(path: Path, root: Path, paths: Texts) -> None:
    missing = [place for place in map(paths.__getitem__, range(len(paths))) if not os.path.isfile(root / place)]
    if missing:
        more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
        raise DataError(
            f"{len(missing):,} of the {len(paths):,} files of {path} are not in {root}: "
            f"{', '.join(missing[:_SHOWN])}{more}; name their folder with --root"
        )
