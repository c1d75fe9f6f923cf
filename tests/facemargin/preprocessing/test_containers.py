"""What is handed to the decoder, byte by byte, and the orientation without a reader of Exif."""

import io
import struct
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from facemargin.preprocessing.containers import (
    MOST_CHUNKS,
    MOST_SCANS,
    MOST_SEGMENTS,
    jpeg_pixels,
    orientation,
    png_pixels,
    webp_pixels,
)


def encoded(image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").resize((40, 30)).save(buffer, image_format, **options)
    return buffer.getvalue()


def exif(number: int) -> bytes:
    block = Image.Exif()
    block[ExifTags.Base.Make] = "a camera"
    block[ExifTags.Base.Orientation] = number
    block[ExifTags.Base.Software] = "a program of some length"
    return block.tobytes()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def comment(content: bytes) -> bytes:
    return b"\xff\xfe" + struct.pack(">H", len(content) + 2) + content


def test_metadata_are_left_out_and_nothing_else() -> None:
    bare = encoded("JPEG")
    rich = encoded("JPEG", exif=exif(6), comment=b"hello", icc_profile=b"p" * 100_000, xmp=b"<x/>")
    assert jpeg_pixels(bare).data == bare
    assert (jpeg_pixels(rich + b"trailer").data, jpeg_pixels(rich).orientation) == (bare, 6)
    bare, rich = encoded("PNG"), encoded("PNG", exif=exif(6), icc_profile=b"p" * 1000, dpi=(3, 3))
    assert png_pixels(bare).data == bare
    assert (png_pixels(rich + b"trailer").data, png_pixels(rich).orientation) == (bare, 6)
    webp = encoded("WEBP", exif=exif(6))
    assert webp_pixels(webp) == (webp, 6)
    twice = webp + webp[webp.index(b"EXIF") :].replace(b"\6", b"\3")
    assert webp_pixels(twice[:4] + struct.pack("<I", len(twice) - 8) + twice[8:]).orientation == 6
    assert webp_pixels(webp + bytes(10_000_000)).orientation == 6


def test_what_says_the_colours_is_kept() -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(buffer, "JPEG")
    assert b"Adobe" in jpeg_pixels(buffer.getvalue()).data
    palette = io.BytesIO()
    Image.new("P", (16, 16)).save(palette, "PNG", transparency=0)
    assert {b"PLTE", b"tRNS"} <= {png_pixels(palette.getvalue()).data[k : k + 4] for k in range(200)}


def test_comments_between_scans_are_left_out_and_pixels_are_not() -> None:
    progressive = encoded("JPEG", progressive=True)
    second = progressive.index(b"\xff\xda", progressive.index(b"\xff\xda") + 1)
    assert jpeg_pixels(progressive[:second] + comment(b"\xff\xd9" * 10) + progressive[second:]).data == progressive
    assert jpeg_pixels(progressive[:-20]).data == progressive[:-20]


@pytest.mark.parametrize(("count", "fits"), [(MOST_SEGMENTS - 100, True), (MOST_SEGMENTS, False)])
def test_segments_are_counted(count: int, fits: bool) -> None:
    data = encoded("JPEG")
    many = data[:2] + comment(b"") * count + data[2:]
    if fits:
        assert jpeg_pixels(many).data == data
    else:
        with pytest.raises(ValueError, match="more than 10,000 segments"):
            jpeg_pixels(many)


def test_scans_are_counted_wherever_they_hide() -> None:
    data = encoded("JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    present = data.count(b"\xff\xda")
    jpeg_pixels(data[:-2] + last * (MOST_SCANS - present) + b"\xff\xd9")
    with pytest.raises(ValueError, match="65 scans; at most 64"):
        jpeg_pixels(data[:-2] + comment(b"\xff\xd9") + last * (MOST_SCANS - present + 1) + b"\xff\xd9")


def test_chunks_are_counted() -> None:
    data = encoded("PNG")
    assert png_pixels(data[:33] + chunk(b"abCd") * (MOST_CHUNKS - 10) + data[33:]).data == data
    with pytest.raises(ValueError, match="more than 100,000 chunks"):
        png_pixels(data[:33] + chunk(b"abCd") * MOST_CHUNKS + data[33:])
    with pytest.raises(ValueError, match="more than 100,000 chunks"):
        webp_pixels(b"RIFF\xff\xff\xff\x7fWEBP" + (b"abcd" + bytes(4)) * (MOST_CHUNKS + 1))


@pytest.mark.parametrize("place", [b"\xff\xdb", b"\xff\xda", b"\xff\xd9"])
def test_fill_bytes_before_a_marker_are_left_out_in_time_that_grows_with_their_number(place: bytes) -> None:
    data = encoded("JPEG")
    at, run = data.rindex(place), b"\xff" * 40_000
    started = time.process_time()
    assert jpeg_pixels(data[:at] + run + data[at:]).data == data
    assert jpeg_pixels(data[:at] + run + b"\0" + data[at:]).data.count(b"\xff") < len(run) + data.count(b"\xff")
    assert jpeg_pixels(data[:at] + run).orientation == 1
    assert time.process_time() - started < 1  # a search from each byte to the end of the run takes ten times as long


def test_fill_bytes_within_coded_pixels_are_left_out() -> None:
    data = encoded("JPEG", restart_marker_blocks=1)
    at = data.index(b"\xff\xd1")
    assert jpeg_pixels(data[:at] + b"\xff" * 1000 + data[at:]).data == data


@pytest.mark.parametrize("cut", [b"\xff\xdb\0\1", b"\xff\xdb\xff\xff", b"\xff\xdb\0", b"\xff\xdb"])
def test_a_segment_that_is_cut_off_is_damage(cut: bytes) -> None:
    with pytest.raises(ValueError, match="cut off"):
        jpeg_pixels(b"\xff\xd8" + cut)


def test_what_is_no_chunk_is_damage() -> None:
    with pytest.raises(ValueError, match="broken between two chunks"):
        png_pixels(encoded("PNG")[:33] + b"\0\0\0\0\0\0\0\0" + bytes(100))


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535])
def test_the_orientation_of_either_byte_order(number: int) -> None:
    for mark, order in ((b"II*\0", "<"), (b"MM\0*", ">")):
        entries = [(0x010F, 2, 4, b"abc\0"), (0x0112, 3, 1, struct.pack(order + "HH", number, 0))]
        directory = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
        block = mark + struct.pack(order + "IH", 8, 2) + directory
        expected = number if 1 <= number <= 8 else 1
        assert orientation(block) == orientation(b"Exif\0\0" + block) == expected


def test_the_orientation_agrees_with_a_reader_of_exif() -> None:
    for number in range(1, 9):
        assert orientation(exif(number)) == number
    assert orientation(b"") == 1


@settings(max_examples=200, deadline=None)
@given(
    block=st.binary(max_size=300), head=st.sampled_from([b"", b"II*\0", b"MM\0*", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
)
def test_any_block_has_an_orientation(head: bytes, block: bytes) -> None:
    assert 1 <= orientation(head + block) <= 8
