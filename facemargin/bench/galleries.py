"""Large galleries for benchmarks: real embeddings widened by labelled perturbations, and random ones.

Owns how the vectors are made, and who a vector is of. The same gallery can be walked through any number of times: each
block of rows has a seed of its own, so that a million vectors are never kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemargin.bundle import load_bundle
from facemargin.embedder import Embedder
from facemargin.errors import DataError
from facemargin.index import SearchResult
from facemargin.index.ranking import best
from facemargin.preprocessing import IMAGE_SUFFIXES, read_image

BLOCK = 10_000
SHIFT = 0.5
"""Length of the displacement that makes another person of a real one; its cosine with the original is 1/√(1+SHIFT²)."""


@dataclass(frozen=True)
class Faces:
    """Embeddings of photographs.

    Attributes:
        vectors: (N, D) of unit length.
        people: (N,) number of the person of each.
    """

    vectors: NDArray[np.float32]
    people: NDArray[np.int64]


def embed_folders(folders: Sequence[Path], bundle: Path) -> Faces:
    """Embed every aligned crop ``FOLDER/person/picture``.

    Raises:
        DataError: a folder holds none.
        BundleError: the bundle cannot be used.
    """
    embedder = Embedder(load_bundle(bundle))
    names: dict[tuple[Path, str], int] = {}
    people, vectors = list[int](), list[NDArray[np.float32]]()
    for folder in folders:
        paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise DataError(f"{folder} holds no pictures in folders of people; give a folder of aligned crops")
        people += [names.setdefault((folder, path.parent.name), len(names)) for path in paths]
        for start in range(0, len(paths), 64):
            vectors.append(embedder.embed(np.stack([read_image(path) for path in paths[start : start + 64]])))
    return Faces(np.concatenate(vectors), np.array(people, dtype=np.int64))


class RandomGallery:
    """Independent directions: nobody resembles anybody, so the best differ least from those behind them."""

    name = "random"
    made = "independent directions, gallery and queries alike"

    def __init__(self, dim: int, *, queries: int) -> None:
        self.dim = dim
        self.queries = _unit(np.random.default_rng(1).standard_normal((queries, dim), dtype=np.float32))
        self.people: NDArray[np.int64] | None = None

    def blocks(self, count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Ids from 0 and vectors, `BLOCK` at a time."""
        for ids in _numbers(count):
            block = np.random.default_rng([3, int(ids[0])])
            yield ids, _unit(block.standard_normal((len(ids), self.dim), dtype=np.float32))

    def person(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Whose the vectors are; everyone has one."""
        return ids


class FaceGallery:
    """Real embeddings first, then made-up people.

    The last photograph of everyone who has several is a query, at most ``queries`` of them, evenly over all. The others
    are the first gallery vectors. Then they come again and again, each time as other people: all photographs x of a
    person are moved by the same displacement u of a random direction and length `SHIFT`, to (x + u)/‖x + u‖, and
    belong to a new person. Into another dimension all are turned by one matrix with orthonormal rows, which changes no
    cosine of real embeddings.

    Raises:
        DataError: more dimensions than ``dim``, or nobody with two photographs.
    """

    name = "faces"
    made = (
        "embeddings of real photographs, then the same with everyone moved, a person's photographs alike, by a random "
        f"displacement of length {SHIFT}, as new people; queries are real photographs, not in the gallery, of people "
        "who are in it unmoved"
    )

    def __init__(self, faces: Faces, dim: int, *, queries: int) -> None:
        if faces.vectors.shape[1] > dim:
            raise DataError(f"the bundle's vectors have {faces.vectors.shape[1]} components; --dim {dim} is too small")
        last = np.flatnonzero(np.diff(faces.people, append=-1) != 0)
        last = last[np.bincount(faces.people)[faces.people[last]] > 1]
        if not len(last):
            raise DataError("nobody has two photographs, so there is nobody to look for")
        chosen = last[np.linspace(0, len(last) - 1, min(queries, len(last))).astype(np.int64)]
        square = np.random.default_rng(2).standard_normal((dim, faces.vectors.shape[1]))
        turned = _unit((faces.vectors @ np.linalg.qr(square)[0].T).astype(np.float32))
        kept = np.setdiff1d(np.arange(len(turned)), chosen)
        self.dim, self.queries, self.people = dim, turned[chosen], faces.people[chosen]
        self._vectors, self._people = turned[kept], faces.people[kept]
        self._everyone = int(faces.people.max()) + 1

    def blocks(self, count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Ids from 0 and vectors, `BLOCK` at a time."""
        for ids in _numbers(count):
            row = ids % len(self._vectors)
            people, place = np.unique(self.person(ids), return_inverse=True)
            moved = np.stack([self._displacement(int(person)) for person in people])[place]
            yield ids, _unit(self._vectors[row] + moved)

    def person(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Whose the vectors are: real people have the numbers that `people` has."""
        copy, row = np.divmod(ids, len(self._vectors))
        people: NDArray[np.int64] = self._people[row] + copy * self._everyone
        return people

    def _displacement(self, person: int) -> NDArray[np.float32]:
        """The same for one person whenever it is asked for; none for a real one."""
        if person < self._everyone:
            return np.zeros(self.dim, dtype=np.float32)
        direction = np.random.Generator(np.random.SFC64(person)).standard_normal((1, self.dim), dtype=np.float32)
        displacement: NDArray[np.float32] = np.float32(SHIFT) * _unit(direction)[0]
        return displacement


Gallery = RandomGallery | FaceGallery


def oracle(gallery: Gallery, count: int, k: int) -> SearchResult:
    """The exact k best of each query, by matrix products."""
    nothing = np.empty((len(gallery.queries), 0), dtype=np.float32)
    found = SearchResult(nothing, nothing.astype(np.int64))
    for ids, vectors in gallery.blocks(count):
        similarities = np.asarray(gallery.queries @ vectors.T)
        found = best([found, SearchResult(similarities, np.broadcast_to(ids, similarities.shape))], k)
    return found


def _numbers(count: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, BLOCK):
        yield np.arange(start, min(start + BLOCK, count), dtype=np.int64)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
