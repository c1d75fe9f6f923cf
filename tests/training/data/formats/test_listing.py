"""List files: the forms of a line, where paths lead, and lists that cannot be used."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from facemargin.errors import DataError
from training.data.formats.convert import convert
from training.data.formats.listing import Listing


def write(folder: Path, *lines: str, files: tuple[str, ...] = ("a.png", "b c.png")) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    path = folder / "list.txt"
    folder.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "lines",
    [
        ("a.png Ann", "b c.png Bob"),
        ("a.png\tAnn", "", "b c.png\tBob\r"),
        ("\ufeffa.png\tAnn", "b c.png Bob"),
    ],
)
def test_a_path_and_a_name_a_line(tmp_path: Path, lines: tuple[str, ...]) -> None:
    images = Listing().read(write(tmp_path, *lines))
    assert images.people == ("Ann", "Bob")
    assert [picture.path for picture in images.pictures] == [tmp_path / "a.png", tmp_path / "b c.png"]
    assert images.picture_name(1) == "b c.png"


@pytest.mark.parametrize(
    "lines",
    [
        ("a.png 10", "b c.png 9"),
        ("0\t10.000000\ta.png", "1\t9\tb c.png"),
        ("1\ta.png\t10", "0\tb c.png\t9"),
        ("1\ta.png\t10\t3\t4\t5\t6", "1\tb c.png\t9\t0\t0\t9\t9"),
    ],
)
def test_numbers_are_sorted_as_numbers_in_every_form(tmp_path: Path, lines: tuple[str, ...]) -> None:
    images = Listing().read(write(tmp_path, *lines))
    assert images.people == ("9", "10")
    assert images.labels.tolist() == [1, 0]
    assert [picture.read() for picture in images.pictures] == [b"a.png", b"b c.png"]


def test_leading_zeros_of_names_that_are_numbers_stay(tmp_path: Path) -> None:
    assert Listing().read(write(tmp_path, "a.png 0045", "b c.png 7")).people == ("7", "0045")


def test_paths_start_at_the_root_that_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "lists", "x/a.png 1", f"{tmp_path / 'pictures' / 'b.png'} 2", files=())
    write(tmp_path / "pictures", files=("x/a.png", "b.png"))
    images = Listing().read(path, root=tmp_path / "pictures")
    assert [picture.read() for picture in images.pictures] == [b"x/a.png", b"b.png"]


def test_a_person_may_be_called_nan(tmp_path: Path) -> None:
    assert Listing().read(write(tmp_path, "a.png Nan", "b c.png Bob")).people == ("Bob", "Nan")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("a.png Ann", "b"), "line 2: expected 'path label'"),
        (("a.png\t",), "line 1: expected 'path label'"),
        (("1\t2\t3",), "line 1: expected 'path label'"),
        (("x\ty\tz",), "line 1: expected 'path label'"),
        (("a.png nan", "b c.png 1"), "the label 'nan' of picture 1 is not a whole number from 0 on"),
        (("a.png 1", "b c.png -1"), "the label '-1' of picture 2 is not a whole number from 0 on"),
        (("a.png 1", "b c.png 1.5"), "the label '1.5' of picture 2 is not a whole number from 0 on"),
        (("a.png 1", "b c.png inf"), "the label 'inf' of picture 2"),
        (("",), "has no pictures"),
        (tuple(f"{n}.png 1" for n in range(7)), "7 of the 7 files of"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        Listing().read(write(tmp_path, *lines))


def test_missing_files_are_counted_and_five_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"7 of the 8 files .*: 0\.png, 1\.png, 2\.png, 3\.png, 4\.png and 2 more; .*--root"
    ):
        Listing().read(write(tmp_path, "a.png 1", *(f"{n}.png 1" for n in range(7))))
    with pytest.raises(DataError, match="cannot read the list"):
        Listing().read(tmp_path / "absent.txt")


def test_a_written_list_lies_beside_its_pictures(faces: Path, tmp_path: Path, png: Callable[..., bytes]) -> None:
    convert(faces, tmp_path / "out" / "train.txt")
    lines = (tmp_path / "out" / "train.txt").read_text(encoding="utf-8").splitlines()
    assert lines[3] == "train-pictures/Bob Ray/Bob Ray_0000.png\tBob Ray"
    assert (tmp_path / "out" / "train-pictures" / "Bob Ray" / "Bob Ray_0000.png").read_bytes() == png(10)


@pytest.mark.parametrize(
    ("labels", "gaps"),
    [("0 1 9", tuple(range(2, 9))), ("0 1 2", ()), ("2", (0, 1)), ("Ann Bob", ()), ("0000045 0000099", ())],
)
def test_numbers_that_no_picture_has_are_told(tmp_path: Path, labels: str, gaps: tuple[int, ...]) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    (tmp_path / "list.txt").write_text("".join(f"x.png {label}\n" for label in labels.split()))
    assert Listing().read(tmp_path / "list.txt").gaps == gaps
