"""Image folders as a format: a folder a person. The walk itself is `training.data.folder`'s."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from training.data.folder import image_names, person_folders, require_pictures
from training.data.formats.base import Entry, file_stem, free_name, has_suffix
from training.data.formats.columns import FilePictures, Texts
from training.data.pictures import LabelledImages


class Folder:
    """The format ``folder``."""

    grouped = False

    def recognises(self, path: Path) -> bool:
        """A folder with a folder of pictures in it."""
        return path.is_dir() and any(image_names(person) for person in person_folders(path))

    def read(self, path: Path, *, root: Path | None = None) -> LabelledImages:
        """See `Format.read`."""
        people = [(person.name, image_names(person)) for person in person_folders(path)]
        require_pictures(path, {name: len(images) for name, images in people})
        paths = Texts.of(f"{name}/{image}" for name, images in people for image in images)
        labels = np.repeat(np.arange(len(people)), [len(images) for _, images in people])
        return LabelledImages(FilePictures(path, paths), labels, tuple(name for name, _ in people))

    def outputs(self, target: Path) -> tuple[Path, ...]:
        """See `Format.outputs`."""
        return (target,)

    def write(self, target: Path, people: Sequence[str], entries: Iterable[Entry], *, shard_pictures: int) -> None:
        """See `Format.write`; a picture without an ending gets that of its bytes."""
        files = FileWriter(target, people)
        for entry in entries:
            files.write(entry)


class FileWriter:
    """Writes pictures as files, ``person/name.jpg``."""

    def __init__(self, target: Path, people: Sequence[str]) -> None:
        """Make the folder."""
        self.target, self.people = target, people
        target.mkdir()

    def write(self, entry: Entry) -> str:
        """Write one picture; its path relative to the folder.

        Raises:
            DataError: a name that cannot be one of a file or folder.
        """
        folder = self.target / file_stem(self.people[entry.label])
        folder.mkdir(exist_ok=True)
        suffix = Path(entry.name).suffix if has_suffix(entry.name) else entry.suffix
        stem = free_name(file_stem(entry.stem), lambda name: (folder / (name + suffix)).exists())
        (folder / (stem + suffix)).write_bytes(entry.data)
        return f"{folder.name}/{stem}{suffix}"
