"""What is in a data set: how many people and pictures, which cannot be read or occur twice, how their pixels look."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import track

from facemargin.errors import DataError, ImageError
from facemargin.preprocessing import decode
from training.data.contact_sheet import draw_contact_sheet
from training.data.formats import format_name
from training.data.pictures import LabelledImages
from training.data.sources import read_source

ColourVerdict = Literal["rgb", "bgr", "grey", "cannot tell"]

_SHOWN = 5
_DUPLICATES_NAMED = 100
_BATCH = 256
_FEWEST_COLOURED = 20
_CLEAR = 0.8  # 100.0 % of LFW's and 99.6 % of CelebA's coloured aligned crops have more red than blue in the centre
_NOTICEABLE = 1.0  # grey levels between red and blue; below, a picture is as good as grey
_CENTRE = 0.5  # of height and width


class ColourOrder(BaseModel):
    """Whether red and blue are where they should be.

    Skin has more red than blue in nearly any light, so the centres of faces show whether the two are exchanged.

    Attributes:
        verdict: ``bgr`` is exchanged.
        coloured: pictures whose centre has a colour.
        red_share: share of these with more red than blue in the centre; None where there are none.
        reason: in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: ColourVerdict
    coloured: int
    red_share: float | None
    reason: str


class DataContents(BaseModel):
    """A data set in numbers.

    Attributes:
        path, format: which.
        people, images: counts.
        images_per_person: minimum, quartiles and maximum.
        single_image_people: people with one picture, who give no genuine pair.
        read: pictures that were looked at; all further figures are of these.
        sizes: pictures of each ``HxW``, most frequent first.
        unreadable: pictures that cannot be decoded, as ``person/name``, with the reason.
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
    unreadable: dict[str, str]
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
        lines += [f"unreadable: {name}: {reason}" for name, reason in self.unreadable.items()]
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
    red_over_blue: float


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
        DataError: a data set that cannot be used at all.
        ValueError: `sample` below 1.
    """
    if sample is not None and sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}")
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
        self.unreadable: dict[str, str] = {}
        self.rows: list[int] = []
        self.digests = bytearray()
        self.sums, self.squares, self.pixels = np.zeros(3), np.zeros(3), 0
        self.red_over_blue: list[float] = []

    def add(self, row: int, look: "_Look | str") -> None:
        if isinstance(look, str):
            self.unreadable[self.name(row)] = look
            return
        self.sizes[f"{look.size[0]}x{look.size[1]}"] += 1
        self.rows.append(row)
        self.digests += look.digest
        self.sums += look.sums
        self.squares += look.squares
        self.pixels += look.size[0] * look.size[1]
        self.red_over_blue.append(look.red_over_blue)

    def name(self, row: int) -> str:
        return f"{self.images.people[self.images.labels[row]]}/{self.images.picture_name(row)}"

    def figures(self) -> dict[str, object]:
        mean, std = self._moments()
        groups = self._same_bytes()
        across = sum(len(set(self.images.labels[group].tolist())) > 1 for group in groups)
        return {
            "sizes": dict(self.sizes.most_common()),
            "unreadable": self.unreadable,
            "duplicate_images": sum(len(group) - 1 for group in groups),
            "duplicates": tuple(tuple(map(self.name, group)) for group in groups[:_DUPLICATES_NAMED]),
            "duplicates_across_people": across,
            "colour_order": colour_order(np.array(self.red_over_blue)),
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


def colour_order(red_over_blue: NDArray[np.float64]) -> ColourOrder:
    """Guess the colour order from the mean of red less blue in the centre of each picture, in grey levels."""
    coloured = red_over_blue[np.abs(red_over_blue) >= _NOTICEABLE]
    share = float((coloured > 0).mean()) if coloured.size else None
    verdict, reason = _colour_verdict(len(red_over_blue), len(coloured), share)
    return ColourOrder(verdict=verdict, coloured=len(coloured), red_share=share, reason=reason)


def _colour_verdict(pictures: int, coloured: int, share: float | None) -> tuple[ColourVerdict, str]:
    if share is None or coloured < 0.05 * pictures:
        return "grey", f"{pictures - coloured:,} of {pictures:,} pictures have no colour in the centre: cannot tell"
    found = f"{share:.1%} of {coloured:,} coloured pictures have more red than blue in the centre"
    if coloured < _FEWEST_COLOURED:
        return "cannot tell", f"{found}; at least {_FEWEST_COLOURED} are needed"
    if share >= _CLEAR:
        return "rgb", f"{found}, as skin has"
    if share <= 1 - _CLEAR:
        return "bgr", f"{found}; skin has more red: red and blue are exchanged"
    return "cannot tell", f"{found}; skin has at least {_CLEAR:.0%}"


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
    margin_y, margin_x = int(height * (1 - _CENTRE) / 2), int(width * (1 - _CENTRE) / 2)
    centre = pixels[margin_y : height - margin_y, margin_x : width - margin_x].mean(axis=(0, 1))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return _Look(
        digest,
        (height, width),
        height * width * mean,
        height * width * (std**2 + mean**2),
        float(centre[0] - centre[2]),
    )


def _triple(values: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)
