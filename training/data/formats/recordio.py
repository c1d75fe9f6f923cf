"""InsightFace's RecordIO sets: ``train.rec``, ``train.idx``, ``property``, and here ``people.txt`` with names.

Record 0 is a header with two numbers: the key of the first identity record and one past the last. The pictures are the
records 1 up to the first identity record; an identity record holds the first picture of a person and one past the last.
So the labels of millions of pictures are known from one record a person. A set without header record (im2rec) has a
label in each record; then every image header is read once, and the id in it means nothing: a set that was shuffled
keeps the ids of the old order under new keys.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from facemargin.errors import DataError, ImageError
from training.data.formats.base import Entry
from training.data.formats.columns import is_label
from training.data.formats.names import FILE_NAME, names_of, write_names
from training.data.formats.record_file import (
    MAGIC,
    ImageHeader,
    Record,
    RecordFile,
    encode_image_header,
    encode_record,
    read_index,
)
from training.data.pictures import LabelledImages, LazyPictures, Picture, label_gaps

Item = TypeVar("Item")

PROPERTY = "property"
_EXACT = 2**24
"""Whole numbers up to here are exact in float32, in which identity records tell where pictures lie."""


@dataclass(frozen=True, eq=False)
class RecordPictures(LazyPictures):
    """Pictures of a ``.rec`` file; each record is looked at when its picture is asked for.

    Attributes:
        path: the file.
        keys, offsets: int64 (N,) of the records.
        with_ids: the id of each record is its key (or 0), as it is in a set with a header record.
    """

    path: Path
    keys: NDArray[np.int64]
    offsets: NDArray[np.int64]
    with_ids: bool

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.keys)

    def name(self, index: int) -> str:
        """The key."""
        return str(self.keys[index])

    def picture(self, index: int) -> Picture:
        """One picture.

        Raises:
            DataError: no image record of this key at its offset.
        """
        with RecordFile(self.path) as file:
            place = int(self.keys[index]), int(self.offsets[index])
            record, header = _read_header(file, *place, with_id=self.with_ids)
            return Picture(self.name(index), self.path, file.pieces(record, header.length), MAGIC)


class RecordIO:
    """The format ``recordio``."""

    grouped = True

    def recognises(self, path: Path) -> bool:
        """A ``.rec`` file, or a folder with one in it."""
        return path.suffix.lower() == ".rec" or (path.is_dir() and any(path.glob("*.rec")))

    def read(self, path: Path, *, root: Path | None = None) -> LabelledImages:
        """See `Format.read`; a folder's only ``.rec``, or its ``train.rec``."""
        path = _rec_of(path)
        with RecordFile(path) as file:
            keys, offsets = _places(file)
            header = _set_header(file, keys, offsets)
            if header is None or header[1] > _EXACT:
                rows, labels = _scan(file, keys, offsets, with_header=header is not None)
            else:
                rows, labels = _from_identities(file, keys, offsets, header)
        if not rows.size:
            raise DataError(f"{path} has no pictures")
        numbers, dense = np.unique(labels, return_inverse=True)
        pictures = RecordPictures(path, keys[rows], offsets[rows], header is not None)
        _check_property(path.with_name(PROPERTY), numbers, pictures)
        people = names_of(path.parent, numbers.tolist())
        return LabelledImages(pictures, dense.astype(np.int64), people, gaps=label_gaps(numbers.tolist()))

    def outputs(self, target: Path) -> tuple[Path, ...]:
        """See `Format.outputs`; a folder may hold one set, because two would share ``property`` and ``people.txt``."""
        if target.suffix.lower() != ".rec":
            raise DataError(f"{target} should end in .rec, such as {target / 'train.rec'}")
        others = sorted(path.name for path in target.parent.glob("*.rec") if path.name != target.name)
        if others:
            raise DataError(
                f"{target.parent} holds {others[0]} already, whose {PROPERTY} and {FILE_NAME} would be replaced; "
                "write to a folder of its own"
            )
        return (target.with_name(FILE_NAME), target.with_name(PROPERTY), target.with_suffix(".idx"), target)

    def write(self, target: Path, people: Sequence[str], entries: Iterable[Entry], *, shard_pictures: int) -> None:
        """See `Format.write`; labels are counted from 0 in the order in which people come."""
        with target.open("wb") as file, target.with_suffix(".idx").open("w", encoding="ascii", newline="\n") as index:
            writer = _Writer(file, index.write)
            for entry in entries:
                writer.image(entry)
            writer.finish()
        if len(writer.sizes) == 1:
            height, width = writer.sizes.pop()
            target.with_name(PROPERTY).write_text(
                f"{len(writer.labels)},{height},{width}\n", encoding="ascii", newline="\n"
            )
        write_names(target.parent, [people[label] for label in writer.labels])


