"""What is in a data set: how many people and pictures, which cannot be read or occur twice, how their pixels look."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import track

from facemargin.errors import DataError, ImageError
from facemargin.preprocessing import decode
from training.data.colour_order import ColourOrder, PictureColour, colour_order, picture_colour
from training.data.contact_sheet import draw_contact_sheet, require_sheet
from training.data.formats import format_name
from training.data.pictures import LabelledImages
from training.data.sources import read_source
from training.data.unreadable import UnreadablePicture

_SHOWN = 5
_DUPLICATES_NAMED = 100
_BATCH = 256


class DataContents(BaseModel):
    """A data set in numbers.

    Attributes:
        path, format: which.
        people, images: counts.
        images_per_person: minimum, quartiles and maximum.
        single_image_people: people with one picture, who give no genuine pair.
        read: pictures that were looked at; all further figures are of these.
        sizes: pictures of each ``HxW``, most frequent first.
        unreadable: pictures that cannot be decoded, each with the reason.
        duplicate_images: pictures that are byte for byte another one; how many could go.
        duplicates: pictures that are the same, as ``person/name``, the first hundred groups.
        duplicates_across_people: groups with pictures of several people.
        colour_order: a guess.
        mean, std: of the pixels by channel (RGB), 0 to 255.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    format: str
    people: int
    images: int
    images_per_person: tuple[float, float, float, float, float]
    single_image_people: int
    read: int
    sizes: dict[str, int]
    unreadable: tuple[UnreadablePicture, ...]
    duplicate_images: int
    duplicates: tuple[tuple[str, ...], ...]
    duplicates_across_people: int
    colour_order: ColourOrder
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None

    def to_text(self) -> str:
        """Some lines for a terminal."""
        low, first, middle, third, high = (f"{value:g}" for value in self.images_per_person)
        sizes = ", ".join(f"{size} ({count:,})" for size, count in list(self.sizes.items())[:_SHOWN])
        lines = [
            f"{self.path} ({self.format}): {self.people:,} people, {self.images:,} pictures",
            f"pictures a person: {low} to {high}, quartiles {first}, {middle}, {third}; "
            f"{self.single_image_people:,} people have one",
        ]
        if self.read < self.images:
            lines.append(f"looked at {self.read:,} of them:")
        lines += [
            f"sizes: {sizes}" + (f" and {len(self.sizes) - _SHOWN} others" if len(self.sizes) > _SHOWN else ""),
            f"colour order: {self.colour_order.verdict} ({self.colour_order.reason})",
        ]
        if self.mean and self.std:
            lines.append(
                f"pixels: mean {_triple(self.mean)}, standard deviation {_triple(self.std)} (red, green, blue)"
            )
        lines.append(self._duplicates_text())
        lines += [f"same bytes: {', '.join(group)}" for group in self.duplicates[:_SHOWN]]
        lines.append(f"unreadable: {len(self.unreadable):,}")
        lines += [f"unreadable: {one.name} ({one.reason})" for one in self.unreadable]
        return "\n".join(lines)

    def _duplicates_text(self) -> str:
        across = f", {self.duplicates_across_people:,} times across people" if self.duplicates_across_people else ""
        return f"duplicates: {self.duplicate_images:,} pictures are byte for byte another one{across}"


class _Look(NamedTuple):
    """What one picture shows; its sums and squares are by channel."""

    digest: bytes
    size: tuple[int, int]
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]
    colour: PictureColour


