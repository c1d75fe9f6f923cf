"""What an entry of an index is, and how entries are read from the store.

With ``templates=best`` every face is an entry, and a person is as similar as the best of them; with ``mean`` every
person is one entry, the mean of the faces scaled to unit length. An entry's id is the row number of the face or person.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import attrgetter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from service.store import CollectionRow, PersonRow
from service.store.faces import Template, entry_ids, entry_owners, template_blocks, templates_of_person
from service.store.upgrades import Owners, owners

Templates = Literal["best", "mean"]
Vector = NDArray[np.float32]

_SMALLEST_MEAN = 1e-3
_AT_A_TIME = 4096


class Entry(NamedTuple):
    """One vector of an index: its id (a row number of the store), whose it is, and the vector."""

    id: int
    person: int
    vector: Vector


class Block(NamedTuple):
    """Entries of an index: ids (N,) and people (N,) int64, vectors (N, D) float32."""

    ids: NDArray[np.int64]
    people: NDArray[np.int64]
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> "Block":
        """Some entries, at least one, as a block."""
        ids, people = np.array([(entry.id, entry.person) for entry in entries], dtype=np.int64).T
        return cls(ids.copy(), people.copy(), np.stack([entry.vector for entry in entries]))


class Since(NamedTuple):
    """What became of a collection's entries: ids that went or changed, and those that came or changed."""

    gone: NDArray[np.int64]
    new: NDArray[np.int64]


class Entries:
    """Reads the entries of collections, by the model that their rows name.

    Args:
        templates: what an entry is.
    """

    def __init__(self, templates: Templates) -> None:
        self.templates: Templates = templates

    def ids(self, session: Session, row: CollectionRow) -> NDArray[np.int64]:
        """Ids of everything that the index of a collection shall hold, in no order."""
        return entry_ids(session, row, people=self.templates == "mean")

    def everything(self, session: Session, row: CollectionRow) -> Iterator[Block]:
        """Everything that it shall hold, some thousand at a time."""
        return self._read(session, row)

    def some(self, session: Session, row: CollectionRow, ids: NDArray[np.int64]) -> Iterator[Block]:
        """Those of some ids that it shall hold."""
        for start in range(0, len(ids), _AT_A_TIME):
            yield from self._read(session, row, ids[start : start + _AT_A_TIME].tolist())

    def owners(self, session: Session, row: CollectionRow, ids: Sequence[int]) -> dict[int, int]:
        """Whose entries are, of those that are in the collection while it is bound to the model of ``row``."""
        found: dict[int, int] = {}
        for start in range(0, len(ids), _AT_A_TIME):
            some = ids[start : start + _AT_A_TIME]
            found |= entry_owners(session, row, some, people=self.templates == "mean")
        return found

    def of_person(self, session: Session, row: CollectionRow, person: PersonRow) -> list[Entry]:
        """What it holds, or shall hold, of a person."""
        found = templates_of_person(session, row, person)
        return self.of_faces(person.id, [(template.face, template.vector) for template in found])

    def of_faces(self, person: int, vectors: Sequence[tuple[int, Vector]]) -> list[Entry]:
        """The entries of a person with these faces."""
        if self.templates == "best" or not vectors:
            return [Entry(face, person, vector) for face, vector in vectors]
        return [Entry(person, person, unit_mean([vector for _, vector in vectors]))]

    def since(self, session: Session, row: CollectionRow, before: Owners) -> Since:
        """What was written since its faces were those of ``before``; vectors never change, so faces tell it."""
        after = owners(session, row, row.model)
        gone, new = ~np.isin(before.faces, after.faces), ~np.isin(after.faces, before.faces)
        if self.templates == "best":
            return Since(before.faces[gone], after.faces[new])
        touched = np.union1d(before.people[gone], after.people[new])
        return Since(np.intersect1d(touched, before.people), np.intersect1d(touched, after.people))

    def _read(self, session: Session, row: CollectionRow, ids: Sequence[int] | None = None) -> Iterator[Block]:
        if self.templates == "best":
            for block in template_blocks(session, row, row.model, faces=ids):
                yield Block(*block)
        else:
            means = self._means(session, row, ids)
            while some := list(islice(means, _AT_A_TIME)):
                yield Block.of(some)

    def _means(self, session: Session, row: CollectionRow, people: Sequence[int] | None) -> Iterator[Entry]:
        for person, group in groupby(_templates(session, row, people), key=attrgetter("person")):
            yield from self.of_faces(person, [(template.face, template.vector) for template in group])


def _templates(session: Session, row: CollectionRow, people: Sequence[int] | None) -> Iterable[Template]:
    for block in template_blocks(session, row, row.model, people=people):
        yield from map(Template, block.faces.tolist(), block.people.tolist(), block.vectors)


def unit_mean(vectors: Sequence[Vector]) -> Vector:
    """The mean of unit vectors at unit length; the first of them where they cancel out."""
    mean = np.mean(vectors, axis=0, dtype=np.float64)
    norm = float(np.linalg.norm(mean))
    return vectors[0] if norm < _SMALLEST_MEAN else np.asarray(mean / norm, dtype=np.float32)