class _Writer:
    """Writes the header record as the first, and again at the end, when its numbers are known."""

    def __init__(self, file: BinaryIO, write_index: Callable[[str], object]) -> None:
        self.file, self.write_index = file, write_index
        self.key, self.offset = 0, 0
        self.labels: list[int] = []
        self.starts: list[int] = []
        self.sizes: set[tuple[int, int]] = set()
        self._record((0.0, 0.0))

    def image(self, entry: Entry) -> None:
        if not self.labels or entry.label != self.labels[-1]:
            self.labels.append(entry.label)
            self.starts.append(self.key)
        self.sizes.add(entry.size)
        self._record((float(len(self.labels) - 1),), entry.data)

    def finish(self) -> None:
        first = self.key
        if first + len(self.starts) > _EXACT:
            raise DataError(
                f"{first - 1:,} pictures are more than the float32 numbers of InsightFace's identity records can "
                f"count ({_EXACT:,}); write webdataset instead"
            )
        for start, stop in zip(self.starts, [*self.starts[1:], first], strict=True):
            self._record((float(start), float(stop)))
        self.file.seek(0)
        self.file.write(encode_record(encode_image_header((float(first), float(self.key)), 0)))

    def _record(self, labels: tuple[float, ...], picture: bytes = b"") -> None:
        record = encode_record(encode_image_header(labels, self.key) + picture)
        self.write_index(f"{self.key}\t{self.offset}\n")
        self.file.write(record)
        self.key += 1
        self.offset += len(record)


def _rec_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.rec"))
    if len(found) == 1:
        return found[0]
    if path / "train.rec" in found:
        return path / "train.rec"
    raise DataError(f"{path} holds {len(found)} .rec files and none is train.rec; name one of them")


def _places(file: RecordFile) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys and offsets of all records, by key; from the file itself where there is no index."""
    path = file.path.with_suffix(".idx")
    if file.size == 0:
        raise DataError(f"{file.path} is empty")
    if not path.is_file():
        offsets = np.array([record.offset for record in _watched(file.records(), file, "no .idx")], dtype=np.int64)
        return np.arange(len(offsets), dtype=np.int64), offsets
    keys, offsets = read_index(path, file.size)
    first, last = int(offsets.min()), int(offsets.max())
    end = file.record(last).end
    if first or end != file.size:
        where = f"before byte {first:,}" if first else f"after byte {end:,}"
        raise DataError(f"{path} knows of no record {where}, but {file.path.name} has some; they are of different sets")
    order = np.argsort(keys)
    return keys[order], offsets[order]


def _set_header(file: RecordFile, keys: NDArray[np.int64], offsets: NDArray[np.int64]) -> tuple[int, int] | None:
    """Key of the first identity record and one past the last; None for a set without header record."""
    if keys[0] != 0:
        return None
    record, header = _read_header(file, 0, int(offsets[0]), with_id=False)
    if header.flag < 2 or any(length for _, length in file.pieces(record, header.length)):
        return None
    _require_id(file, 0, record, header)
    first, past = header.labels[:2]
    if not (is_label(first) and is_label(past) and 1 <= first <= past):
        raise DataError(f"{file.path}: the header record announces identity records {first:g} to {past:g}")
    return int(first), int(past)


def _from_identities(
    file: RecordFile, keys: NDArray[np.int64], offsets: NDArray[np.int64], header: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Rows of the pictures in the index, and their labels, from one record a person."""
    first, past = header
    if not np.array_equal(keys, np.arange(past)):
        raise DataError(
            f"{file.path}: the header record announces {past:,} records ({first - 1:,} pictures, {past - first:,} "
            f"people), the index has {len(keys):,}, up to key {keys[-1]:,}; they are of different sets"
        )
    labels = np.full(first, -1, dtype=np.int64)
    for key in _watched(range(first, past), file, "people"):
        start, stop = _picture_range(file, key, int(offsets[key]), first)
        if (labels[start:stop] >= 0).any():
            raise DataError(f"{file.path}: identity record {key:,} takes pictures of another one ({start:,}–{stop:,})")
        if start < stop:
            ends = {_label(file, row, int(offsets[row])) for row in (start, stop - 1)}
            if len(ends) > 1:
                raise DataError(f"{file.path}: identity record {key:,} joins pictures of the labels {sorted(ends)}")
            labels[start:stop] = ends.pop()
    for row in np.flatnonzero(labels[1:] < 0) + 1:  # pictures that no identity record speaks of
        labels[row] = _label(file, int(row), int(offsets[row]))
    return np.arange(1, first), labels[1:]


