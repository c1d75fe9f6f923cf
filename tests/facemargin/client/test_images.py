"""A picture in every form becomes the bytes of an image file."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facemargin.client.images import image_bytes


def test_files_and_bytes_go_as_they_are(tmp_path: Path) -> None:
    content = b"not even a picture"
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with path.open("rb") as file:
        for held in (path, str(path), content, bytearray(content), memoryview(content), io.BytesIO(content), file):
            assert image_bytes(held) == content


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_an_array_loses_nothing(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(decoded(image_bytes(array))), array)
    np.testing.assert_array_equal(np.asarray(decoded(image_bytes(array[::-1, ::2]))), array[::-1, ::2])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16", "F", "YCbCr"])
def test_a_pillow_image_of_any_mode_is_written(mode: str) -> None:
    image = Image.new(mode, (4, 3))
    written = decoded(image_bytes(image))
    assert written.size == (4, 3)
    assert written.convert("RGB").tobytes() == image.convert("RGB").tobytes()


def test_a_pillow_image_is_written_as_it_is_displayed() -> None:
    wide = Image.fromarray(np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    file = io.BytesIO()
    wide.save(file, format="PNG", exif=exif)
    written = decoded(image_bytes(Image.open(file)))
    assert written.size == (2, 4)
    assert 0x0112 not in written.getexif()
    np.testing.assert_array_equal(np.asarray(written), np.rot90(np.asarray(wide), -1))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: np.zeros((4, 4, 3)), ValueError, "uint8; got .* of float64"),
        (lambda: np.zeros((3, 4, 4), np.uint8), ValueError, r"\(3, 4, 4\)"),
        (lambda: np.zeros((0, 4, 3), np.uint8), ValueError, "no pixels"),
        (lambda: io.StringIO("text"), TypeError, "binary mode"),
        (lambda: 7, TypeError, "got int"),
        (lambda: "absent.jpg", FileNotFoundError, "absent.jpg"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        image_bytes(make())
