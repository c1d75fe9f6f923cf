"""What is embedded: the pictures of folders, shards, records and lists, each with a key that names it in its source.

Owns the walk through nested folders and the fingerprint of a source; the other formats are `training.data.formats`'.
"""

import hashlib
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from facemargin.errors import ConfigError, DataError
from facemargin.preprocessing import IMAGE_SUFFIXES
from training.data.formats import FORMATS, format_name
from training.data.formats.columns import FilePictures, TextColumn
from training.data.formats.webdataset import WebDataset
from training.data.pictures import LabelledImages, Picture

_LOOKED_AT = 64
"""Pictures whose place and length count in a fingerprint; looking at all would read millions of folder entries."""


@dataclass(frozen=True, eq=False)
class Source:
    """Pictures that were named together.

    Attributes:
        name: as it was given; see `printable`.
        format: key of `FORMATS`.
        images: the pictures; a person called ``""`` is unknown.
    """

    name: str
    format: str
    images: LabelledImages

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.images.pictures)

    def key(self, row: int) -> str:
        """What tells a picture from the others: path below the folder, shard and member, or key of the record."""
        return printable(self.images.picture_key(row))

    def person(self, row: int) -> str | None:
        """Who is in a picture, or None where the source does not say."""
        return printable(self.images.people[self.images.labels[row]]) or None

    def fingerprint(self) -> str:
        """SHA-256 over keys and people of all pictures, and over the places and lengths in bytes of some."""
        digest = hashlib.sha256()
        for row in range(len(self)):
            digest.update(f"{self.key(row)}\t{self.person(row)}\n".encode())
        for row in np.unique(np.linspace(0, len(self) - 1, _LOOKED_AT).astype(int)).tolist():
            digest.update(f"{row}\t{self._place(row)}\n".encode())
        return digest.hexdigest()

    def _place(self, row: int) -> str:
        """Where a picture lies in its file, or how long its file is."""
        try:
            picture = self.images.pictures[row]
            return str(picture.path.stat().st_size if picture.pieces is None else picture.pieces)
        except (OSError, DataError):
            return "unreadable"


class Sources:
    """Several sources as one sequence of rows.

    Args:
        parts: in the order in which they were named.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = tuple(parts)
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        """Number of pictures."""
        return self._ends[-1]

    def place(self, row: int) -> tuple[Source, int]:
        """The source of a row, and its row there."""
        number = bisect_right(self._ends, row)
        return self.parts[number], row - (self._ends[number - 1] if number else 0)

    def picture(self, row: int) -> Picture:
        """A picture.

        Raises:
            DataError: its place holds something else.
        """
        source, own = self.place(row)
        return source.images.pictures[own]


def read_sources(paths: Sequence[Path], *, format: str | None = None, root: Path | None = None) -> Sources:
    """Find the pictures of some files and folders, without reading them.

    Args:
        paths: folders (nested as they like), WebDataset shards, ``.rec`` files, lists.
        format: key of `FORMATS` for all of them; recognised by the path by default.
        root: folder that the paths of a list are relative to.

    Raises:
        ConfigError: an unknown format, or a path named twice.
        DataError: a source that is missing, damaged or has no pictures.
    """
    if len({str(path) for path in paths}) < len(paths):
        raise ConfigError("a source is named twice; name each once")
    return Sources([_read(path, format_name(path, format), root) for path in paths])


def _read(path: Path, kind: str, root: Path | None) -> Source:
    if kind == "folder":
        return Source(printable(str(path)), kind, read_nested(path))
    reader = WebDataset(labelled=False) if kind == "webdataset" else FORMATS[kind]
    return Source(printable(str(path)), kind, reader.read(path, root=root))


def read_nested(root: Path) -> LabelledImages:
    """The pictures of a folder and of all folders in it; the person is the picture's folder, ``""`` for the top one.

    Raises:
        DataError: no such folder, no picture in it, a folder that cannot be read, or a link back to a folder above.
    """
    if not root.is_dir():
        raise DataError(f"the image folder {root} does not exist")
    paths, labels, known = TextColumn(), array("q"), dict[str, int]()
    try:
        for path in _walk(root, "", ()):
            paths.add(path)
            labels.append(known.setdefault(path.rpartition("/")[0], len(known)))
    except OSError as error:
        raise DataError(f"{error.filename or root} cannot be read: {error.strerror or error}") from error
    if not labels:
        raise DataError(f"{root} has no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}) in it")
    return LabelledImages(FilePictures(root, paths.finish()), np.array(labels, dtype=np.int64), tuple(known))


def _walk(folder: Path, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Pictures of a folder by name, as paths below the first one; links are followed, hidden entries passed over."""
    state = folder.stat()
    own = (state.st_dev, state.st_ino)
    if own in above:
        raise DataError(f"{folder} is a link to a folder above it; remove it")
    with os.scandir(folder) as entries:
        found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    for name, is_folder in found:
        if is_folder:
            yield from _walk(folder / name, f"{below}{name}/", (*above, own))
        elif os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
            yield below + name


def printable(name: str) -> str:
    """A name as UTF-8 text; bytes of a file name that are none stand as ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
