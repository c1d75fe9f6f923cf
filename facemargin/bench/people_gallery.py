"""A gallery of made-up people of any dimension and size, spread as face embeddings are, from nothing but a seed."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from facemargin.bench.galleries import BLOCK, RandomGallery

PHOTOGRAPHS = 4
"""Vectors of each person; they follow each other."""
DECAY = 50.0
"""The variance along the i-th axis is e^(−i/DECAY): some 2·DECAY dimensions count, so that strangers' cosines have a
standard deviation of 0.1 where they have 0.14 for the project's LFW model and 0.04 for independent directions."""
NOISE, NOISE_SPREAD = 0.8, 0.4
"""Median length of what is a photograph's own beside 1 for its person, and the standard deviation of its logarithm:
cosines of one person are 0.59 ± 0.14, where they are 0.49 ± 0.17 for the project's LFW model."""


class PeopleGallery(RandomGallery):
    """Photographs x = (c + σ·n)/‖c + σ·n‖ of people c: some close together, most far from each other.

    c and n are drawn alike, along axes of decaying variance that a random rotation mixes; σ is drawn for each
    photograph. A query is a further photograph of one of the first people, who are in galleries of every size.

    Args:
        dim: length of the vectors.
        queries: how many; at most the people of one block.
    """

    name = "people"
    made = (
        f"made-up people with {PHOTOGRAPHS} photographs each, around centres of which some {2 * DECAY:g} dimensions "
        "count; queries are further photographs of people who are in the gallery"
    )

    def __init__(self, dim: int, *, queries: int) -> None:
        super().__init__(dim, queries=queries)
        square = np.random.default_rng(4).standard_normal((dim, dim))
        spread = np.exp(-np.arange(dim) / (2 * DECAY))
        spread /= np.linalg.norm(spread)
        self._axes = (spread[:, None] * np.linalg.qr(square)[0].T).astype(np.float32)
        everyone = BLOCK // PHOTOGRAPHS
        chosen = np.linspace(0, everyone - 1, min(queries, everyone)).astype(np.int64)
        self.people = chosen
        self.queries = self._photographs(self._centres(0)[chosen], np.random.default_rng(5))

    def blocks(self, count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Ids from 0 and vectors, `BLOCK` at a time; the first ids of a larger gallery are a smaller one."""
        for start in range(0, count, BLOCK):
            rng = np.random.default_rng([7, start])
            ids = np.arange(start, min(start + BLOCK, count), dtype=np.int64)
            vectors = self._photographs(np.repeat(self._centres(start), PHOTOGRAPHS, axis=0), rng)
            yield ids, vectors[: len(ids)]

    def person(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Whose the vectors are."""
        people: NDArray[np.int64] = ids // PHOTOGRAPHS
        return people

    def _centres(self, start: int) -> NDArray[np.float32]:
        """Of the people of the block that starts there."""
        return self._drawn(BLOCK // PHOTOGRAPHS, np.random.default_rng([6, start]))

    def _photographs(self, centres: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        own = NOISE * np.exp(NOISE_SPREAD * rng.standard_normal((len(centres), 1), dtype=np.float32))
        vectors: NDArray[np.float32] = centres + own * self._drawn(len(centres), rng)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def _drawn(self, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Directions of unit length."""
        vectors: NDArray[np.float32] = rng.standard_normal((count, self.dim), dtype=np.float32) @ self._axes
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors
