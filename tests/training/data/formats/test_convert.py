"""Every format into every other: bytes and names stay, nothing half-written is left, and bad pictures are told."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facemargin.errors import ConfigError, DataError
from training.data.formats import FORMATS, format_name
from training.data.formats.convert import convert
from training.data.sources import read_source

TARGETS = {
    "folder": "set",
    "recordio": "set.rec",
    "webdataset": "set.tar",
    "mnist-idx": "set-images-idx3-ubyte",
    "list": "set.txt",
}


def content(path: Path, name: str) -> list[tuple[str, bytes]]:
    images = read_source(path, format=name)
    pictures = zip(images.labels, images.pictures, strict=True)
    return sorted((images.people[label], picture.read()) for label, picture in pictures)


@pytest.fixture
def digits(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    """An image folder that every format can hold: grey pictures of one size, people with numbers for names."""
    for label, count in ((0, 2), (1, 3), (2, 1)):
        (tmp_path / "digits" / str(label)).mkdir(parents=True)
        for number in range(count):
            data = png(10 * label + number, grey=True)
            (tmp_path / "digits" / str(label) / f"{number}.png").write_bytes(data)
    return tmp_path / "digits"


def test_there_is_a_target_for_every_format() -> None:
    assert set(TARGETS) == set(FORMATS)


@pytest.mark.parametrize("last", FORMATS)
@pytest.mark.parametrize("middle", FORMATS)
def test_people_and_pictures_stay_through_any_two_formats(digits: Path, tmp_path: Path, middle: str, last: str) -> None:
    first, second = tmp_path / "one" / TARGETS[middle], tmp_path / "two" / TARGETS[last]
    assert format_name(first) == middle
    convert(digits, first)
    done = convert(first, second)
    assert (done.source_format, done.target_format, done.people, done.images) == (middle, last, 3, 6)
    assert [person for person, _ in content(second, last)] == ["0", "0", "1", "1", "1", "2"]
    pixels = {picture.decode().tobytes() for picture in read_source(digits).pictures}
    assert {picture.decode().tobytes() for picture in read_source(second).pictures} == pixels
    if "mnist-idx" not in (middle, last):
        assert content(second, last) == content(digits, "folder")
        assert done.bytes == sum(len(data) for _, data in content(digits, "folder"))


@pytest.mark.parametrize("name", FORMATS)
def test_equal_input_gives_equal_bytes_and_lazy_pictures_know_their_names(
    digits: Path, tmp_path: Path, name: str
) -> None:
    prints = []
    for place in ("one", "two"):
        convert(digits, tmp_path / place / TARGETS[name])
        files = sorted(file for file in (tmp_path / place).rglob("*") if file.is_file())
        prints.append(
            [(file.relative_to(tmp_path / place), hashlib.sha256(file.read_bytes()).digest()) for file in files]
        )
    assert prints[0] == prints[1]
    images = read_source(tmp_path / "one" / TARGETS[name])
    assert [images.picture_name(row) for row in range(6)] == [picture.name for picture in images.pictures]
    assert [picture.name for picture in images.pictures[-2:]] == [images.picture_name(row) for row in (4, 5)]
    with pytest.raises(IndexError):
        images.pictures[6]


@pytest.mark.parametrize("name", ["recordio", "webdataset", "list"])
def test_names_of_people_survive(faces: Path, tmp_path: Path, name: str) -> None:
    convert(faces, tmp_path / "out" / TARGETS[name])
    convert(tmp_path / "out" / TARGETS[name], tmp_path / "back")
    assert content(tmp_path / "back", "folder") == content(faces, "folder")


@pytest.mark.parametrize("name", FORMATS)
def test_a_broken_picture_stops_or_is_told(digits: Path, tmp_path: Path, name: str) -> None:
    (digits / "1" / "1.png").write_bytes((digits / "1" / "1.png").read_bytes()[:-30])
    (digits / "2" / "0.png").write_bytes(b"")
    target = tmp_path / "out" / TARGETS[name]
    with pytest.raises(DataError, match=r"1/1\.png cannot be read: .*--on-bad skip"):
        convert(digits, target)
    assert list((tmp_path / "out").iterdir()) == []
    done = convert(digits, target, on_bad="skip")
    assert (done.people, done.images, [bad.row for bad in done.bad], done.people_lost) == (2, 4, [3, 5], ("2",))
    assert [bad.name for bad in done.bad] == [f"1: {digits / '1' / '1.png'}", f"2: {digits / '2' / '0.png'}"]
    assert "left out: 2, who has no other picture" in done.to_text()
    assert [person for person, _ in content(target, name)] == ["0", "0", "1", "1"]


def test_nothing_readable_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "faces" / "Ann").mkdir(parents=True)
    (tmp_path / "faces" / "Ann" / "1.png").write_bytes(b"x")
    with pytest.raises(DataError, match="none of the 1 pictures can be read"):
        convert(tmp_path / "faces", tmp_path / "out.tar", on_bad="skip")
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_target_is_replaced_only_when_asked(digits: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "out" / TARGETS[name]
    convert(digits, target)
    before = content(target, name)
    (digits / "2" / "0.png").unlink()
    (digits / "2").rmdir()
    with pytest.raises(ConfigError, match="exists; pass --overwrite"):
        convert(digits, target)
    assert content(target, name) == before
    convert(digits, target, overwrite=True)
    assert content(target, name) == before[:5] or name == "mnist-idx"
    assert len(content(target, name)) == 5


def test_names_of_an_older_set_do_not_outlive_it(faces: Path, digits: Path, tmp_path: Path) -> None:
    convert(faces, tmp_path / "out" / "set.rec")
    assert (tmp_path / "out" / "people.txt").exists()
    convert(digits, tmp_path / "out" / "set.rec", overwrite=True)
    assert read_source(tmp_path / "out" / "set.rec").people == ("0", "1", "2")


def test_a_failed_replacement_leaves_the_old_set(faces: Path, digits: Path, tmp_path: Path) -> None:
    convert(digits, tmp_path / "out.tar")
    before = content(tmp_path / "out.tar", "webdataset")
    (faces / "Ann" / "Ann_0002.png").write_bytes(b"x")
    with pytest.raises(DataError):
        convert(faces, tmp_path / "out.tar", overwrite=True)
    assert content(tmp_path / "out.tar", "webdataset") == before


def test_a_replacement_that_fails_half_way_is_undone(
    faces: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / "set.rec"
    convert(faces, target)
    before = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    rename, failed = Path.rename, list[Path]()

    def fail_at_the_new_rec(path: Path, to: Path) -> Path:
        if to == target and ".old" not in path.parts and not failed:
            failed.append(path)
            raise OSError("no space left on device")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", fail_at_the_new_rec)
    with pytest.raises(DataError, match="no space left on device"):
        convert(digits, target, overwrite=True)
    assert failed
    assert {path.name: path.read_bytes() for path in target.parent.iterdir()} == before


def test_an_archive_among_people_does_not_make_an_image_folder_something_else(faces: Path) -> None:
    (faces / "backup.tar").write_bytes(b"")
    (faces / "old.rec").write_bytes(b"")
    assert format_name(faces) == "folder"
    assert read_source(faces).people == ("Ann", "Bob Ray", "Émile")


def test_source_and_target_may_not_lie_in_each_other(faces: Path) -> None:
    for target in (faces, faces / "new", faces.parent):
        with pytest.raises(ConfigError, match="lie in each other"):
            convert(faces, target, overwrite=True)


def test_unknown_formats_and_names_are_refused(faces: Path, tmp_path: Path, png: Callable[..., bytes]) -> None:
    with pytest.raises(ConfigError, match="unknown data format 'tfrecord'; known: folder, recordio"):
        convert(faces, tmp_path / "out", to_format="tfrecord")
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"x\.zip: no data format is recognised"):
        convert(tmp_path / "x.zip", tmp_path / "out")
    with pytest.raises(ValueError, match="shard_pictures must be at least 1, got 0"):
        convert(faces, tmp_path / "out", shard_pictures=0)
    (tmp_path / "1.png").write_bytes(png(0))
    for name in ("../up", ".hidden", "a/b"):
        (tmp_path / "list.txt").write_text(f"1.png\t{name}\n")
        with pytest.raises(DataError, match="cannot be the name of a file or folder"):
            convert(tmp_path / "list.txt", tmp_path / "out")


def test_an_unwritable_place_is_one_error(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot write"):
        convert(faces, tmp_path / "file" / "out.rec")


def test_the_command_prints_counts_and_fails_in_one_line(faces: Path, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "facemargin", "data", "convert", *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)

    done = run(faces, tmp_path / "train.rec", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) | {"bytes": 0} == {
        "source": str(faces), "target": str(tmp_path / "train.rec"), "source_format": "folder",
        "target_format": "recordio", "people": 3, "images": 6, "bad": [], "people_lost": [], "bytes": 0,
    }  # fmt: skip
    again = run(faces, tmp_path / "train.rec")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("facemargin: error: ")
    assert again.stderr.count("\n") == 1


def test_many_pictures_are_columns_not_objects(digits: Path, tmp_path: Path) -> None:
    for name in ("folder", "recordio", "webdataset", "list"):
        convert(digits, tmp_path / name / TARGETS[name])
        pictures = read_source(tmp_path / name / TARGETS[name]).pictures
        held = [value for value in vars(pictures).values() if isinstance(value, list | tuple | dict)]
        assert sum(map(len, held)) <= 1, f"{name} holds objects"
        assert pictures[np.int64(3)] == pictures[3]


def test_unreadable_pictures_of_one_name_are_counted_one_by_one(tmp_path: Path, png: Callable[..., bytes]) -> None:
    for folder, data in (("a", b""), ("b", b""), ("c", png(1))):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "1.png").write_bytes(data)
    (tmp_path / "in" / "list.txt").write_text("a/1.png Ann\nb/1.png Ann\nc/1.png Ann\n")
    done = convert(tmp_path / "in" / "list.txt", tmp_path / "out.tar", on_bad="skip")
    assert (done.images, [bad.row for bad in done.bad]) == (1, [0, 1])
    assert "2 pictures" in done.to_text()
    assert f"left out: Ann: {tmp_path / 'in' / 'b' / '1.png'} (" in done.to_text()


def test_names_that_are_no_utf_8_survive(tmp_path: Path, png: Callable[..., bytes]) -> None:
    folder = os.fsencode(tmp_path / "faces") + b"/Andr\xe9"
    os.makedirs(folder)
    with open(folder + b"/1.png", "wb") as file:
        file.write(png(1))
    convert(tmp_path / "faces", tmp_path / "out" / "train.rec")
    assert (tmp_path / "out" / "people.txt").read_bytes() == b"Andr\xe9\n"
    assert read_source(tmp_path / "out" / "train.rec").people == (os.fsdecode(b"Andr\xe9"),)
