"""From one format of training data to another: bytes pass through unchanged, and nothing half-written is left."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import track

from facemargin.errors import ConfigError, DataError, ImageError
from facemargin.preprocessing import decode
from training.data.formats import FORMATS, Entry, Format, format_name
from training.data.pictures import LabelledImages
from training.data.sources import read_source
from training.data.unreadable import UnreadablePicture

OnBad = Literal["fail", "skip"]
SHARD_PICTURES = 10_000
_BATCH = 256
_OLD = ".old"


class Conversion(BaseModel):
    """What was converted.

    Attributes:
        source, target: paths.
        source_format, target_format: keys of `FORMATS`.
        people, images: written.
        bad: pictures that were left out because they cannot be read, each with the reason.
        people_lost: people all of whose pictures were left out.
        bytes: of the pictures written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    target: str
    source_format: str
    target_format: str
    people: int
    images: int
    bad: tuple[UnreadablePicture, ...]
    people_lost: tuple[str, ...]
    bytes: int

    def to_text(self) -> str:
        """A few lines for a terminal."""
        lines = [
            f"{self.target} ({self.target_format}): {self.images:,} pictures of {self.people:,} people, "
            f"{self.bytes / 1e6:,.1f} MB, from {self.source} ({self.source_format})"
        ]
        if self.bad:
            lines.append(f"left out, because they cannot be read: {len(self.bad):,} pictures")
        lines += [f"left out: {one.name} ({one.reason})" for one in self.bad]
        lines += [f"left out: {name}, who has no other picture" for name in self.people_lost]
        return "\n".join(lines)


def convert(
    source: Path,
    target: Path,
    *,
    from_format: str | None = None,
    to_format: str | None = None,
    root: Path | None = None,
    shard_pictures: int = SHARD_PICTURES,
    on_bad: OnBad = "fail",
    overwrite: bool = False,
    console: Console | None = None,
) -> Conversion:
    """Write the pictures of a data set in another format. Every picture is decoded once, to know that it can be.

    Args:
        source: file or folder.
        target: file or folder; it appears when it is complete.
        from_format, to_format: keys of `FORMATS`; recognised by the paths by default.
        root: folder that the paths of a list are relative to.
        shard_pictures: pictures a WebDataset shard.
        on_bad: what a picture that cannot be read does: ``fail`` stops, ``skip`` leaves it out and counts it.
        overwrite: replace what is there.
        console: where the progress bar is drawn; default stderr, none where that is no terminal.

    Raises:
        ConfigError: an unknown format, or a target that exists or lies in the source.
        DataError: a damaged source, a picture that cannot be read, or something that the target's format cannot hold.
        ValueError: `shard_pictures` below 1.
    """
    if shard_pictures < 1:
        raise ValueError(f"shard_pictures must be at least 1, got {shard_pictures}")
    names = format_name(source, from_format), format_name(target, to_format)
    writer = FORMATS[names[1]]
    outputs = writer.outputs(target)
    _require_free(source, outputs, overwrite)
    images = read_source(source, format=names[0], root=root)
    reading = _Reading(images, on_bad, console or Console(stderr=True))
    with _staged(target, outputs) as partial:
        writer.write(partial, images.people, reading.entries(writer), shard_pictures=shard_pictures)
    return Conversion(
        source=str(source),
        target=str(target),
        source_format=names[0],
        target_format=names[1],
        people=int((reading.written > 0).sum()),
        images=int(reading.written.sum()),
        bad=tuple(reading.bad),
        people_lost=tuple(images.people[label] for label in np.flatnonzero(reading.written == 0)),
        bytes=reading.bytes,
    )


class _Reading:
    """The pictures as entries, and what became of them."""

    def __init__(self, images: LabelledImages, on_bad: OnBad, console: Console) -> None:
        self.images, self.on_bad, self.console = images, on_bad, console
        self.bad: list[UnreadablePicture] = []
        self.written = np.zeros(len(images.people), dtype=np.int64)
        self.bytes = 0

    def entries(self, writer: Format) -> Iterator[Entry]:
        """Every readable picture, in the order of the source, or by person where the writer wants that."""
        labels = self.images.labels
        order = np.argsort(labels, kind="stable") if writer.grouped else np.arange(len(labels))
        starts = range(0, len(order), _BATCH)
        quiet = not self.console.is_terminal
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in track(starts, "converting", console=self.console, transient=True, disable=quiet):
                for entry in pool.map(self._entry, order[start : start + _BATCH].tolist()):
                    if isinstance(entry, UnreadablePicture):
                        self.bad.append(entry)
                        continue
                    self.written[entry.label] += 1
                    self.bytes += len(entry.data)
                    yield entry
        if not self.written.any():
            raise DataError(f"none of the {len(order):,} pictures can be read; {self.bad[0].reason}")

    def _entry(self, row: int) -> Entry | UnreadablePicture:
        label = int(self.images.labels[row])
        try:
            picture = self.images.pictures[row]
            data = picture.read()
            height, width = decode(data).shape[:2]
        except (DataError, ImageError) as error:
            if self.on_bad == "fail":
                name = f"{self.images.people[label]}/{self.images.picture_name(row)}"
                raise DataError(f"{name} cannot be read: {error}; --on-bad skip leaves such pictures out") from error
            return UnreadablePicture.of(self.images, row, str(error))
        return Entry(label, picture.name, data, (height, width))


def _require_free(source: Path, outputs: tuple[Path, ...], overwrite: bool) -> None:
    here = source.resolve()
    for output in outputs:
        there = output.resolve()
        if there == here or here in there.parents or there in here.parents:
            raise ConfigError(f"{output} and the source {source} lie in each other; write to another place")
        if output.exists() and not overwrite:
            raise ConfigError(f"{output} exists; pass --overwrite to replace it, or write to another place")


@contextmanager
def _staged(target: Path, outputs: tuple[Path, ...]) -> Iterator[Path]:
    """A path in a hidden folder beside the target; what was written there takes its place when all went well."""
    staging = target.parent / f".{target.name}.partial"
    try:
        shutil.rmtree(staging, ignore_errors=True)  # of a conversion that was killed
        (staging / _OLD).mkdir(parents=True)
        yield staging / target.name
        _replace(staging, outputs)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(staging: Path, outputs: tuple[Path, ...]) -> None:
    """Put the new set in the place of the old one, of which also goes what the new one does without."""
    old = {output: staging / _OLD / output.name for output in outputs if output.exists()}
    try:
        for output, kept in old.items():
            output.rename(kept)
        for output in outputs:
            if (staging / output.name).exists():
                (staging / output.name).rename(output)
    except OSError:
        for output, kept in old.items():
            if kept.exists():
                if output.exists():
                    output.rename(staging / output.name)
                kept.rename(output)
        raise
