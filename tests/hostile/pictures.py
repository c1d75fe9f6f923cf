"""One known picture in every form that the accepted formats have, so that what was decoded can be compared."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

Pixels = NDArray[np.uint8]

SIDE = 112


@dataclass(frozen=True, eq=False)
class Sample:
    """A file and what must become of it.

    Attributes:
        name: says what is odd about it.
        data: the bytes.
        accepted: whether it must be taken (True), must be refused (False), or may be either (None).
        problems: slugs of the problems that may refuse it.
        pixels: what it shows, where that is known.
        tolerance: largest difference of a pixel.
    """

    name: str
    data: bytes
    accepted: bool | None
    problems: tuple[str, ...] = ()
    pixels: Pixels | None = None
    tolerance: int = 0


def scene(height: int = SIDE, width: int = SIDE) -> Pixels:
    """Smooth colours that differ in the three channels and under every turn and flip."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 2, y * 2, 40 + x % 128 + y % 64], axis=2).astype(np.uint8)


def encoded(image: Pixels | Image.Image, image_format: str, **options: Any) -> bytes:
    """A file by Pillow."""
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def pictures() -> Iterator[Sample]:
    """Every form that must be taken, with its pixels."""
    for part in (_png, _png_written_here, _jpeg, _webp, _bmp, _turned, _small):
        yield from part()


def _taken(name: str, data: bytes, pixels: Pixels | None, tolerance: int = 0) -> Sample:
    return Sample(name, data, accepted=True, pixels=pixels, tolerance=tolerance)


