"""The bytes of a RecordIO file and its index. Owns framing and image headers, not which records are people.

A record is a little-endian uint32 magic, a uint32 with three bits of continuation flag and 29 of length, the data, and
zeros up to a multiple of four bytes. Where the data hold the magic at a multiple of four bytes they are cut there: the
magic is left out, and the parts are flagged 1 (first), 2 (middle) and 3 (last); 0 is a record of one part. The data of
an image record start with a header: uint32 flag, float32 label, uint64 id, uint64 id2; `flag` more float32 labels
follow where flag > 0, in which case `label` is 0; then the encoded picture.

Source: the file format notes of dmlc-core (``recordio.h``) and MXNet (``image_recordio.h``).
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import DataError

MAGIC = struct.pack("<I", 0xCED7230A)
_HEAD = struct.Struct("<4sI")
_IMAGE = struct.Struct("<IfQQ")
_LENGTH_BITS = 29
_LONGEST = (1 << _LENGTH_BITS) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_PEEK = 64  # bytes: the head, the image header and up to eight labels


class Record(NamedTuple):
    """Where a record lies.

    Attributes:
        offset: of its first byte.
        end: offset of the first byte after its padding.
        parts: (offset, length) of its data; `MAGIC` stands between two parts.
    """

    offset: int
    end: int
    parts: tuple[tuple[int, int], ...]


class ImageHeader(NamedTuple):
    """What an image record says before the picture.

    Attributes:
        flag: number of extra labels; 0 is a single label.
        labels: one label, or `flag` of them.
        id: number of the record, which its index calls the key.
        length: bytes of the header.
    """

    flag: int
    labels: tuple[float, ...]
    id: int
    length: int


class RecordFile:
    """A RecordIO file, open for reading."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            DataError: no readable file.
        """
        self.path = path
        try:
            self.file = path.open("rb", buffering=0)
            self.size = self.file.seek(0, 2)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        self.start, self.peeked = 0, b""

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.file.close()

    def record(self, offset: int) -> Record:
        """The record that starts at an offset.

        Raises:
            DataError: no record starts there, or it is cut off.
        """
        flag, place, length = self._part(offset)
        if flag not in (_WHOLE, _FIRST):
            raise DataError(f"{self.path}: byte {offset:,} is in the middle of a record; its index is of another file")
        parts = [(place, length)]
        while flag in (_FIRST, _MIDDLE):
            flag, place, length = self._part(_padded(place + length))
            if flag not in (_MIDDLE, _LAST):
                raise DataError(f"{self.path}: the record at byte {offset:,} is damaged: its last part is missing")
            parts.append((place, length))
        return Record(offset, _padded(place + length), tuple(parts))

    def header(self, record: Record) -> ImageHeader:
        """The image header of a record.

        Raises:
            DataError: the record is shorter than its header.
        """
        flag, label, number, _ = _IMAGE.unpack(self._data(record, 0, _IMAGE.size))
        extra = struct.unpack(f"<{flag}f", self._data(record, _IMAGE.size, 4 * flag)) if flag else ()
        return ImageHeader(flag, extra or (label,), number, _IMAGE.size + 4 * flag)

    def pieces(self, record: Record, skip: int) -> tuple[tuple[int, int], ...]:
        """(offset, length) of a record's data without the first `skip` bytes, a multiple of four."""
        for number, (offset, length) in enumerate(record.parts):
            if skip <= length:
                return ((offset + skip, length - skip), *record.parts[number + 1 :])
            skip -= length + len(MAGIC)
        return ()

    def records(self) -> Iterator[Record]:
        """Every record from the first byte to the last.

        Raises:
            DataError: as in `record`.
        """
        offset = 0
        while offset < self.size:
            record = self.record(offset)
            yield record
            offset = record.end

    def _part(self, offset: int) -> tuple[int, int, int]:
        """(continuation flag, offset of the data, length of the data)."""
        head = self._bytes(offset, _HEAD.size)
        if len(head) < _HEAD.size:
            raise DataError(f"{self.path} is truncated: it ends in the head of the record at byte {offset:,}")
        magic, word = _HEAD.unpack(head)
        if magic != MAGIC:
            raise DataError(
                f"{self.path}: no record is at byte {offset:,} (found {magic.hex(' ')}, expected {MAGIC.hex(' ')}); "
                "it is damaged, no RecordIO file, or its index is of another file"
            )
        flag, length = word >> _LENGTH_BITS, word & _LONGEST
        if flag > _LAST:
            raise DataError(f"{self.path}: the record at byte {offset:,} is damaged: unknown flag {flag}")
        if _padded(offset + _HEAD.size + length) > self.size:
            raise DataError(
                f"{self.path} is truncated: it ends at byte {self.size:,}, within the record at byte {offset:,}"
            )
        return flag, offset + _HEAD.size, length

    def _data(self, record: Record, skip: int, length: int) -> bytes:
        """Some of a record's data, the magic between its parts included."""
        available = sum(size for _, size in record.parts) + len(MAGIC) * (len(record.parts) - 1)
        if skip + length > available:
            raise DataError(
                f"{self.path}: the record at byte {record.offset:,} is cut within its image header "
                f"({available} bytes; at least {skip + length:,} expected); is this a RecordIO file of pictures?"
            )
        if skip + length <= record.parts[0][1]:
            return self._bytes(record.parts[0][0] + skip, length)
        return MAGIC.join(self._bytes(*part) for part in record.parts)[skip : skip + length]

    def _bytes(self, offset: int, length: int) -> bytes:
        """Bytes of the file, fewer at its end; a few more are kept, for the header that is wanted next."""
        begin = offset - self.start
        if begin < 0 or begin + length > len(self.peeked):
            self.file.seek(offset)
            self.start, begin = offset, 0
            self.peeked = self._read(max(length, _PEEK))
        return self.peeked[begin : begin + length]

    def _read(self, length: int) -> bytes:
        try:
            return self.file.read(length) or b""
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from error


