"""Bytes of a photograph -> the displayed picture, as RGB pixels.

Owns the list of accepted formats, the limits, EXIF orientation and the conversion of every colour mode to 8-bit RGB.
It does not know what is in the picture.
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

ACCEPTED_FORMATS = ("JPEG", "PNG", "WebP", "BMP")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
"""File name endings (lower case) of the accepted formats."""

_BACKGROUND = (255, 255, 255)
_EXIF_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BMP_HEADER_SIZES = frozenset({12, 40, 52, 56, 64, 108, 124})

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
        UnsupportedImageError: none of the accepted formats.
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
        with reader(BytesIO(data)) as image:
            _check_size(image.size, limits)
            image.load()
            return _to_rgb(_upright(image))
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
        return "BMP", BmpImagePlugin.BmpImageFile
    raise UnsupportedImageError(f"not an image in an accepted format ({', '.join(ACCEPTED_FORMATS)})")


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


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; damaged EXIF data count as none."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DAMAGE:
        return image
    method = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
        grey = (np.clip(np.asarray(image, dtype=np.int64), 0, 65535) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, (*_BACKGROUND, 255))
        image = Image.alpha_composite(background, layer)
    return np.array(image.convert("RGB"))
