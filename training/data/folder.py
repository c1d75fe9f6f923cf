"""Image folders: one folder a person, any accepted picture format inside."""

import os
from collections.abc import Mapping
from pathlib import Path

from facemargin.errors import DataError
from facemargin.preprocessing import IMAGE_SUFFIXES


def image_names(person: Path) -> list[str]:
    """Names of the picture files of one person's folder, sorted."""
    return sorted(
        name for name in os.listdir(person) if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
    )


def images_of(person: Path) -> list[Path]:
    """The picture files of one person's folder, sorted by name."""
    return [person / name for name in image_names(person)]


def person_folders(root: Path) -> list[Path]:
    """The folders of the people under `root`, sorted by name; hidden ones are no people.

    Raises:
        DataError: no such folder.
    """
    if not root.is_dir():
        raise DataError(f"the image folder {root} does not exist")
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def people_of(root: Path) -> dict[str, list[Path]]:
    """The people of an image folder with their picture files.

    Raises:
        DataError: the folder is missing, has no people, or has a person without a single picture.
    """
    people = {person.name: images_of(person) for person in person_folders(root)}
    require_pictures(root, {name: len(images) for name, images in people.items()})
    return people


def require_pictures(root: Path, people: Mapping[str, int]) -> None:
    """Check that there are people, and that everyone has a picture.

    Args:
        root: the image folder.
        people: number of pictures by name.

    Raises:
        DataError: nobody, or a person without a picture.
    """
    if not people:
        raise DataError(f"{root} has no folders; expected one folder a person with pictures inside")
    empty = [name for name, images in people.items() if not images]
    if empty:
        shown = ", ".join(empty[:5]) + (" …" if len(empty) > 5 else "")
        raise DataError(
            f"{len(empty)} of {len(people)} people in {root} have no picture: {shown}; "
            f"remove the empty folders or add pictures ({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
