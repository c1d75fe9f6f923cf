"""RecordIO framing against an independent reader and writer, and damaged files."""

import contextlib
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemargin.errors import DataError
from training.data.formats.record_file import MAGIC, RecordFile, encode_image_header, encode_record, read_index

WORD = bytes.fromhex("0a23d7ce")
# Payloads rich in the magic, at aligned and at unaligned places, whole and in part.
PAYLOADS = st.lists(st.sampled_from([WORD, WORD[:2], WORD[2:], b"a", b"bc", b"0123", b""]), max_size=12).map(b"".join)


def independent_read(content: bytes) -> list[bytes]:
    """Records of a file, word by word through NumPy: a state machine instead of offsets."""
    words = np.frombuffer(content, "<u4")
    records: list[bytes] = []
    open_parts: list[bytes] | None = None
    at = 0
    while at < len(words):
        assert words[at] == 0xCED7230A
        kind, length = divmod(int(words[at + 1]), 2**29)
        stored = (length + 3) // 4
        part = words[at + 2 : at + 2 + stored].tobytes()
        assert part[length:] == bytes(len(part) - length)
        at += 2 + stored
        if kind == 0:
            assert open_parts is None
            records.append(part[:length])
        elif kind == 1:
            assert open_parts is None
            open_parts = [part[:length]]
        else:
            assert open_parts is not None
            open_parts.append(part[:length])
            if kind == 3:
                records.append(struct.pack("<I", 0xCED7230A).join(open_parts))
                open_parts = None
    assert open_parts is None
    return records


def independent_write(payloads: list[bytes]) -> bytes:
    """The file of these records, in the manner of the format note: copy words, break at each magic word."""
    out = bytearray()
    for payload in payloads:
        pieces, piece = [], bytearray()
        for start in range(0, len(payload), 4):
            word = payload[start : start + 4]
            if word == WORD:
                pieces.append(bytes(piece))
                piece = bytearray()
            else:
                piece += word
        pieces.append(bytes(piece))
        for number, content in enumerate(pieces):
            only, first, last = len(pieces) == 1, number == 0, number == len(pieces) - 1
            kind = 0 if only else 1 if first else 3 if last else 2
            out += WORD + (kind * 2**29 + len(content)).to_bytes(4, "little") + content
            while len(out) % 4:
                out.append(0)
    return bytes(out)


@given(st.lists(PAYLOADS, max_size=5))
def test_what_is_written_is_what_another_writer_writes_and_another_reader_reads(payloads: list[bytes]) -> None:
    content = b"".join(map(encode_record, payloads))
    assert content == independent_write(payloads)
    assert independent_read(content) == payloads


@given(
    payloads=st.lists(PAYLOADS, min_size=1, max_size=5), labels=st.lists(st.integers(0, 99), min_size=1, max_size=12)
)
def test_records_of_another_writer_are_found_with_the_pieces_of_their_pictures(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], labels: list[int]
) -> None:
    flag = 0 if len(labels) == 1 else len(labels)
    # An id that is the magic makes the image header itself fall into two parts.
    identity = struct.pack("<IfQQ", flag, labels[0], 0xCED7230A << 32, 0xCED7230A)
    header = identity + (struct.pack(f"<{flag}f", *labels) if flag else b"")
    path = tmp_path_factory.mktemp("rec") / "x.rec"
    path.write_bytes(independent_write([header + payload for payload in payloads]))
    content = path.read_bytes()
    with RecordFile(path) as file:
        for record, payload in zip(file.records(), payloads, strict=True):
            read = file.header(record)
            assert read.labels == tuple(map(float, labels))
            pieces = file.pieces(record, read.length)
            assert MAGIC.join(content[place : place + length] for place, length in pieces) == payload


def test_an_image_header_by_hand() -> None:
    assert encode_image_header((7.0,), 3) == bytes([0, 0, 0, 0, 0, 0, 0xE0, 0x40, 3]) + bytes(15)
    assert encode_image_header((1.0, 2.0), 5) == (
        bytes([2, 0, 0, 0]) + bytes(4) + bytes([5]) + bytes(15) + bytes([0, 0, 0x80, 0x3F, 0, 0, 0, 0x40])
    )


def walk(path: Path) -> None:
    with RecordFile(path) as file:
        for record in file.records():
            file.header(record)


GOOD = encode_record(encode_image_header((1.0,), 0) + b"picture")
SPLIT = encode_record(encode_image_header((1.0,), 0) + WORD + b"tail")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + GOOD[:4], f"is truncated: it ends in the head of the record at byte {len(GOOD)}"),
        (GOOD + GOOD[:-8], f"is truncated: it ends at byte {2 * len(GOOD) - 8}, within the record at byte {len(GOOD)}"),
        (GOOD[:-1], "is truncated"),
        (b"PNG!" + GOOD[4:], "no record is at byte 0 (found 50 4e 47 21, expected 0a 23 d7 ce)"),
        (encode_record(b"short"), "is cut within its image header"),
        (encode_record(struct.pack("<IfQQ", 9, 0, 0, 0) + bytes(8)), "is cut within its image header"),
        (encode_record(struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0)), "is cut within its image header"),
        (WORD + struct.pack("<I", 7 << 29), "unknown flag 7"),
        (SPLIT[: 8 + 24] + GOOD, "its last part is missing"),
        (SPLIT[8 + 24 :], "is in the middle of a record"),
        (SPLIT[: 8 + 24], "is truncated: it ends in the head"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.rec"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        walk(path)


@given(st.data())
def test_no_cut_and_no_flipped_byte_hangs_or_leaks_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(SPLIT + GOOD)
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("rec") / "x.rec"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(DataError):
        walk(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0\t0\n1\t64\n", "points past the end: key 1 to byte 64 of 64, and 0 more"),
        ("0\t0\n1\t999\n2\t1000\n", "key 1 to byte 999 of 64, and 1 more"),
        ("0\t0\n1\t30\n", "points to byte 30 (key 1), where no record can start"),
        ("0\t0\n1\t-4\n", "points to byte -4"),
        ("0\t0\n0\t32\n", "has the key 0 twice"),
        ("0\t0\n1\t0\n", "has the offset 0 twice"),
        ("0\n1\n", "has 1 columns"),
        ("0\tx\n", "is not an index of lines"),
        ("0 0\n", "is not an index of lines"),
    ],
)
def test_a_wrong_index_is_named(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "x.idx").write_text(lines)
    with pytest.raises(DataError, match=re.escape(message)):
        read_index(tmp_path / "x.idx", 64)
