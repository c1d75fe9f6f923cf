"""Whom to enrol from which pictures: one folder a person, or a CSV."""

import csv
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from facemargin.errors import DataError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""As of the folders that are trained on."""

COLUMNS = ("image", "name", "person_id", "expires_at")
REPORTED = ("problem", "reason")
"""Columns that the list of failures adds; read again, they are passed over."""

_SHOWN = 5


@dataclass(frozen=True)
class Someone:
    """A person as a source names them.

    Attributes:
        name: may be empty where there is an id.
        person_id: id of a person who is in the collection already, or None.
        expires_at: when the service erases the person by itself, or None.
    """

    name: str
    person_id: str | None = None
    expires_at: datetime | None = None

    @property
    def identity(self) -> str:
        """Equal for the same person: the id, or else the name."""
        return f"id:{self.person_id}" if self.person_id is not None else f"name:{self.name}"


@dataclass(frozen=True)
class Entry:
    """A picture to enrol.

    Attributes:
        image: path of the file.
        person: who is on it.
    """

    image: Path
    person: Someone


@dataclass(frozen=True)
class Source:
    """What is to be enrolled.

    Attributes:
        entries: the pictures, in the order of their people.
        ignored: files of a folder that are no pictures of a person.
    """

    entries: list[Entry]
    ignored: list[Path]


def read_source(path: Path) -> Source:
    """The pictures of a folder (one folder a person) or of a CSV.

    Raises:
        DataError: it is missing, holds nothing to enrol, or a row of the CSV cannot be used.
    """
    if path.is_dir():
        source = _folder(path)
    elif path.is_file():
        source = Source(_csv(path), [])
    else:
        raise DataError(f"{path} is neither a folder nor a CSV file")
    if not source.entries:
        raise DataError(f"{path} has nothing to enrol; expected one folder a person with pictures inside, or CSV rows")
    return source


def _folder(root: Path) -> Source:
    entries, ignored = list[Entry](), list[Path]()
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            ignored.append(path)
            continue
        person = Someone(_name(path.name))
        for image in sorted(path.iterdir()):
            if image.is_file() and image.suffix.lower() in PICTURE_SUFFIXES and not image.name.startswith("."):
                entries.append(Entry(image, person))
            elif not image.name.startswith("."):
                ignored.append(image)
    return Source(entries, ignored)


def _name(text: str) -> str:
    """A name in one spelling: the same letters may come composed or decomposed from another system's folders."""
    return unicodedata.normalize("NFC", text).strip()


def _csv(path: Path) -> list[Entry]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            entries = list(_rows(path, csv.DictReader(file, strict=True)))
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV in UTF-8: {error}") from error
    _check_ends(path, entries)
    return entries


def _rows(path: Path, rows: "csv.DictReader[str]") -> Iterator[Entry]:
    columns = rows.fieldnames or []
    unknown = [name for name in columns if name not in (*COLUMNS, *REPORTED)]
    if unknown or not {"image", "name"} <= set(columns) or len(set(columns)) != len(columns):
        raise DataError(
            f"{path} has the columns {', '.join(columns) or '(none)'}; "
            "it must have image and name, may have person_id and expires_at, and each once"
        )
    for row in rows:
        yield _entry(path, rows.line_num, row)


def _entry(path: Path, line: int, row: dict[str, str]) -> Entry:
    if None in row or None in row.values():
        raise DataError(f"{path}, line {line}: not as many values as columns")
    cells = {name: cell.strip() for name, cell in row.items()}
    person_id = cells.get("person_id") or None
    if not cells["image"] or not (cells["name"] or person_id):
        raise DataError(f"{path}, line {line}: 'image' and 'name' must not be empty (a person_id may stand for a name)")
    expires_at = _moment(path, line, cells.get("expires_at", ""))
    return Entry(path.parent / os.path.expanduser(cells["image"]), Someone(_name(cells["name"]), person_id, expires_at))


def _moment(path: Path, line: int, text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise DataError(
            f"{path}, line {line}: expires_at is '{text}'; write a time with its offset, such as 2027-01-31T00:00:00Z"
        )
    return moment


def _check_ends(path: Path, entries: list[Entry]) -> None:
    """One person cannot have two names or end twice."""
    seen: dict[str, Someone] = {}
    for entry in entries:
        first = seen.setdefault(entry.person.identity, entry.person)
        if first != entry.person:
            raise DataError(f"{path}: the rows of {first.name or first.person_id} differ in name or expires_at")


def shown(paths: list[Path]) -> str:
    """A few of many paths, for a line on the screen."""
    more = len(paths) - _SHOWN
    return ", ".join(map(str, paths[:_SHOWN])) + (f" and {more:,} more" if more > 0 else "")