def inspect_data(
    path: Path,
    *,
    format: str | None = None,
    root: Path | None = None,
    sample: int | None = None,
    seed: int = 0,
    sheet: Path | None = None,
    console: Console | None = None,
) -> DataContents:
    """Read the pictures of a data set and say what they are.

    Args:
        path: file or folder.
        format: a key of `training.data.formats.FORMATS`; recognised by the path by default.
        root: folder that the paths of a list are relative to.
        sample: look at so many pictures, drawn at random; None looks at all.
        seed: of the draw.
        sheet: a ``.png`` file for a contact sheet of some people.
        console: where the progress bar is drawn; default stderr, none where that is no terminal.

    Raises:
        ConfigError: an unknown format.
        DataError: a data set that cannot be used at all, or a sheet that could not be written; told before any picture
            is read.
        ValueError: `sample` below 1.
    """
    if sample is not None and sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}")
    if sheet is not None:
        require_sheet(sheet)
    images = read_source(path, format=format, root=root)
    rows = np.arange(len(images.labels))
    if sample is not None and sample < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
    findings = _Findings(images)
    for row, look in _looks(images, rows, console or Console(stderr=True)):
        findings.add(row, look)
    if sheet is not None:
        title = f"{path.name}: {len(images.people):,} people, {len(images.labels):,} pictures"
        draw_contact_sheet(images, sheet, title=title, seed=seed)
    counts = np.array(images.class_counts())
    low, first, middle, third, high = (float(value) for value in np.percentile(counts, (0, 25, 50, 75, 100)))
    return DataContents(
        path=str(path),
        format=format_name(path, format),
        people=len(images.people),
        images=len(images.labels),
        images_per_person=(low, first, middle, third, high),
        single_image_people=int((counts == 1).sum()),
        read=len(rows),
        **findings.figures(),
    )


class _Findings:
    """Collects what was seen."""

    def __init__(self, images: LabelledImages) -> None:
        self.images = images
        self.sizes: Counter[str] = Counter()
        self.unreadable: list[UnreadablePicture] = []
        self.rows: list[int] = []
        self.digests = bytearray()
        self.sums, self.squares, self.pixels = np.zeros(3), np.zeros(3), 0
        self.colours: list[PictureColour] = []

    def add(self, row: int, look: "_Look | str") -> None:
        if isinstance(look, str):
            self.unreadable.append(UnreadablePicture.of(self.images, row, look))
            return
        self.sizes[f"{look.size[0]}x{look.size[1]}"] += 1
        self.rows.append(row)
        self.digests += look.digest
        self.sums += look.sums
        self.squares += look.squares
        self.pixels += look.size[0] * look.size[1]
        self.colours.append(look.colour)

    def name(self, row: int) -> str:
        return f"{self.images.people[self.images.labels[row]]}/{self.images.picture_name(row)}"

    def figures(self) -> dict[str, object]:
        mean, std = self._moments()
        groups = self._same_bytes()
        across = sum(len(set(self.images.labels[group].tolist())) > 1 for group in groups)
        return {
            "sizes": dict(self.sizes.most_common()),
            "unreadable": tuple(self.unreadable),
            "duplicate_images": sum(len(group) - 1 for group in groups),
            "duplicates": tuple(tuple(map(self.name, group)) for group in groups[:_DUPLICATES_NAMED]),
            "duplicates_across_people": across,
            "colour_order": colour_order(*np.array(self.colours, dtype=np.float64).reshape(-1, 2).T),
            "mean": mean,
            "std": std,
        }

    def _moments(self) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        if not self.pixels:
            return None, None
        mean = self.sums / self.pixels
        std = np.sqrt(np.maximum(self.squares / self.pixels - mean**2, 0))
        return tuple(mean.round(2).tolist()), tuple(std.round(2).tolist())

    def _same_bytes(self) -> list[list[int]]:
        """Rows of pictures with equal bytes, in order."""
        digests = np.frombuffer(bytes(self.digests), dtype=np.dtype("V16"))
        _, group, counts = np.unique(digests, return_inverse=True, return_counts=True)
        groups: dict[int, list[int]] = {}
        for place in np.flatnonzero(counts[group] > 1):
            groups.setdefault(int(group[place]), []).append(self.rows[place])
        return list(groups.values())


def _looks(images: LabelledImages, rows: NDArray[np.intp], console: Console) -> Iterator[tuple[int, "_Look | str"]]:
    starts = range(0, len(rows), _BATCH)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in track(starts, "reading", console=console, transient=True, disable=not console.is_terminal):
            batch: Sequence[int] = rows[start : start + _BATCH].tolist()
            yield from zip(batch, pool.map(lambda row: _look(images, row), batch), strict=True)


def _look(images: LabelledImages, row: int) -> "_Look | str":
    """What a picture shows, or why it cannot be read."""
    try:
        data = images.pictures[row].read()
        pixels = decode(data)
    except (ImageError, DataError) as error:
        return str(error)
    height, width = pixels.shape[:2]
    mean, std = (values.ravel() for values in cv2.meanStdDev(pixels))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return _Look(
        digest,
        (height, width),
        height * width * mean,
        height * width * (std**2 + mean**2),
        picture_colour(pixels),
    )


def _triple(values: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)
