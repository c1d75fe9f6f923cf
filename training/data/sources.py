"""Several data sets, in any format, as one training set."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from facemargin.errors import ConfigError, DataError
from training.data.formats import FORMATS, format_name
from training.data.formats.columns import Chain, Subset
from training.data.pictures import LabelledImages, LazyPictures


def read_source(path: Path, *, format: str | None = None, root: Path | None = None) -> LabelledImages:
    """The pictures of one data set, everyone in it.

    Args:
        path: file or folder.
        format: a key of `FORMATS`; recognised by the path by default.
        root: folder that the paths of a list are relative to.

    Raises:
        ConfigError: an unknown format.
        DataError: not of this format, or damaged.
    """
    return FORMATS[format_name(path, format)].read(path, root=root)


def label_people(sources: Sequence[Path], *, only: Iterable[str] | None = None, min_images: int = 1) -> LabelledImages:
    """Give every person of some data sets a class.

    Args:
        sources: image folders or files of any format; people of different ones are different people even under one
            name.
        only: names of the people kept from the first, which must be an image folder (the others keep everyone); None
            keeps all.
        min_images: people with fewer pictures are left out.

    Returns:
        The pictures; `gaps` are those of a single source, and none of several.

    Raises:
        ConfigError: `only` with another format, or a file of no known format.
        DataError: an unusable data set, or nobody left.
    """
    first = None if only is None else frozenset(only)
    parts: list[LazyPictures] = []
    labels, people = [np.zeros(0, dtype=np.int64)], list[str]()
    left_out = 0
    gaps: tuple[int, ...] = ()
    for position, path in enumerate(sources):
        wanted = first if position == 0 else None
        if wanted is not None and format_name(path) != "folder":
            raise ConfigError(f"the people of {path} cannot be chosen by name; an image folder must come first")
        source = read_source(path)
        gaps = source.gaps if len(sources) == 1 else ()
        chosen = np.array([wanted is None or name in wanted for name in source.people])
        many = np.array(source.class_counts()) >= min_images
        left_out += int((chosen & ~many).sum())
        kept = chosen & many
        rows = np.flatnonzero(kept[source.labels])
        parts.append(Subset(source, rows))
        labels.append(len(people) + (np.cumsum(kept) - 1)[source.labels[rows]])
        people += [f"{path.name}/{name}" for name, keep in zip(source.people, kept, strict=True) if keep]
    if not people:
        raise DataError(f"no people to train on in {', '.join(map(str, sources))} ({left_out} have too few images)")
    return LabelledImages(Chain(parts), np.concatenate(labels), tuple(people), left_out, gaps)
