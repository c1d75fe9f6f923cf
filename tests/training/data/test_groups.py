"""Reading a group file: the format, its mistakes, and groups too small for an impostor pair."""

from pathlib import Path

import pytest

from facemargin.errors import DataError
from training.data.groups import read_groups


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "groups.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_people_and_their_groups(tmp_path: Path) -> None:
    found = read_groups(write(tmp_path, 'person,group\nAnn, north \n\n"Bob, Jr",south\nCid,north\nAnn,north\n'))
    assert found.of == {"Ann": "north", "Bob, Jr": "south", "Cid": "north"}
    assert found.small == {"south": "Bob, Jr"}


def test_a_byte_order_mark_and_foreign_line_ends_are_read(tmp_path: Path) -> None:
    found = read_groups(write(tmp_path, b"\xef\xbb\xbfperson,group\r\nZo\xc3\xab,a\r\nBob,a\r\n"))
    assert found.of == {"Zoë": "a", "Bob": "a"}
    assert found.small == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must begin with the line 'person,group', not 'an empty file'"),
        ("Ann,north\n", "must begin with the line 'person,group', not 'Ann,north'"),
        ("group,person\n", "not 'group,person'"),
        ("person,group\n", "names nobody"),
        ("person,group\nAnn,a\nBob\n", "line 3: expected 'person,group', not 'Bob'"),
        ("person,group\nAnn,a,b\n", "line 2: expected 'person,group', not 'Ann,a,b'"),
        ("person,group\nAnn,\n", "line 2: expected 'person,group', not 'Ann,'"),
        ("person,group\nAnn,a\nBob,a\n\nAnn,b\n", "line 5: 'Ann' is in the groups 'a' and 'b'; keep one"),
        ('person,group\n"Ann,a\n', "cannot read the group file"),
        (b"person,group\nAnn,\xff\n", "cannot read the group file"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_groups(write(tmp_path, text))
    assert "groups.csv" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the group file .*missing\.csv"):
        read_groups(tmp_path / "missing.csv")
