"""The idx format of MNIST: arrays of bytes behind a small header, plain or gzipped.

Owns the bytes. Which four files make MNIST is `training.mnist.digits`'s business, which labels go with which images
`training.data.formats.mnist_idx`'s.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemargin.errors import DataError
from training.whole_file import write_whole

UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_MOST_AXES = 4


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of an idx file.

    The header is two zero bytes, the element type (0x08, an unsigned byte), the number of axes, and each axis' length
    as a big-endian 32-bit integer; the elements follow in C order. Whether the file is gzipped is read from its first
    bytes, not from its name.

    Args:
        path: the file.

    Returns:
        The array, of the header's shape.

    Raises:
        DataError: the file is missing, damaged, truncated, longer than its header says, or of another element type.
    """
    content = _content(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(
            f"{path} is not an idx file: it starts with {content[:4].hex(' ') or 'nothing'}, not with 00 00"
        )
    kind, axes = content[2], content[3]
    if kind != UNSIGNED_BYTE or not 1 <= axes <= _MOST_AXES:
        raise DataError(
            f"{path} holds elements of type 0x{kind:02x} on {axes} axes; only unsigned bytes (0x08) on 1 to "
            f"{_MOST_AXES} axes are read"
        )
    start = 4 + 4 * axes
    if len(content) < start:
        raise DataError(f"{path} is truncated: its header ends after {len(content)} of {start} bytes")
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", axes, 4))
    found, promised = len(content) - start, math.prod(shape)
    if found != promised:
        problem = "is truncated" if found < promised else "has bytes left over"
        raise DataError(f"{path} {problem}: its header promises {promised:,} elements {shape}, it holds {found:,}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def write_idx(path: Path, array: NDArray[np.uint8]) -> Path:
    """Write an array as an idx file, gzipped where the name ends in ``.gz``; equal arrays give equal bytes.

    Args:
        path: the file; it appears under this name only when it is complete.
        array: uint8, 1 to 4 axes.

    Returns:
        ``path``.

    Raises:
        ValueError: another dtype or number of axes.
    """
    if array.dtype != np.uint8 or not 1 <= array.ndim <= _MOST_AXES:
        raise ValueError(
            f"array has dtype {array.dtype} and {array.ndim} axes; idx files here hold uint8 on 1 to {_MOST_AXES} axes"
        )
    content = bytes([0, 0, UNSIGNED_BYTE, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    return write_whole(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
        raise DataError(f"{path} cannot be read: {error}") from error
