"""Folders and CSV files to enrol from."""

import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import pytest

from facemargin.client.enrolment.sources import PICTURE_SUFFIXES, Entry, Someone, read_source
from facemargin.errors import DataError
from facemargin.preprocessing import IMAGE_SUFFIXES


def test_pictures_have_the_suffixes_of_training_folders() -> None:
    assert set(PICTURE_SUFFIXES) == set(IMAGE_SUFFIXES)


def test_a_folder_has_one_folder_a_person(tmp_path: Path) -> None:
    for name in (
        "Grace/2.JPG",
        "Grace/1.png",
        "Ada/x.webp",
        "Ada/notes.txt",
        "Ada/deeper/y.png",
        "z.png",
        ".cache/a.png",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "Ada" / ".thumb.png").write_bytes(b"")
    source = read_source(tmp_path)
    assert [(entry.image.name, entry.person.name) for entry in source.entries] == [
        ("x.webp", "Ada"),
        ("1.png", "Grace"),
        ("2.JPG", "Grace"),
    ]
    assert [path.relative_to(tmp_path).as_posix() for path in source.ignored] == [
        "Ada/deeper",
        "Ada/notes.txt",
        "z.png",
    ]


def test_a_name_has_one_spelling(tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "Zoë")).mkdir()
    next(tmp_path.iterdir()).joinpath("1.png").write_bytes(b"")
    assert read_source(tmp_path).entries[0].person == Someone("Zoë")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "people.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_names_pictures_people_and_ends(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "\ufeffname,image,expires_at,person_id,problem,reason\n"
        'Ada,a.png,,,,\n"King, Augusta",/photos/b.jpg,2027-01-31T00:00:00Z,,no-face,"none, found"\n,c.png,,p_1,,\n',
    )
    assert read_source(path).entries == [
        Entry(tmp_path / "a.png", Someone("Ada")),
        Entry(Path("/photos/b.jpg"), Someone("King, Augusta", None, datetime(2027, 1, 31, tzinfo=UTC))),
        Entry(tmp_path / "c.png", Someone("", "p_1")),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has the columns \\(none\\)"),
        ("image\na.png\n", "has the columns image; it must have image and name"),
        ("image,name,age\na.png,Ada,3\n", "has the columns image, name, age"),
        ("image,name,name\na.png,Ada,Ada\n", "each once"),
        ("image,name\n", "has nothing to enrol"),
        ("image,name\na.png\n", "line 2: not as many values as columns"),
        ("image,name\na.png,Ada,more\n", "line 2: not as many values"),
        ("image,name\na.png,Ada\n,Ada\n", "line 3: 'image' and 'name' must not be empty"),
        ("image,name\na.png,  \n", "line 2: 'image' and 'name' must not be empty"),
        ("image,name,expires_at\na.png,Ada,tomorrow\n", "line 2: expires_at is 'tomorrow'"),
        ("image,name,expires_at\na.png,Ada,2027-01-31T00:00:00\n", "with its offset"),
        ("image,name,expires_at\na.png,Ada,2027-01-31T00:00:00Z\nb.png,Ada,\n", "rows of Ada differ"),
        ("image,name,person_id\na.png,Ada,p_1\nb.png,Eve,p_1\n", "rows of Ada differ"),
        ('image,name\n"a.png,Ada\n', "cannot be read as CSV"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_by_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_source(written(tmp_path, text))


def test_what_is_not_text_or_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "x.csv"
    binary.write_bytes(b"image,name\n\xff\xfe,Ada\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_source(binary)
    with pytest.raises(DataError, match="neither a folder nor a CSV"):
        read_source(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing to enrol"):
        read_source(tmp_path / "empty")
