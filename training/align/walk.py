"""The photographs of a folder with one sub-folder a person, and the place of each one's crop."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from facemargin.errors import DataError
from facemargin.preprocessing import IMAGE_SUFFIXES

_NAMED_AT_MOST = 5


class Job(NamedTuple):
    """One photograph and its crop, as paths relative to source and target."""

    photograph: str
    crop: str


class Walk(NamedTuple):
    """What a source folder holds: people, photographs with the places of their crops, and how many other files."""

    people: tuple[str, ...]
    jobs: tuple[Job, ...]
    other_files: int


def walk_people(source: Path, suffix: str) -> Walk:
    """All photographs, people and files in the order of their names; hidden files count as other files."""
    jobs: list[Job] = []
    people: list[str] = []
    empty: list[str] = []
    other = 0
    for folder in sorted(source.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            other += 1
            continue
        names = sorted(path.name for path in folder.iterdir())
        pictures = [name for name in names if _is_picture(name)]
        other += len(names) - len(pictures)
        people.append(folder.name)
        if not pictures:
            empty.append(folder.name)
        jobs.extend(_jobs(folder.name, pictures, suffix))
    if not people:
        raise DataError(f"{source}: no person folders (expected {source.name}/<person>/<photograph>)")
    if empty:
        named = ", ".join(empty[:_NAMED_AT_MOST]) + (", …" if len(empty) > _NAMED_AT_MOST else "")
        raise DataError(
            f"{source}: {len(empty)} person folder(s) without a photograph: {named}; "
            f"add photographs ({', '.join(sorted(IMAGE_SUFFIXES))}) or remove the folder"
        )
    return Walk(tuple(people), tuple(jobs), other)


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _jobs(person: str, pictures: Sequence[str], suffix: str) -> Iterator[Job]:
    """Photographs with their crops; where two differ only in the ending, the crop keeps the ending in its name."""
    stems = Counter(Path(name).stem for name in pictures)
    for name in pictures:
        stem = Path(name).stem
        yield Job(f"{person}/{name}", f"{person}/{stem if stems[stem] == 1 else name}{suffix}")
