"""Tiny pictures, and image folders of them."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Png = Callable[..., bytes]


def tiny_png(value: int, *, side: int = 6, grey: bool = False) -> bytes:
    """A picture that no other value gives."""
    shape = (side, side) if grey else (side, side, 3)
    pixels = np.random.default_rng(value).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def png() -> Png:
    """Makes the bytes of a tiny picture."""
    return tiny_png


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Three people with three, one and two pictures."""
    root = tmp_path / "faces"
    for number, (person, count) in enumerate((("Ann", 3), ("Bob Ray", 1), ("Émile", 2))):
        (root / person).mkdir(parents=True)
        for place in range(count):
            (root / person / f"{person}_{place:04}.png").write_bytes(tiny_png(10 * number + place))
    return root
