"""Bytes of a photograph -> the displayed picture, as RGB pixels.

Owns the list of accepted formats, the limits, turning by orientation and the conversion of every colour mode to 8-bit
RGB. `facemargin.preprocessing.containers` decides what of a file the decoder sees. It does not know what is in the
picture.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from facemargin.errors import (
    DataError,
    EmptyImageError,
    ImageError,
    ImageTooLargeError,
    TruncatedImageError,
    UnsupportedImageError,
)
from facemargin.preprocessing.containers import Pixels, jpeg_pixels, png_pixels, webp_pixels

Pixels8 = NDArray[np.uint8]

ACCEPTED_FORMATS = ("JPEG", "PNG", "WebP", "BMP")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
"""File name endings (lower case) of the accepted formats."""

_BACKGROUND = (255, 255, 255)
_STRIP_PIXELS = 1_000_000
_DISPLAYED: dict[int, Callable[[Pixels8], Pixels8]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}
_EIGHT_BITS = ((np.arange(65536) + 128) // 257).astype(np.uint8)
_BMP_HEADER_SIZES = frozenset({12, 40, 52, 56, 64, 108, 124})
_BMP_RUN_LENGTHS = frozenset({1, 2})  # Pillow unpacks them in Python: 3 KB hold the interpreter for over a second

# What Pillow's readers raise on damaged files: besides OSError, whatever their parsing stumbles over. UserWarning is
# here for processes that turn warnings into errors.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    AssertionError,
    AttributeError,
    RuntimeError,
    UserWarning,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class ImageLimits:
    """How large a photograph may be.

    Args:
        max_bytes: longest file, in bytes.
        max_side: longest side, in pixels.
        max_pixels: largest width times height.

    Raises:
        ValueError: a limit below 1.
    """

    max_bytes: int = 10 * 1024 * 1024
    max_side: int = 8192
    max_pixels: int = 40_000_000

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_side", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


DEFAULT_LIMITS = ImageLimits()


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG, WebP or BMP file to the picture as it is displayed.

    The size is taken from the header and checked before any pixel is decoded. EXIF orientation is applied;
    transparency is composited on white; grey, palette, CMYK and 16-bit pictures become 8-bit RGB; of an animation the
    first frame is taken.

    Args:
        data: the bytes of the file.
        limits: the largest file and picture to accept.

    Returns:
        Pixels, uint8 of shape (H, W, 3), RGB.

    Raises:
        EmptyImageError: no bytes.
        UnsupportedImageError: none of the accepted formats, or a run-length coded BMP.
        ImageTooLargeError: more bytes, a longer side or more pixels than the limits.
        TruncatedImageError: the start of an accepted format, but missing or damaged data.
    """
    if not data:
        raise EmptyImageError("the image is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise ImageTooLargeError(f"the image has {len(data):,} bytes; at most {limits.max_bytes:,} are accepted")
    name, reader = _reader(data)
    if (stated := _stated_size(name, data)) is not None:
        _check_size(stated, limits)
    try:
        pixels = _PIXELS[name](data)
        with reader(BytesIO(pixels.data)) as image:
            _check_size(image.size, limits)
            image.load()
            return _upright(_to_rgb(image), pixels.orientation)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(f"the {name} image is too large: {error}") from error
    except _DAMAGE as error:
        raise TruncatedImageError(f"the {name} image is truncated or damaged: {error}") from error


def read_image(path: Path | str, limits: ImageLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decode a file; like `decode`, with the file named in the error.

    Raises:
        DataError: the file cannot be read.
        ImageError: as in `decode`.
    """
    path = Path(path)
    try:
        # One byte more than accepted is enough to know that a file is too long.
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        return decode(data, limits)
    except ImageTooLargeError as error:
        if len(data) <= limits.max_bytes:
            raise ImageTooLargeError(f"{path}: {error}") from error
        raise ImageTooLargeError(f"{path}: more than the {limits.max_bytes:,} bytes that are accepted") from error
    except ImageError as error:
        raise type(error)(f"{path}: {error}") from error


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Encode RGB pixels, uint8 of shape (H, W, 3), as PNG (lossless)."""
    return _encode(image, "PNG", compress_level=6)


def encode_jpeg(image: NDArray[np.uint8], quality: int = 95) -> bytes:
    """Encode RGB pixels, uint8 of shape (H, W, 3), as JPEG without colour subsampling."""
    return _encode(image, "JPEG", quality=quality, subsampling=0)


def _encode(image: NDArray[np.uint8], image_format: str, **options: int) -> bytes:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 of shape (H, W, 3), got {image.dtype} of shape {image.shape}")
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, image_format, **options)
    return buffer.getvalue()


def _reader(data: bytes) -> tuple[str, Callable[[BytesIO], Image.Image]]:
    """The name and Pillow reader of the format by its first bytes.

    The reader classes are called directly: `Image.open` would warn or raise at its own process-wide pixel limit before
    ours is asked, and would let other plugins in.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG", JpegImagePlugin.JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", PngImagePlugin.PngImageFile
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP", WebPImagePlugin.WebPImageFile
    if data.startswith(b"BM") and len(data) >= 18 and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        if data[14] != 12 and int.from_bytes(data[30:34], "little") in _BMP_RUN_LENGTHS:
            raise UnsupportedImageError("a run-length coded BMP is not accepted; save it uncompressed, or as PNG")
        return "BMP", BmpImagePlugin.BmpImageFile
    raise UnsupportedImageError(f"not an image in an accepted format ({', '.join(ACCEPTED_FORMATS)})")


_PIXELS: dict[str, Callable[[bytes], Pixels]] = {
    "JPEG": jpeg_pixels,
    "PNG": png_pixels,
    "WebP": webp_pixels,
    "BMP": lambda data: Pixels(data, 1),
}


def _stated_size(name: str, data: bytes) -> tuple[int, int] | None:
    """Width and height where they stand at a fixed place: everywhere but in JPEG.

    Pillow's PNG reader goes through all chunks before the pixels and stumbles over a cut-off file before it tells the
    size; its BMP and WebP readers ask Pillow's own limit first.
    """

    def little(start: int, stop: int) -> int:
        return int.from_bytes(data[start:stop], "little")

    match name, data[12:16]:
        case "PNG", b"IHDR":
            return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
        case "WebP", b"VP8X":
            return little(24, 27) + 1, little(27, 30) + 1
        case "WebP", b"VP8L":
            bits = little(21, 25)  # 14 for the width, 14 for the height, each less one
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case "WebP", b"VP8 ":
            return little(26, 28) & 0x3FFF, little(28, 30) & 0x3FFF  # the upper two bits are a scale for display
        case "BMP", _:
            if data[14] == 12:
                return little(18, 20), little(20, 22)
            height = int.from_bytes(data[22:26], "little", signed=True)  # negative: stored from the top
            return little(18, 22), abs(height)
    return None


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if max(width, height) > limits.max_side:
        raise ImageTooLargeError(f"the image is {width}x{height} pixels; a side may have at most {limits.max_side:,}")
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(
            f"the image is {width}x{height} = {width * height:,} pixels; at most {limits.max_pixels:,} are accepted"
        )


def _upright(stored: Pixels8, orientation: int) -> Pixels8:
    """The picture turned as its EXIF orientation says."""
    displayed = _DISPLAYED.get(orientation)
    return stored if displayed is None else np.ascontiguousarray(displayed(stored))


def _to_rgb(image: Image.Image) -> Pixels8:
    """The pixels, converted in strips: a conversion of the whole would hold several copies of a large picture."""
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
        grey = _EIGHT_BITS[np.clip(np.asarray(image), 0, 65535)]
        return np.repeat(grey[:, :, None], 3, axis=2)
    width, height = image.size
    rgb = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        rgb[top:bottom] = np.asarray(_opaque(image.crop((0, top, width, bottom))).convert("RGB"))
    return rgb


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*_BACKGROUND, 255)), layer)