def _scan(
    file: RecordFile, keys: NDArray[np.int64], offsets: NDArray[np.int64], *, with_header: bool
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """The same, from the header of every record, in the order of the keys."""
    rows, labels = [], []
    covered = 0
    for row, (key, offset) in enumerate(_watched(zip(keys.tolist(), offsets.tolist(), strict=True), file, "headers")):
        record, header = _read_header(file, key, offset, with_id=with_header)
        if any(length for _, length in file.pieces(record, header.length)):
            rows.append(row)
            labels.append(_whole_label(file, key, header))
        elif not with_header:
            raise DataError(f"{file.path}: record {key:,} has no picture")
        covered += record.end - offset
    if covered != file.size:
        raise DataError(
            f"{file.path}: {file.size - covered:,} of its {file.size:,} bytes are in records that its index does not "
            "know; they are of different sets"
        )
    return np.array(rows, dtype=np.intp), np.array(labels, dtype=np.int64)


def _picture_range(file: RecordFile, key: int, offset: int, first_identity: int) -> tuple[int, int]:
    _, header = _read_header(file, key, offset)
    start, stop = header.labels[:2] if header.flag >= 2 else (-1.0, -1.0)
    if not (is_label(start) and is_label(stop) and 1 <= start <= stop <= first_identity):
        raise DataError(
            f"{file.path}: identity record {key:,} should hold two picture numbers from 1 to {first_identity:,}, "
            f"not {', '.join(f'{label:g}' for label in header.labels)}"
        )
    return int(start), int(stop)


def _watched(items: Iterable[Item], file: RecordFile, what: str) -> Iterable[Item]:
    console = Console(stderr=True)
    title = f"{file.path.name}: {what}"
    return track(items, title, console=console, transient=True, disable=not console.is_terminal)


def _label(file: RecordFile, key: int, offset: int) -> int:
    return _whole_label(file, key, _read_header(file, key, offset)[1])


def _whole_label(file: RecordFile, key: int, header: ImageHeader) -> int:
    if not is_label(header.labels[0]):
        raise DataError(
            f"{file.path}: the label {header.labels[0]:g} of record {key:,} is not a whole number from 0 on"
        )
    return int(header.labels[0])


def _read_header(file: RecordFile, key: int, offset: int, *, with_id: bool = True) -> tuple[Record, ImageHeader]:
    """A record and its header; with an id, this must be the key."""
    record = file.record(offset)
    header = file.header(record)
    if with_id:
        _require_id(file, key, record, header)
    return record, header


def _require_id(file: RecordFile, key: int, record: Record, header: ImageHeader) -> None:
    """An id of 0 is one that was never set."""
    if header.id not in (0, key):
        raise DataError(
            f"{file.path}: the index calls the record at byte {record.offset:,} {key:,}, the record itself "
            f"{header.id:,}; they are of different sets"
        )


def _check_property(path: Path, numbers: NDArray[np.int64], pictures: RecordPictures) -> None:
    """`property` says ``classes,height,width``; what it says must be so."""
    if not path.is_file():
        return
    try:
        classes, height, width = (int(field) for field in path.read_text(encoding="ascii").split(","))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} should say 'classes,height,width', such as 85742,112,112") from error
    if classes not in (len(numbers), int(numbers[-1]) + 1):
        raise DataError(
            f"{path} says {classes:,} people, {pictures.path.name} has {len(numbers):,}; one is of another set"
        )
    try:
        found = pictures[0].decode().shape[:2]
    except ImageError:
        return  # reading it says so by name
    if found != (height, width):
        raise DataError(
            f"{path} says pictures of {height}x{width}, the first of {pictures.path.name} is {found[0]}x{found[1]}"
        )
