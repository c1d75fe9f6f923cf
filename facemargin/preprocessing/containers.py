"""What of a picture file reaches the decoder: the pixels and the orientation, never the rest.

A decoder goes through metadata before pixels, and metadata are where a small file can cost minutes: an Exif block cut
into a hundred thousand pieces, ten thousand compressed colour profiles, a directory of sixty thousand entries, a scan
repeated until the file is full. So the segments of a JPEG and the chunks of a PNG are walked here once, counted, and
only those that make pixels are handed on. Nothing is decompressed here.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

MOST_SEGMENTS = 10_000
"""Segments of a JPEG, all kinds together; cameras write some twenty, and an Exif or colour profile of 10 MB 160."""

MOST_SCANS = 64
"""Scans of a JPEG: each is a pass over the whole picture. Progressive encoders write some ten."""

MOST_CHUNKS = 100_000
"""Chunks of a PNG; encoders write one for some thousand bytes."""

_ORIENTATION_TAG = 0x0112
_SHORT = 3
_EXIF_HEAD = b"Exif\0\0"

# 0 and D0-D7 belong to the coded pixels. Any number of fill bytes 0xFF may precede: a pattern that began with all of
# them would be tried from each of them to the end of the run.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_START, _END, _SCAN, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_WITHOUT_LENGTH = frozenset({0x01, _START})
_METADATA = frozenset({*range(_APP1, 0xEE), 0xEF, 0xFE})  # APP0 (JFIF) and APP14 (Adobe) say what the colours are

_PNG_SIGNATURE = 8
_RIFF_HEAD = 12
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


class Pixels(NamedTuple):
    """A file of the same format with nothing but pixels, and its EXIF orientation (1 where it states none)."""

    data: bytes
    orientation: int


def jpeg_pixels(data: bytes) -> Pixels:
    """A JPEG without comments, Exif, XMP, profiles, thumbnails, fill bytes and whatever follows its end.

    Source: ITU-T T.81, B.1.1.2: fill bytes may precede any marker, so leaving them out changes no picture.

    Raises:
        ValueError: a segment that reaches beyond the file, or more segments or scans than any picture has.
    """
    kept, exif, scans, at = [data[:2]], b"", 0, 2
    for number, (marker, start, stop) in enumerate(_segments(data)):
        if number == MOST_SEGMENTS:
            raise ValueError(f"it has more than {MOST_SEGMENTS:,} segments")
        if scans:
            kept.append(
                _without_fill(data[at:start])
            )  # coded pixels; before the first scan it would be nothing that belongs there
        if marker == _SCAN:
            scans += 1
        if marker == _APP1 and not exif and data.startswith(_EXIF_HEAD, start + 4):
            exif = data[start + 4 : stop]
        if marker not in _METADATA:
            kept.append(data[start:stop])
        at = stop
        if marker == _END:
            break
    else:
        kept.append(_without_fill(data[at:]))  # cut off: how much is missing, the decoder tells
    if scans > MOST_SCANS:
        raise ValueError(f"it has {scans:,} scans; at most {MOST_SCANS} are accepted")
    return Pixels(b"".join(kept), orientation(exif))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start (at its last 0xFF) and end of every segment after the first."""
    at = 2
    while (match := _MARKER.search(data, at)) is not None:
        marker, start, at = match[1][0], match.end() - 2, match.end()
        if marker != _END and marker not in _WITHOUT_LENGTH:
            length = int.from_bytes(data[at : at + 2])
            if length < 2 or at + length > len(data):
                raise ValueError("a segment is cut off")
            at += length
        yield marker, start, at


def _without_fill(coded: bytes) -> bytes:
    """Coded pixels with one 0xFF for each run of them, and none before the marker that follows."""
    while b"\xff\xff" in coded:
        coded = coded.replace(b"\xff\xff", b"\xff")  # halves every run
    return coded.rstrip(b"\xff")


def png_pixels(data: bytes) -> Pixels:
    """A PNG without text, profiles, times, further frames and whatever follows its end.

    Raises:
        ValueError: something that is no chunk, or more chunks than any picture has.
    """
    kept, exif, at = [data[:_PNG_SIGNATURE]], b"", _PNG_SIGNATURE
    for _ in range(MOST_CHUNKS):
        kind, stop = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4])
        if len(kind) < 4:
            break
        if not kind.isalpha():
            raise ValueError("it is broken between two chunks")
        if kind in _PNG_PIXELS:
            kept.append(data[at:stop])
        if kind == b"eXIf" and not exif:
            exif = data[at + 8 : stop - 4]
        at = stop
        if kind == b"IEND":
            break
    else:
        raise ValueError(f"it has more than {MOST_CHUNKS:,} chunks")
    return Pixels(b"".join(kept), orientation(exif))


def webp_pixels(data: bytes) -> Pixels:
    """A WebP as it is: its decoder is told of metadata by length alone and takes the first frame only.

    Raises:
        ValueError: more chunks than any picture has.
    """
    at, end, exif = _RIFF_HEAD, min(len(data), 8 + int.from_bytes(data[4:8], "little")), b""
    for _ in range(MOST_CHUNKS):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF" and not exif:
            exif = data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
        if at >= end:
            return Pixels(data, orientation(exif))
    raise ValueError(f"it has more than {MOST_CHUNKS:,} chunks")


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 where it is missing, senseless or the block is damaged.

    Only the first directory is looked through, entry by entry, and nothing else of it is read.

    Source: CIPA DC-008 (Exif) 4.6.2 and 4.6.4 A: tag 0x0112, one SHORT.
    """
    block = exif.removeprefix(_EXIF_HEAD)
    if not block.startswith((b"II*\0", b"MM\0*")):
        return 1

    def number(at: int, length: int) -> int:
        return int.from_bytes(block[at : at + length], "little" if block.startswith(b"I") else "big")

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if number(entry, 2) == _ORIENTATION_TAG:
            found = number(entry + 8, 2)
            return found if number(entry + 2, 2) == _SHORT and 1 <= found <= 8 else 1
        if entry > len(block):
            break
    return 1
