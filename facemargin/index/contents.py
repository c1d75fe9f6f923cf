"""What a segmented index holds: segments, the delta, and where each id is. Its locks are in `SegmentedIndex`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facemargin.index.codes import Quantiser
from facemargin.index.export import Portion
from facemargin.index.places import Places
from facemargin.index.segment import Delta, Segment

MAX_REMOVED = 0.25
"""Share of a segment that may be removed before what is left of it is moved. More would have scans look at more zeros;
less would move more vectors for each one removed (three at this share)."""


@dataclass(frozen=True)
class Addition:
    """New vectors, made ready beside the contents.

    Attributes:
        ids: all of them.
        sealed: segments of the old delta and the first of the new vectors; often none.
        rest: what goes into the delta.
    """

    ids: NDArray[np.int64]
    sealed: list[Segment]
    rest: Portion


class Contents:
    """Segments of ``rows`` vectors each by their numbers, and the delta, which has the next number.

    Args:
        dim: length of the vectors.
        rows: vectors of a segment.

    Attributes:
        places: of each id, number · rows + row.
        segments: by their numbers.
        delta: what is in no segment yet.
        quantiser: of all segments; made with the first.
    """

    def __init__(self, dim: int, rows: int) -> None:
        self.dim, self.rows = dim, rows
        self.places = Places()
        self.segments: dict[int, Segment] = {}
        self.delta = Delta(dim)
        self.quantiser: Quantiser | None = None
        self._next = 0

    def addition(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> Addition:
        """Make ready to add vectors; changes nothing that a search reads."""
        used, older = self.delta.used, (self.delta.ids, self.delta.vectors)
        sealed: list[Segment] = []
        start, end = 0, self.rows - used
        while end <= len(ids):
            sealed.append(self._segment([older[0], ids[start:end]], [older[1], vectors[start:end]]))
            older = ids[:0], vectors[:0]
            start, end = end, end + self.rows
        return Addition(ids, sealed, (ids[start:], vectors[start:]))

    def _segment(self, ids: Sequence[NDArray[np.int64]], vectors: Sequence[NDArray[np.float32]]) -> Segment:
        if self.quantiser is None:
            self.quantiser = Quantiser.for_vectors(vectors)
        return Segment(ids, vectors, self.quantiser)

    def put(self, addition: Addition) -> Delta | None:
        """Add what was made ready; gives the delta that the segments took the place of, if they did."""
        first = self._next * self.rows + self.delta.used
        old = self.delta if addition.sealed else None
        delta = self.delta if old is None else Delta(self.dim)
        delta.append(*addition.rest)
        self.segments |= {self._next + position: segment for position, segment in enumerate(addition.sealed)}
        self._next += len(addition.sealed)
        self.delta = delta
        self.places.put(addition.ids, first)
        return old

    def erase(self, ids: NDArray[np.int64]) -> list[int]:
        """Remove vectors, all of them known and no two alike; gives the numbers of the segments that are worn out."""
        numbers, rows = np.divmod(self.places.of(ids), self.rows)
        touched: list[int] = np.unique(numbers[numbers != self._next]).tolist()
        for number in touched:
            self.segments[number].erase(rows[numbers == number])
        for number in ids[numbers != self._next].tolist():
            self.places.pop(number)
        for number in ids[numbers == self._next].tolist():
            self._take_from_delta(number)
        return [number for number in touched if self.segments[number].live < (1.0 - MAX_REMOVED) * self.rows]

    def _take_from_delta(self, number: int) -> None:
        place = self.places.pop(number)
        moved = self.delta.take(place % self.rows)
        if moved != number:
            self.places.move(moved, place)

    def survivors(self, numbers: Iterable[int]) -> Portion:
        """Copies of what is left in segments."""
        left = [self.segments[number].survivors() for number in numbers]
        together = np.concatenate([ids for ids, _ in left]), np.concatenate([vectors for _, vectors in left])
        for _, vectors in left:
            vectors[:] = 0.0  # copies of faces that may be erased later
        return together

    def drop(self, numbers: Iterable[int]) -> list[Segment]:
        """Take segments out, whose vectors have other places by now; their memory is left to be wiped."""
        dropped = [self.segments.pop(number) for number in numbers]
        for segment in dropped:
            segment.forget()
        return dropped

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Copies of the vectors of ids.

        Raises:
            UnknownIdError: an id is not here.
        """
        numbers, rows = np.divmod(self.places.of(ids), self.rows)
        vectors = np.empty((len(ids), self.dim), dtype=np.float32)
        for number in np.unique(numbers).tolist():
            part = self.delta if number == self._next else self.segments[number]
            vectors[numbers == number] = part.vectors[rows[numbers == number]]
        return vectors
