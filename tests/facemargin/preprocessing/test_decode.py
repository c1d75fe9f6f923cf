import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import BmpImagePlugin, Image

from facemargin.errors import (
    DataError,
    EmptyImageError,
    ImageError,
    ImageTooLargeError,
    TruncatedImageError,
    UnsupportedImageError,
)
from facemargin.preprocessing import ImageLimits, decode, encode_jpeg, encode_png, read_image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    """Smooth colours, all different in the three channels and under every flip and turn."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 6, 40 + x + y], axis=2).astype(np.uint8)


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def jpeg_header(width: int, height: int) -> bytes:
    sizes = struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    return b"\xff\xd8\xff\xc0" + sizes + b"\xff\xda" + struct.pack(">HB", 12, 3) + bytes([1, 0, 2, 0, 3, 0, 0, 63, 0])


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_accepted_format_gives_the_pixels(image_format: str) -> None:
    pixels = gradient()
    options = {"lossless": True} if image_format == "WEBP" else {"quality": 98} if image_format == "JPEG" else {}
    found = decode(encoded(Image.fromarray(pixels), image_format, **options))
    assert found.dtype == np.uint8
    assert found.shape == pixels.shape
    assert found.flags.writeable
    assert found.flags.c_contiguous
    difference = np.abs(found.astype(int) - pixels)
    assert difference.max() <= (12 if image_format == "JPEG" else 0)


@pytest.mark.parametrize("image_format", ["GIF", "TIFF", "PPM", "ICO", "TGA", "PDF"])
def test_other_formats_are_refused_by_their_first_bytes(image_format: str) -> None:
    with pytest.raises(UnsupportedImageError, match="JPEG, PNG, WebP, BMP"):
        decode(encoded(Image.fromarray(gradient()), image_format))


@pytest.mark.parametrize("text", [b"hello, this is text", b"BMW is a car, not a bitmap", b"\xff\xd8", b"RIFF....WAVE"])
def test_text_and_fragments_are_unsupported(text: bytes) -> None:
    with pytest.raises(UnsupportedImageError):
        decode(text)


@pytest.mark.parametrize("compression", [1, 2])
def test_a_run_length_coded_bmp_is_unsupported_and_no_reader_is_asked(
    compression: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow unpacks it in Python, pixel by pixel: 3 KB can keep every other thread waiting for over a second."""
    header = bytearray(bmp_header(8, 8))
    header[28:34] = struct.pack("<HI", 8 // compression, compression)
    monkeypatch.setattr(BmpImagePlugin, "BmpImageFile", None)
    with pytest.raises(UnsupportedImageError, match="run-length"):
        decode(bytes(header) + bytes(2000))


def test_no_bytes() -> None:
    with pytest.raises(EmptyImageError, match="0 bytes"):
        decode(b"")


def test_too_many_bytes_are_refused_before_anything_is_read() -> None:
    with pytest.raises(ImageTooLargeError, match="1,001 bytes"):
        decode(b"x" * 1001, ImageLimits(max_bytes=1000))


def bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, width, -height, 1, 24, 0, 0, 0, 0, 0, 0)


def os2_bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIHHHH", 26, 0, 26, 12, width, height, 1, 24)


def webp_header(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frame = encoded(Image.new("RGB", (1, 1)), "WEBP")[12:]
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + canvas + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("header", [png_header, jpeg_header, bmp_header, os2_bmp_header, webp_header])
@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (9000, 10), (8000, 8000)])
def test_a_huge_header_is_refused_without_decoding(header, width: int, height: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own bomb warning must not appear either
        with pytest.raises(ImageTooLargeError, match=f"{width}x{height}"):
            decode(header(width, height))


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"lossless": True, "exif": b"Exif\0\0II*\0"}])
def test_every_kind_of_webp_states_its_size(options: dict[str, object]) -> None:
    data = encoded(Image.fromarray(gradient(30, 50)), "WEBP", **options)
    with pytest.raises(ImageTooLargeError, match="50x30"):
        decode(data[:40], ImageLimits(max_side=49))  # cut off: nothing but the header can have told
    assert decode(data, ImageLimits(max_side=50)).shape == (30, 50, 3)


def test_limits_are_inclusive() -> None:
    data = encode_png(gradient(40, 60))
    assert decode(data, ImageLimits(max_side=60, max_pixels=2400, max_bytes=len(data))).shape == (40, 60, 3)
    for tighter in ({"max_side": 59}, {"max_pixels": 2399}, {"max_bytes": len(data) - 1}):
        with pytest.raises(ImageTooLargeError):
            decode(data, ImageLimits(**tighter))


@pytest.mark.parametrize("name", ["max_bytes", "max_side", "max_pixels"])
def test_limits_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        ImageLimits(**{name: 0})


