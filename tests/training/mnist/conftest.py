"""Drawn "digits" that a small network learns in seconds, and the folder of the real ones."""

from pathlib import Path

import numpy as np
import pytest

from training.mnist import Digits, write_idx


def draw_digits(count: int, seed: int) -> Digits:
    """Each class is a bright bar of its own place and direction, in noise."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, count, dtype=np.uint8)
    images = random.integers(0, 80, (count, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        start = 2 + 5 * int(label % 5) + int(random.integers(0, 2))
        if label < 5:
            image[start : start + 3, 3:25] = 230
        else:
            image[3:25, start : start + 3] = 230
    return Digits(images, labels)


def write_digits(folder: Path, *, train: int, test: int, suffix: str = ".gz") -> Path:
    """The four files of MNIST with drawn digits in them."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (part, count) in enumerate((("train", train), ("t10k", test))):
        digits = draw_digits(count, seed)
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", digits.images)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", digits.labels)
    return folder


@pytest.fixture(scope="session")
def drawn_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like MNIST's, with 600 and 200 drawn digits."""
    return write_digits(tmp_path_factory.mktemp("mnist"), train=600, test=200)


@pytest.fixture(scope="session")
def mnist_folder(shared_data: Path) -> Path:
    """The real MNIST; the test is skipped where it is absent."""
    folder = shared_data / "mnist"
    if not folder.is_dir():
        pytest.skip(f"needs MNIST (looked at {folder}; set FACEMARGIN_DATA)")
    return folder
