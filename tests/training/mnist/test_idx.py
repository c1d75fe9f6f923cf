"""The idx files: what is written is read, and what is damaged is named."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from facemargin.errors import DataError
from training.mnist import read_idx, read_mnist, write_idx
from training.mnist.digits import HELD_OUT

SUFFIXES = ("", ".gz")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shape", [(0,), (7,), (3, 5), (4, 28, 28), (2, 3, 4, 5)])
def test_what_is_written_is_read(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = write_idx(tmp_path / f"array{suffix}", array)
    assert np.array_equal(read_idx(path), array)
    assert read_idx(path).shape == shape
    assert path.read_bytes()[:2] == (b"\x1f\x8b" if suffix else b"\0\0")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_header_by_hand_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(range(6)))
    assert read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    array = np.arange(100, dtype=np.uint8)
    assert write_idx(tmp_path / "a.gz", array).read_bytes() == write_idx(tmp_path / "b.gz", array).read_bytes()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x08", "not an idx file"),
        (b"PNG and so on", "not an idx file"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "elements of type 0x0d"),
        (b"\0\0\x08\x00", "on 0 axes"),
        (b"\0\0\x08\x09" + bytes(36), "on 9 axes"),
        (b"\0\0\x08\x03\0\0\0\x01\0\0", "truncated: its header ends after 10 of 16 bytes"),
        (b"\0\0\x08\x01\0\0\0\x05abcd", r"truncated: its header promises 5 elements \(5,\), it holds 4"),
        (b"\0\0\x08\x01\0\0\0\x03abcd", "left over: its header promises 3"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "truncated: its header promises 79,228"),
        (b"\x1f\x8bnot gzip after all", "cannot be read"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(DataError, match=named):
        read_idx(path)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_cut_gzip_file_is_named(tmp_path: Path, kept: float) -> None:
    path = write_idx(tmp_path / "cut.gz", np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(path)


def test_a_flipped_bit_in_a_gzip_file_is_named(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 9]) + b"123456789"))
    content[-6] ^= 1
    (tmp_path / "flipped.gz").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / "flipped.gz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none here"):
        read_idx(tmp_path / "none here")


@pytest.mark.parametrize("array", [np.zeros(3, np.float32), np.zeros((), np.uint8), np.zeros((1,) * 5, np.uint8)])
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="idx files here hold uint8 on 1 to 4 axes"):
        write_idx(tmp_path / "array", array)


def fill(
    folder: Path, *, images: tuple[int, ...] = (4, 28, 28), labels: tuple[int, ...] = (4,), label: int = 3
) -> Path:
    for part in ("train", "t10k"):
        write_idx(folder / f"{part}-images.idx3-ubyte", np.zeros(images, np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.full(labels, label, np.uint8))
    return folder


def test_both_spellings_plain_or_gzipped_are_found(tmp_path: Path) -> None:
    train, test = read_mnist(fill(tmp_path))
    assert len(train) == len(test) == 4
    assert train.images.shape == (4, 28, 28)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"images": (4, 28, 27)}, "not images of 28×28"),
        ({"labels": (5,)}, r"holds \(5,\) labels for the 4 images"),
        ({"labels": (4, 1)}, r"holds \(4, 1\) labels"),
        ({"label": 10}, "the label 10"),
        ({"images": (0, 28, 28), "labels": (0,)}, "holds no image"),
    ],
)
def test_files_that_do_not_fit_together_are_named(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    with pytest.raises(DataError, match=named):
        read_mnist(fill(tmp_path, **changes))  # type: ignore[arg-type]


def test_a_folder_without_the_files_names_the_first_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no train-images-idx3-ubyte"):
        read_mnist(tmp_path)


def test_too_few_images_to_hold_any_out_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holding out 5,000 leaves none"):
        read_mnist(fill(tmp_path), held_out=True)


def test_the_real_mnist(mnist_folder: Path) -> None:
    train, test = read_mnist(mnist_folder)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert abs(train.images.mean() - 33.3) < 0.05
    learned, held_out = read_mnist(mnist_folder, held_out=True)
    assert len(learned) == 60_000 - HELD_OUT
    assert np.array_equal(held_out.images, train.images[-HELD_OUT:])
