"""What is in an image folder: how many people and pictures, of what sizes, and which cannot be read."""

from collections import Counter
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import track

from facemargin.errors import DataError, ImageError
from facemargin.preprocessing import read_image
from training.data.folder import people_of

_SHOWN = 5


class FolderContents(BaseModel):
    """An image folder in numbers.

    Attributes:
        folder: which.
        people, images: counts.
        images_per_person: minimum, quartiles and maximum.
        single_image_people: people with one picture, who give no genuine pair.
        sizes: pictures of each ``HxW``, most frequent first.
        unreadable: pictures that cannot be decoded, with the reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    people: int
    images: int
    images_per_person: tuple[float, float, float, float, float]
    single_image_people: int
    sizes: dict[str, int]
    unreadable: dict[str, str]

    def to_text(self) -> str:
        """A few lines for a terminal."""
        low, first, middle, third, high = (f"{value:g}" for value in self.images_per_person)
        sizes = ", ".join(f"{size} ({count:,})" for size, count in list(self.sizes.items())[:_SHOWN])
        lines = [
            f"{self.folder}: {self.people:,} people, {self.images:,} pictures",
            f"pictures a person: {low} to {high}, quartiles {first}, {middle}, {third}; "
            f"{self.single_image_people:,} people have one",
            f"sizes: {sizes}" + (f" and {len(self.sizes) - _SHOWN} others" if len(self.sizes) > _SHOWN else ""),
        ]
        lines += [f"unreadable: {name}: {reason}" for name, reason in self.unreadable.items()]
        return "\n".join(lines)


def inspect_folder(folder: Path, *, console: Console | None = None) -> FolderContents:
    """Read every picture of an image folder.

    Raises:
        DataError: no folder, nobody in it, or a person without a picture.
    """
    people = people_of(folder)
    counts = np.array([len(images) for images in people.values()])
    sizes: Counter[str] = Counter()
    unreadable: dict[str, str] = {}
    paths = [path for images in people.values() for path in images]
    console = console or Console(stderr=True)
    for path in track(paths, "reading", console=console, transient=True, disable=not console.is_terminal):
        try:
            height, width = read_image(path).shape[:2]
            sizes[f"{height}x{width}"] += 1
        except (ImageError, DataError) as error:
            unreadable[f"{path.parent.name}/{path.name}"] = str(error)
    low, first, middle, third, high = (float(value) for value in np.percentile(counts, (0, 25, 50, 75, 100)))
    return FolderContents(
        folder=str(folder),
        people=len(people),
        images=len(paths),
        images_per_person=(low, first, middle, third, high),
        single_image_people=int((counts == 1).sum()),
        sizes=dict(sizes.most_common()),
        unreadable=unreadable,
    )
