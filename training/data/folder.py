"""Image folders: one folder a person, any accepted picture format inside."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from facemargin.errors import DataError
from facemargin.preprocessing import IMAGE_SUFFIXES
from training.data.pictures import LabelledImages, Picture


def images_of(person: Path) -> list[Path]:
    """The picture files of one person's folder, sorted by name."""
    return sorted(
        path for path in person.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


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
    if not people:
        raise DataError(f"{root} has no folders; expected one folder a person with pictures inside")
    empty = [name for name, images in people.items() if not images]
    if empty:
        shown = ", ".join(empty[:5]) + (" …" if len(empty) > 5 else "")
        raise DataError(
            f"{len(empty)} of {len(people)} people in {root} have no picture: {shown}; "
            f"remove the empty folders or add pictures ({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return people


def label_people(folders: Sequence[Path], *, only: Iterable[str] | None = None, min_images: int = 1) -> LabelledImages:
    """Give every person of some folders a class.

    Args:
        folders: image folders; people of different folders are different people even under one name.
        only: names of the people kept from the first folder (the others keep everyone); None keeps all.
        min_images: people with fewer pictures are left out.

    Raises:
        DataError: an unusable folder, or nobody left.
    """
    kept = None if only is None else frozenset(only)
    pictures: list[Picture] = []
    labels: list[int] = []
    people: list[str] = []
    left_out = 0
    for position, folder in enumerate(folders):
        for name, images in people_of(folder).items():
            if position == 0 and kept is not None and name not in kept:
                continue
            if len(images) < min_images:
                left_out += 1
                continue
            pictures += [Picture.of_file(path) for path in images]
            labels += [len(people)] * len(images)
            people.append(f"{folder.name}/{name}")
    if not people:
        raise DataError(f"no people to train on in {', '.join(map(str, folders))} ({left_out} have too few images)")
    return LabelledImages(tuple(pictures), np.array(labels, dtype=np.int64), tuple(people), left_out)