def _rgb(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def _png() -> Iterator[Sample]:
    rgb = Image.fromarray(scene())
    grey = rgb.convert("L")
    for level in range(10):
        yield _taken(f"png rgb level {level}", encoded(rgb, "PNG", compress_level=level), scene())
    yield _taken("png grey", encoded(grey, "PNG"), _rgb(grey))
    yield _taken("png one bit", encoded(grey.convert("1"), "PNG"), _rgb(grey.convert("1")))
    for colours, bits in ((2, 1), (4, 2), (16, 4), (256, 8)):
        palette = rgb.quantize(colours)
        yield _taken(f"png palette {bits} bit", encoded(palette, "PNG", bits=bits), _rgb(palette))
        clear = _rgb(palette).copy()
        clear[np.asarray(palette) == 0] = 255
        yield _taken(f"png palette {bits} bit transparent", encoded(palette, "PNG", bits=bits, transparency=0), clear)
    clear = np.where(_rgb(grey) == 100, np.uint8(255), _rgb(grey))
    yield _taken("png grey one clear value", encoded(grey, "PNG", transparency=100), clear)
    for alpha in (0, 255):
        layer = np.dstack([scene(), np.full((SIDE, SIDE), alpha, np.uint8)])
        shown = scene() if alpha else np.full_like(scene(), 255)
        yield _taken(f"png rgba {alpha}", encoded(layer, "PNG"), shown)
        both = np.dstack([np.asarray(grey), np.full((SIDE, SIDE), alpha, np.uint8)])
        yield _taken(f"png grey and alpha {alpha}", encoded(both, "PNG"), _rgb(grey) if alpha else shown)
    half = np.dstack([scene(), np.full((SIDE, SIDE), 128, np.uint8)])
    blended = (scene().astype(float) * 128 + 255.0 * 127) / 255
    yield _taken("png rgba half", encoded(half, "PNG"), blended.round().astype(np.uint8), 1)
    deep = scene()[:, :, 0].astype(np.uint16) * 257
    yield _taken("png grey 16 bit", encoded(deep, "PNG"), np.repeat(scene()[:, :, :1], 3, axis=2))
    written, buffer = cv2.imencode(".png", scene()[:, :, ::-1].astype(np.uint16) * 257)
    assert written
    yield _taken("png rgb 16 bit", buffer.tobytes(), scene())
    frames = [Image.fromarray(np.roll(scene(), k, axis=0)) for k in range(1, 5)]
    yield _taken("png animated", encoded(rgb, "PNG", save_all=True, append_images=frames), scene())
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 500)
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>", zip=True)
    yield _taken("png with text and profile", encoded(rgb, "PNG", pnginfo=text, icc_profile=b"p" * 900), scene())


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(header: bytes, *chunks: bytes) -> bytes:
    """A PNG of an IHDR and further chunks."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def png_header(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    """The content of an IHDR."""
    return struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)


def _png_written_here() -> Iterator[Sample]:
    """Interlaced, cut into many IDAT chunks, filtered in each way: forms that Pillow does not write."""
    rows = scene()
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    woven = b"".join(b"\0" + row.tobytes() for top, left, down, right in passes for row in rows[top::down, left::right])
    yield _taken("png interlaced", png(png_header(SIDE, SIDE, interlace=1), chunk(b"IDAT", zlib.compress(woven))), rows)
    plain = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    for size in (1, 7, 100):
        cut = [chunk(b"IDAT", plain[k : k + size]) for k in range(0, len(plain), size)]
        yield _taken(f"png in chunks of {size}", png(png_header(SIDE, SIDE), *cut), rows)
    signed = rows.astype(np.int16)
    upper = np.diff(signed, axis=0, prepend=np.zeros((1, SIDE, 3), np.int16)).astype(np.uint8)
    left = np.diff(signed, axis=1, prepend=np.zeros((SIDE, 1, 3), np.int16)).astype(np.uint8)
    for kind, filtered in ((1, left), (2, upper)):
        content = zlib.compress(b"".join(bytes([kind]) + row.tobytes() for row in filtered))
        yield _taken(f"png filter {kind}", png(png_header(SIDE, SIDE), chunk(b"IDAT", content)), rows)


def _jpeg() -> Iterator[Sample]:
    rgb = Image.fromarray(scene())
    for name, options in (
        ("plain", {}),
        ("progressive", {"progressive": True}),
        ("optimised", {"optimize": True}),
        ("restart markers", {"restart_marker_blocks": 3}),
        ("comment", {"comment": b"c" * 1000}),
        ("profile", {"icc_profile": b"p" * 200_000}),
        ("xmp", {"xmp": b"<x:xmpmeta/>"}),
    ):
        for subsampling in (0, 1, 2):
            data = encoded(rgb, "JPEG", quality=97, subsampling=subsampling, **options)
            yield _taken(f"jpeg {name} {subsampling}", data, scene(), 40 if subsampling else 10)
        grey = rgb.convert("L")
        yield _taken(f"jpeg grey {name}", encoded(grey, "JPEG", quality=97, **options), _rgb(grey), 8)
    cmyk = rgb.convert("CMYK")
    data = encoded(cmyk, "JPEG", quality=97)
    yield _taken("jpeg cmyk of adobe", data, _rgb(cmyk), 16)
    transform = data.index(b"Adobe") + 11
    yield _taken("jpeg ycck", data[:transform] + b"\2" + data[transform + 1 :], None)
    yield _taken("jpeg low quality", encoded(rgb, "JPEG", quality=1), None)


def _webp() -> Iterator[Sample]:
    rgb = Image.fromarray(scene())
    for method in (0, 3, 6):
        yield _taken(f"webp lossless {method}", encoded(rgb, "WEBP", lossless=True, method=method), scene())
        yield _taken(f"webp lossy {method}", encoded(rgb, "WEBP", quality=97, method=method), scene(), 40)
    clear = np.dstack([scene(), np.zeros((SIDE, SIDE), np.uint8)])
    white = np.full_like(scene(), 255)
    yield _taken("webp clear", encoded(clear, "WEBP", lossless=True), white)
    yield _taken("webp lossy clear", encoded(clear, "WEBP", quality=80), white)
    frames = [Image.fromarray(np.roll(scene(), k, axis=0)) for k in range(1, 5)]
    yield _taken("webp animated", encoded(rgb, "WEBP", save_all=True, append_images=frames, lossless=True), scene())
    yield _taken("webp profile", encoded(rgb, "WEBP", lossless=True, icc_profile=b"p" * 5000, xmp=b"<x/>"), scene())


def bmp(bits: int, content: bytes, *, compression: int = 0, colours: bytes = b"", **fields: int) -> bytes:
    """A BMP with a header of 40 bytes; `width`, `height`, `planes`, `size`, `offset` and `stated_colours` may lie."""
    offset = 54 + len(colours)
    info = struct.pack(
        "<IiiHHIIiiII",
        fields.get("size", 40),
        fields.get("width", SIDE),
        fields.get("height", SIDE),
        fields.get("planes", 1),
        bits,
        compression,
        len(content),
        0,
        0,
        fields.get("stated_colours", len(colours) // 4),
        0,
    )
    head = b"BM" + struct.pack("<IHHI", offset + len(content), 0, 0, fields.get("offset", offset))
    return head + info + colours + content


def _bmp() -> Iterator[Sample]:
    rgb = Image.fromarray(scene())
    bgr = scene()[:, :, ::-1]
    yield _taken("bmp 24", encoded(rgb, "BMP"), scene())
    yield _taken("bmp top down", bmp(24, bgr.tobytes(), height=-SIDE), scene())
    padded = np.dstack([bgr, np.zeros((SIDE, SIDE), np.uint8)])
    yield _taken("bmp 32", bmp(32, padded[::-1].tobytes()), scene())
    palette = rgb.quantize(200)
    yield _taken("bmp palette", encoded(palette, "BMP"), _rgb(palette))
    black = rgb.convert("1")
    yield _taken("bmp one bit", encoded(black, "BMP"), _rgb(black))
    high = scene() >> 3
    packed = (high[:, :, 0].astype("<u2") << 10) | (high[:, :, 1].astype("<u2") << 5) | high[:, :, 2]
    yield _taken("bmp 555", bmp(16, packed[::-1].tobytes()), scene(), 8)
    os2 = b"BM" + struct.pack("<IIIIHHHH", 26 + bgr.size, 0, 26, 12, SIDE, SIDE, 1, 24) + bgr[::-1].tobytes()
    yield _taken("bmp os/2", os2, scene())


STORED = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.transpose(1, 0, 2),
    6: lambda shown: np.rot90(shown, 1),
    7: lambda shown: shown[::-1, ::-1].transpose(1, 0, 2),
    8: lambda shown: np.rot90(shown, -1),
}
"""How a camera that was turned stores what is to be shown."""


def exif(orientation: int, *, order: str = "<", kind: int = 3, head: bool = True, before: bytes = b"") -> bytes:
    """An Exif block with one entry, the orientation."""
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *((orientation, 0) if kind == 3 else (orientation,)))
    entries = struct.pack(order + "H", 1 + len(before) // 12) + before
    entries += struct.pack(order + "HHI", 0x0112, kind, 1) + value + bytes(4)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (b"Exif\0\0" if head else b"") + mark + struct.pack(order + "I", 8) + entries


def _turned() -> Iterator[Sample]:
    shown = scene(SIDE, 2 * SIDE)  # no square: a turn that is left out changes the size
    for number in range(1, 9):
        stored = np.ascontiguousarray(STORED[number](shown))
        for order in "<>":
            block, where = exif(number, order=order), f"orientation {number} {order}"
            yield _taken(f"png {where}", encoded(stored, "PNG", exif=block), shown)
            yield _taken(f"jpeg {where}", encoded(stored, "JPEG", quality=97, subsampling=0, exif=block), shown, 12)
            yield _taken(f"webp {where}", encoded(stored, "WEBP", lossless=True, exif=block), shown)
    for number in (0, 9, 255, 65535):
        yield _taken(f"png orientation {number}", encoded(shown, "PNG", exif=exif(number)), shown)
    yield _taken("png orientation as long", encoded(shown, "PNG", exif=exif(6, kind=4)), shown)


def _small() -> Iterator[Sample]:
    for height, width in ((1, 1), (1, 2), (2, 1), (1, 8192), (8192, 1), (3, 5), (15, 15), (16, 17)):
        for image_format, options in (("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})):
            pixels = scene(height, width)
            yield _taken(f"{image_format} {width}x{height}", encoded(pixels, image_format, **options), pixels)
        data = encoded(scene(height, width), "JPEG", quality=97, subsampling=0)
        yield _taken(f"JPEG {width}x{height}", data, scene(height, width), 40)
