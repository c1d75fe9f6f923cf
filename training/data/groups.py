"""Who belongs to which group: a CSV file ``person,group``, for error rates by group.

Owns the file's form. What a group means, and whether people may be grouped so, is the user's business; the rates are
those of `facemargin.metrics.errors_by_group`.
"""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from facemargin.errors import DataError

HEADER = ["person", "group"]


@dataclass(frozen=True)
class Groups:
    """The group of each person.

    Attributes:
        of: group of each person, in the order of the file.
    """

    of: dict[str, str]

    @property
    def small(self) -> dict[str, str]:
        """Groups of a single person, with that person: they have no impostor pair within the group."""
        sizes = Counter(self.of.values())
        return {group: person for person, group in self.of.items() if sizes[group] == 1}


def read_groups(path: Path) -> Groups:
    """Read a CSV file (UTF-8) whose header is ``person,group`` and whose lines each name a person and a group.

    Blank lines are skipped and blanks around a name are cut. A person may be repeated with the same group.

    Raises:
        DataError: a file that cannot be read, another header, a line without exactly two names, a person with two
            groups, or no person at all; with the number of the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if "".join(row).strip()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the group file {path}: {error}") from error
    if not rows or rows[0][1] != HEADER:
        found = ",".join(rows[0][1]) if rows else "an empty file"
        raise DataError(f"{path} must begin with the line 'person,group', not '{found}'")
    groups: dict[str, str] = {}
    for number, row in rows[1:]:
        person, group = _names(path, number, row)
        if groups.setdefault(person, group) != group:
            raise DataError(
                f"{path} line {number}: '{person}' is in the groups '{groups[person]}' and '{group}'; keep one"
            )
    if not groups:
        raise DataError(f"{path} names nobody; below its header each line should be a person and a group")
    return Groups(groups)


def _names(path: Path, number: int, row: list[str]) -> tuple[str, str]:
    if len(row) != 2 or not all(row):
        raise DataError(f"{path} line {number}: expected 'person,group', not '{','.join(row)}'")
    return row[0], row[1]
