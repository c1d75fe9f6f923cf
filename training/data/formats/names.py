"""The sidecar `people.txt`, names for formats that hold only numbers: one a line, the label is its number from 0.

Names are written as the bytes of the folder that they come from, also where these are no UTF-8.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from facemargin.errors import DataError

FILE_NAME = "people.txt"


def write_names(folder: Path, people: Sequence[str]) -> None:
    """Write the file, unless every name is its own number.

    Raises:
        DataError: a name with a line break in it.
    """
    if all(name == str(label) for label, name in enumerate(people)):
        return
    broken = next((name for name in people if name.splitlines() != [name]), None)
    if broken is not None:
        raise DataError(f"the name {broken!r} is empty or has a line break; it cannot be written to {FILE_NAME}")
    text = "".join(f"{name}\n" for name in people)
    (folder / FILE_NAME).write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def names_of(folder: Path, labels: Sequence[int]) -> tuple[str, ...]:
    """Names of these labels; a label's own number where there is no file.

    Raises:
        DataError: a file that cannot be read, that names one person twice, or that ends before the largest label.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return tuple(str(label) for label in labels)
    try:
        names = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if max(labels) >= len(names):
        raise DataError(f"{path} names {len(names):,} people, but there is a label {max(labels):,} beside it")
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise DataError(f"{path} names '{twice}' twice; each line is one person")
    return tuple(names[label] for label in labels)