@pytest.mark.parametrize("image_format", FORMATS)
def test_half_a_file_is_truncated(image_format: str) -> None:
    data = encoded(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), image_format
    )
    with pytest.raises(TruncatedImageError, match="truncated or damaged"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_shows_the_picture_as_displayed(orientation: int) -> None:
    displayed = gradient()
    # How a camera stores the picture so that a viewer which applies the orientation shows `displayed`.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](displayed)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif.tobytes())
    np.testing.assert_array_equal(decode(data), displayed)


@pytest.mark.parametrize("orientation", [0, 9, 700])
def test_a_senseless_orientation_counts_as_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(gradient()), "PNG", exif=exif.tobytes())
    np.testing.assert_array_equal(decode(data), gradient())


def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = encoded(Image.fromarray(gradient()), "PNG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x00\x01")
    np.testing.assert_array_equal(decode(data), gradient())


def test_grey_and_palette_become_rgb() -> None:
    grey = gradient()[:, :, 0]
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey), "PNG")), np.repeat(grey[:, :, None], 3, axis=2))
    black_and_white = Image.fromarray(grey > 100)
    assert set(np.unique(decode(encoded(black_and_white, "PNG")))) == {0, 255}
    palette = Image.fromarray(gradient()).quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 32_896, 65_535]], dtype=np.uint16)
    found = decode(encoded(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(found[0, :, 0], [0, 1, 128, 255])


def test_cmyk_becomes_rgb() -> None:
    flat = Image.new("CMYK", (32, 32), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    red, green, blue = decode(encoded(flat, "JPEG", quality=95))[16, 16]
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_alpha_is_composited_on_white(image_format: str) -> None:
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[:4] = (200, 0, 0, 255)
    pixels[4:] = (9, 9, 9, 0)  # hidden colours must not show
    options = {"lossless": True} if image_format == "WEBP" else {}
    found = decode(encoded(Image.fromarray(pixels), image_format, **options))
    np.testing.assert_array_equal(found[0, 0], (200, 0, 0))
    np.testing.assert_array_equal(found[7, 7], (255, 255, 255))


def test_half_transparent_grey_and_transparent_palette() -> None:
    layer = np.full((4, 4, 2), (0, 128), dtype=np.uint8)
    assert decode(encoded(Image.fromarray(layer), "PNG"))[0, 0].tolist() == [127] * 3
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    np.testing.assert_array_equal(decode(encoded(palette, "PNG", transparency=0))[0, 0], (255, 255, 255))


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.fromarray(gradient()), Image.fromarray(255 - gradient())]
    for image_format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode(data), gradient())


def test_png_keeps_every_pixel_and_jpeg_nearly() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encode_png(pixels)), pixels)
    assert np.abs(decode(encode_jpeg(gradient())).astype(int) - gradient()).max() <= 8
    for encode in (encode_png, encode_jpeg):
        with pytest.raises(ValueError, match="uint8 of shape"):
            encode(pixels[:, :, 0])


def test_read_image_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(DataError, match=r"a\.png: cannot be read"):
        read_image(path)
    path.write_bytes(b"")
    with pytest.raises(EmptyImageError, match=r"a\.png: the image is empty"):
        read_image(path)
    path.write_bytes(encode_png(gradient()))
    np.testing.assert_array_equal(read_image(path), gradient())
    with pytest.raises(ImageTooLargeError, match=r"a\.png: more than the 10 bytes"):
        read_image(path, ImageLimits(max_bytes=10))
    with pytest.raises(ImageTooLargeError, match=r"a\.png: the image is 60x40"):
        read_image(path, ImageLimits(max_side=10))


SEEDS = {
    **{name: encoded(Image.fromarray(gradient(24, 24)), name) for name in FORMATS},
    "exif": encoded(Image.fromarray(gradient(24, 24)), "JPEG", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00"),
    "palette": encoded(Image.fromarray(gradient(24, 24)).quantize(8), "PNG", transparency=0),
    "alpha": encoded(Image.fromarray(gradient(24, 24)).convert("RGBA"), "WEBP"),
}

# Every mutated file may hold any header; the limits keep the pictures that do decode small.
SMALL = ImageLimits(max_side=512, max_pixels=100_000)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("seed", SEEDS)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_a_picture_or_an_image_error(seed: str, data: st.DataObject) -> None:
    content = bytearray(SEEDS[seed])
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        image = decode(bytes(content), SMALL)
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert 0 not in image.shape


@settings(max_examples=200, deadline=None)
@given(
    head=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\x00\x00\x00WEBPVP8 "]),
    tail=st.binary(max_size=200),
)
def test_random_bytes_give_an_image_error(head: bytes, tail: bytes) -> None:
    with pytest.raises(ImageError):
        decode(head + tail, SMALL)
