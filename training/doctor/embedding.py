"""Embeddings of a data set's pictures by the bundle, and each person's template. Owns no verdicts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facemargin.bundle import Bundle
from facemargin.embedder import Embedder
from facemargin.preprocessing.normalise import resized
from training.doctor.case import Case, DataSet
from training.doctor.layout import is_aligned
from training.doctor.reading import in_threads, measured

_BATCH = 64


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embeddings of the pictures of a set that could be read.

    Attributes:
        places: int64 (M,), which pictures.
        rows: float32 (M, D), unit length.
        labels: int64 (M,), whose.
    """

    places: NDArray[np.int64]
    rows: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Templates:
    """One vector a person: the mean of the person's embeddings, at unit length.

    Attributes:
        labels: int64 (P,), whose.
        rows: float32 (P, D).
        places: a picture of each person, for findings.
    """

    labels: NDArray[np.int64]
    rows: NDArray[np.float32]
    places: NDArray[np.int64]


def embeddable(case: Case) -> tuple[DataSet, ...]:
    """The sets whose pictures are crops that a bundle can embed."""
    return tuple(data for data in case.sets if len(case.once(measured, data).places) and is_aligned(case, data))


def embedded(case: Case, data: DataSet) -> Embedded:
    """Embed every readable picture that is looked at.

    Raises:
        ValueError: a case without a bundle.
    """
    places = case.once(measured, data).places
    return Embedded(places, embed_places(case, data, places, Embedder(_bundle(case))), data.images.labels[places])


def embed_places(case: Case, data: DataSet, places: NDArray[np.int64], embedder: Embedder) -> NDArray[np.float32]:
    """Embeddings float32 (len(places), D) of some pictures by a given model, in order."""
    size = embedder.preprocessing.size

    def crop(place: int) -> NDArray[np.uint8]:
        return resized(data.picture(place).decode(), size)

    crops = in_threads(crop, places.tolist(), f"embedding {data.name}", case.console)
    parts = [embedder.embed(np.stack(batch)) for batch in _batches(crops)]
    return np.concatenate(parts) if parts else np.empty((0, embedder.dim), dtype=np.float32)


def _batches(crops: Iterator[NDArray[np.uint8]]) -> Iterator[list[NDArray[np.uint8]]]:
    batch: list[NDArray[np.uint8]] = []
    for crop in crops:
        batch.append(crop)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _bundle(case: Case) -> Bundle:
    if case.bundle is None:
        raise ValueError("case.bundle must be given to embed")
    return case.bundle


def templates(case: Case, data: DataSet) -> Templates:
    """The template of every person of a set."""
    found = case.once(embedded, data)
    labels, first, inverse = np.unique(found.labels, return_index=True, return_inverse=True)
    sums = np.zeros((len(labels), found.rows.shape[1]))
    np.add.at(sums, inverse, found.rows)
    rows = (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return Templates(labels, rows, found.places[first])
