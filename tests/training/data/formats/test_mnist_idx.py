"""idx files as a data set: pixels become PNG and back, and files that do not fit together are named."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facemargin.errors import DataError
from training.data.formats.convert import convert
from training.data.formats.mnist_idx import MnistIdx
from training.data.idx import read_idx, write_idx

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def write(folder: Path, *, suffix: str = "", labels: tuple[int, ...] = (5, 0, 5)) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    write_idx(folder / (IMAGES + suffix), images)
    write_idx(folder / (LABELS + suffix), np.array(labels, np.uint8))
    return images


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_pixels_are_read_as_pictures_of_digits(tmp_path: Path, suffix: str) -> None:
    images = write(tmp_path / "set", suffix=suffix)
    for path in (tmp_path / "set", tmp_path / "set" / (IMAGES + suffix)):
        found = MnistIdx().read(path)
        assert found.people == ("0", "5")
        assert found.labels.tolist() == [1, 0, 1]
        for picture, image in zip(found.pictures, images, strict=True):
            assert picture.read().startswith(b"\x89PNG")
            assert np.array_equal(picture.decode(), np.repeat(image[:, :, None], 3, axis=2))


def test_files_of_other_names_and_compressions_are_found(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / IMAGES).rename(tmp_path / "t10k-images.idx3-ubyte")
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.zeros(3, np.uint8))
    assert MnistIdx().read(tmp_path / "t10k-images.idx3-ubyte").people == ("0",)


@pytest.mark.parametrize("through", ["x.tar", "train.txt"])
def test_through_another_format_and_back_gives_equal_bytes(tmp_path: Path, through: str) -> None:
    write(tmp_path / "set")
    convert(tmp_path / "set", tmp_path / "mid" / through)
    convert(tmp_path / "mid" / through, tmp_path / "back", to_format="mnist-idx")
    for name in (IMAGES, LABELS):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "set" / name).read_bytes()
    convert(tmp_path / "set", tmp_path / "one" / "x-images-idx3-ubyte.gz")
    assert read_idx(tmp_path / "one" / "x-labels-idx1-ubyte.gz").tolist() == [5, 0, 5]


def test_files_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    write(tmp_path, labels=(1, 2))
    with pytest.raises(DataError, match=re.escape("holds (2,) labels for the 3 images of")):
        MnistIdx().read(tmp_path)
    (tmp_path / LABELS).unlink()
    with pytest.raises(DataError, match=f"has no {LABELS} beside it"):
        MnistIdx().read(tmp_path)
    (tmp_path / LABELS).write_bytes(b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0")
    with pytest.raises(DataError, match="elements of type 0x0d"):
        MnistIdx().read(tmp_path)
    write_idx(tmp_path / LABELS, np.zeros(3, np.uint8))
    (tmp_path / IMAGES).write_bytes((tmp_path / IMAGES).read_bytes()[:-1])
    with pytest.raises(DataError, match="is truncated: its header promises 60 elements"):
        MnistIdx().read(tmp_path)
    write_idx(tmp_path / IMAGES, np.zeros(3, np.uint8))
    with pytest.raises(DataError, match="not images"):
        MnistIdx().read(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="has no train-images"):
        MnistIdx().read(empty)
    with pytest.raises(DataError, match="should be named like"):
        MnistIdx().read(tmp_path / "images")


def test_only_grey_digits_of_one_size_can_be_written(tmp_path: Path, png: Callable[..., bytes]) -> None:
    def folder(name: str, *pictures: bytes, person: str = "3") -> Path:
        (tmp_path / name / person).mkdir(parents=True)
        for number, data in enumerate(pictures):
            (tmp_path / name / person / f"{number}.png").write_bytes(data)
        return tmp_path / name

    for source, message in (
        (folder("colour", png(0)), "picture 0.png has colours"),
        (folder("sizes", png(0, grey=True), png(1, grey=True, side=7)), "picture 1.png is 7x7, the first 6x6"),
        (folder("names", png(0, grey=True), person="Ann"), "the person 'Ann' is not a number from 0 to 255"),
        (folder("large", png(0, grey=True), person="256"), "the person '256' is not a number from 0 to 255"),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            convert(source, tmp_path / "out", to_format="mnist-idx")
        assert not (tmp_path / "out").exists()


def test_the_real_mnist(shared_data: Path) -> None:
    if not (shared_data / "mnist").is_dir():
        pytest.skip(f"needs MNIST (looked at {shared_data / 'mnist'}; set FACEMARGIN_DATA)")
    images = MnistIdx().read(shared_data / "mnist")
    assert images.people == tuple("0123456789")
    assert (len(images.pictures), images.class_counts()[:2]) == (60_000, [5923, 6742])
    assert images.pictures[0].decode().shape == (28, 28, 3)
