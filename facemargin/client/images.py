"""Whatever a caller holds a picture in, as the bytes of an image file.

Files and bytes go to the service as they are: it decodes, and it alone decides what it takes. Only pictures that have
no bytes yet (Pillow's, arrays) are written as PNG, which loses nothing. Pillow and numpy are imported only for them.
"""

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as PillowImage

Picture: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | PillowImage | NDArray[np.uint8]"
)
"""A path, the bytes of an image file, an open binary file, a Pillow image, or an RGB array (H, W, 3) of uint8."""

_PNG_MODES = ("1", "L", "LA", "RGB", "RGBA")


def image_bytes(picture: Picture) -> bytes:
    """The bytes of an image file.

    Args:
        picture: see `Picture`. A string is a path. An array is RGB (H, W, 3) or grey (H, W), uint8, 0 to 255.

    Raises:
        TypeError: none of these, or a file that was opened as text.
        ValueError: an array of another shape or type.
        OSError: the file cannot be read.
    """
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return bytes(picture)
    if isinstance(picture, (str, os.PathLike)):
        return Path(picture).read_bytes()
    if _is_a("numpy", "ndarray", picture):
        return _png_of_array(picture)
    if _is_a("PIL.Image", "Image", picture):
        return _png(picture)
    if hasattr(picture, "read"):
        return _read(picture)
    raise TypeError(
        f"a picture is a path, bytes, an open file, a Pillow image or an array; got {type(picture).__name__}"
    )


def _is_a(module: str, name: str, value: object) -> bool:
    """Whether a value is of a class of an optional package: if it is, its package is loaded already."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _read(file: Any) -> bytes:
    content = file.read()
    if not isinstance(content, bytes):
        raise TypeError(f"open the file in binary mode ('rb'); read() gave {type(content).__name__}")
    return content


def _png_of_array(array: Any) -> bytes:
    from PIL import Image

    if str(array.dtype) != "uint8" or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(
            f"an array is RGB (height, width, 3) or grey (height, width), uint8; got {array.shape} of {array.dtype}"
        )
    if 0 in array.shape:
        raise ValueError(f"the array has no pixels: {array.shape}")
    return _png(Image.fromarray(array))


def _png(image: Any) -> bytes:
    """A PNG as the picture is displayed; what is not a mode of 8 bits becomes RGB."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    plain = upright if upright.mode in _PNG_MODES else upright.convert("RGB")
    written = io.BytesIO()
    plain.save(written, format="PNG", exif=b"")
    return written.getvalue()