def encode_record(data: bytes) -> bytes:
    """The data as a record, cut where they hold the magic.

    Raises:
        DataError: a part longer than 29 bits can say.
    """
    parts, begin = [], 0
    for place in _aligned_magic(data):
        parts.append(data[begin:place])
        begin = place + len(MAGIC)
    parts.append(data[begin:])
    if max(map(len, parts)) > _LONGEST:
        raise DataError(f"a record of {len(data):,} bytes is too long for RecordIO (at most {_LONGEST:,} in a part)")
    flags = [_WHOLE] if len(parts) == 1 else [_FIRST, *[_MIDDLE] * (len(parts) - 2), _LAST]
    return b"".join(_encode_part(flag, part) for flag, part in zip(flags, parts, strict=True))


def encode_image_header(labels: tuple[float, ...], number: int) -> bytes:
    """An image header with one label, or an array of several."""
    if len(labels) == 1:
        return _IMAGE.pack(0, labels[0], number, 0)
    return _IMAGE.pack(len(labels), 0.0, number, 0) + struct.pack(f"<{len(labels)}f", *labels)


def read_index(path: Path, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys and offsets (both int64 (N,), in the order of the file) of an index: lines ``key<TAB>offset``.

    Args:
        path: the ``.idx`` file.
        size: of the ``.rec`` file in bytes, which no offset may reach.

    Raises:
        DataError: another form, a key or offset that occurs twice, or an offset where no record can start.
    """
    try:
        table = np.loadtxt(path, dtype=np.int64, delimiter="\t", comments=None, ndmin=2, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not an index of lines 'key<TAB>offset': {error}") from error
    if table.shape[1] != 2:
        raise DataError(f"{path} is not an index of lines 'key<TAB>offset': it has {table.shape[1]} columns")
    keys, offsets = table[:, 0].copy(), table[:, 1].copy()
    for name, column in (("key", keys), ("offset", offsets)):
        ordered = np.sort(column)
        twice = ordered[:-1][ordered[1:] == ordered[:-1]]
        if twice.size:
            raise DataError(f"{path} has the {name} {twice[0]:,} twice")
    past = np.flatnonzero(offsets >= size)
    if past.size:
        raise DataError(
            f"{path} points past the end: key {keys[past[0]]} to byte {offsets[past[0]]:,} of {size:,}, and "
            f"{past.size - 1:,} more; the .rec is truncated or another one"
        )
    wrong = np.flatnonzero((offsets < 0) | (offsets % 4 != 0))
    if wrong.size:
        raise DataError(
            f"{path} points to byte {offsets[wrong[0]]:,} (key {keys[wrong[0]]}), where no record can start; it is "
            "damaged or of another .rec"
        )
    return keys, offsets


def _encode_part(flag: int, data: bytes) -> bytes:
    return _HEAD.pack(MAGIC, flag << _LENGTH_BITS | len(data)) + data + bytes(-len(data) % 4)


def _aligned_magic(data: bytes) -> Iterator[int]:
    place = data.find(MAGIC)
    while place >= 0:
        if place % 4 == 0:
            yield place
        place = data.find(MAGIC, place + 1)


def _padded(offset: int) -> int:
    return offset + -offset % 4
