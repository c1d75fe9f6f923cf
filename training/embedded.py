"""Embedding the pictures of a protocol once each, and what becomes of those that cannot be read.

A photograph without a face is no fault of the file: it is a failure to acquire. A file that is truncated or no picture
is a fault: all of them are counted, the first are named, and they end the evaluation or are left out, as asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from facemargin.errors import DataError, ImageError
from training.crops import Crop, Embed, Reader, embed_pictures
from training.data.pictures import Picture
from training.data.protocols.source import SHOWN, OnProblem


@dataclass(frozen=True, eq=False)
class Embedded:
    """The embeddings of some pictures.

    Attributes:
        vectors: float32 (N, D), rows of length 1, or 0 where nothing was acquired.
        acquired: bool (N,).
        unreadable: why, for each picture that cannot be read.
    """

    vectors: NDArray[np.float32]
    acquired: NDArray[np.bool_]
    unreadable: dict[int, str]


def embed_readable(
    embed: Embed,
    pictures: Sequence[Picture | None],
    reader: Reader,
    *,
    on_bad: OnProblem = "fail",
    console: Console | None = None,
) -> Embedded:
    """Embed every picture once, in order; None is a photograph that is known to have no face.

    Args:
        embed: the model.
        pictures: N pictures.
        reader: picture -> crop.
        on_bad: what a picture that cannot be read does.
        console: where progress is drawn; default stderr.

    Raises:
        DataError: pictures that cannot be read, unless they are to be skipped, or no face in any picture.
    """
    noting = _Noting(reader)
    present = [k for k, picture in enumerate(pictures) if picture is not None]
    try:
        vectors, acquired = embed_pictures(
            embed, [picture for picture in pictures if picture is not None], noting, console=console
        )
    except DataError as error:
        if not noting.found:
            raise
        raise DataError(_message(noting.found, len(present))) from error
    if noting.found and on_bad == "fail":
        raise DataError(f"{_message(noting.found, len(present))}; --on-bad skip leaves their pairs out")
    rows = np.zeros((len(pictures), vectors.shape[1]), dtype=np.float32)
    rows[present] = vectors
    known = np.zeros(len(pictures), dtype=np.bool_)
    known[present] = acquired
    bad = {k: noting.found[picture] for k in present if (picture := pictures[k]) in noting.found and picture}
    return Embedded(rows, known, bad)


def _message(found: dict[Picture, str], of: int) -> str:
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{len(found)} of {of} pictures cannot be used: {'; '.join(list(found.values())[:SHOWN])}{more}"


@dataclass(frozen=True)
class _Noting:
    """A reader that notes what it cannot read instead of raising."""

    reader: Reader
    found: dict[Picture, str] = field(default_factory=dict)

    def read(self, picture: Picture) -> Crop | None:
        try:
            return self.reader.read(picture)
        except (DataError, ImageError) as error:
            self.found[picture] = str(error)
            return None
