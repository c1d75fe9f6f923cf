"""Faces and their templates: the vectors that people are recognised by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, delete, inspect, select
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.store.people import not_expired
from service.store.tables import CollectionRow, FaceRow, PersonRow, TemplateRow, filler
from service.store.vault import Vault, unseal, vault_of

_ROWS_AT_A_TIME = 4096
_DTYPE = "<f4"

# The bulk of them is read as plain rows: with a hundred thousand, objects would cost more than the decryption.
_COLLECTION, _PERSON, _FACE, _TEMPLATE = (
    inspect(CollectionRow).local_table,
    inspect(PersonRow).local_table,
    inspect(FaceRow).local_table,
    inspect(TemplateRow).local_table,
)
_SEALED = _TEMPLATE.c.sealed
_JOINED = _TEMPLATE.join(_FACE, _FACE.c.id == _TEMPLATE.c.face_id).join(_PERSON, _PERSON.c.id == _FACE.c.person_id)


@dataclass(frozen=True, eq=False)
class NewFace:
    """A face to enrol.

    Attributes:
        vector: float32 (D,), unit length, by the collection's model.
        source: ``image``, ``aligned`` or ``embedding``.
        quality: as the reply shows it, or None.
        crop: the aligned crop as PNG, where it is to be kept.
        crop_template: which template the crop was cut by; None without a crop.
    """

    vector: NDArray[np.float32]
    source: str
    quality: dict[str, Any] | None = None
    crop: bytes | None = None
    crop_template: str | None = None


class Template(NamedTuple):
    """A vector, the row number of its face, and that of its person."""

    face: int
    person: int
    vector: NDArray[np.float32]


class TemplateBlock(NamedTuple):
    """Row numbers of faces (N,) and of their people (N,), int64, and the vectors (N, D), float32."""

    faces: NDArray[np.int64]
    people: NDArray[np.int64]
    vectors: NDArray[np.float32]


def add_face(session: Session, gallery: CollectionRow, person: PersonRow, face: NewFace) -> FaceRow:
    """Add a face to a person, with its template by the collection's model."""
    row = FaceRow(
        person_id=person.id,
        source=face.source,
        quality=face.quality,
        crop_template=face.crop_template if face.crop else None,
    )
    session.add(row)
    session.flush()
    if face.crop is not None:
        context = sealing_context(gallery.id, person.public_id, row.public_id, "crop")
        row.crop = vault_of(session).seal(person.public_id, person.wrapped_key, face.crop, context)
        row.filler = filler(session.get_bind().dialect.name)
    add_template(session, gallery, person, row, gallery.model, face.vector)
    return row


def add_template(
    session: Session,
    gallery: CollectionRow,
    person: PersonRow,
    face: FaceRow,
    model: str,
    vector: NDArray[np.float32],
) -> None:
    """Add the vector of a face by a model."""
    context = sealing_context(gallery.id, person.public_id, face.public_id, model)
    data = vector.astype(_DTYPE).tobytes()
    sealed = vault_of(session).seal(person.public_id, person.wrapped_key, data, context)
    session.add(TemplateRow(face_id=face.id, model=model, sealed=sealed))
    session.flush()


def stored_crop(session: Session, gallery: CollectionRow, person: PersonRow, face: FaceRow) -> bytes | None:
    """The stored crop of a face, PNG; None where none is kept."""
    if face.crop is None:
        return None
    context = sealing_context(gallery.id, person.public_id, face.public_id, "crop")
    return vault_of(session).open(person.public_id, person.wrapped_key, face.crop, context)


def faces(session: Session, person: PersonRow) -> Sequence[FaceRow]:
    """The faces of a person in the order they came."""
    return session.scalars(select(FaceRow).where(FaceRow.person_id == person.id).order_by(FaceRow.id)).all()


def face(session: Session, person: PersonRow, public_id: str) -> FaceRow:
    """One face of a person.

    Raises:
        NotFoundError: the person has no such face.
    """
    found = session.scalar(select(FaceRow).where(FaceRow.person_id == person.id, FaceRow.public_id == public_id))
    if found is None:
        raise NotFoundError(
            f"person '{person.public_id}' has no face '{public_id}'", person=person.public_id, face_id=public_id
        )
    return found


def face_in_collection(session: Session, gallery: CollectionRow, public_id: str) -> FaceRow:
    """A face by its id alone.

    Raises:
        NotFoundError: nobody in the collection has it.
    """
    wanted = select(FaceRow).join(FaceRow.person).where(PersonRow.collection_id == gallery.id, not_expired())
    found = session.scalar(wanted.where(FaceRow.public_id == public_id))
    if found is None:
        raise NotFoundError(
            f"there is no face '{public_id}' in collection '{gallery.name}'", collection=gallery.name, face_id=public_id
        )
    return found


def delete_face(session: Session, row: FaceRow) -> None:
    """Delete a face with its templates."""
    session.execute(delete(FaceRow).where(FaceRow.id == row.id))


def templates_of_person(
    session: Session, gallery: CollectionRow, person: PersonRow, model: str | None = None
) -> list[Template]:
    """The templates of a person by a model (default: the collection's), in the order the faces came."""
    return list(_templates(session, gallery, model or gallery.model, person=person.id))


def models_of_person(session: Session, person: PersonRow) -> Sequence[str]:
    """Ids of the models by which a person has templates."""
    wanted = select(TemplateRow.model).join(FaceRow, FaceRow.id == TemplateRow.face_id)
    return session.scalars(wanted.where(FaceRow.person_id == person.id).distinct().order_by(TemplateRow.model)).all()


def templates_of_collection(session: Session, gallery: CollectionRow, model: str | None = None) -> Iterator[Template]:
    """Every template of a collection by a model (default: its own), those of a person beside each other."""
    return _templates(session, gallery, model or gallery.model)


def entry_ids(
    session: Session, gallery: CollectionRow, *, people: bool, person: int | None = None
) -> NDArray[np.int64]:
    """Row numbers of the faces of a collection that have a template by its model; or of their people, each once.

    Args:
        session: of the store.
        gallery: the collection.
        people: whether those of the people are wanted.
        person: only this row number's.
    """
    wanted = select(_PERSON.c.id if people else _FACE.c.id).select_from(_JOINED).where(*_of(gallery, gallery.model))
    if person is not None:
        wanted = wanted.where(_PERSON.c.id == person)
    rows = session.connection().execute(wanted.distinct() if people else wanted)
    return np.fromiter(rows.scalars(), np.int64)


def entry_owners(session: Session, gallery: CollectionRow, entries: Sequence[int], *, people: bool) -> dict[int, int]:
    """Row numbers of the people whose some entries are.

    Args:
        session: of the store.
        gallery: the collection; while it is bound to another model than this says, nothing is found.
        entries: row numbers of faces, or of people.
        people: which of them.
    """
    entry = _PERSON.c.id if people else _FACE.c.id
    source = _PERSON if people else _FACE.join(_PERSON, _PERSON.c.id == _FACE.c.person_id)
    wanted = select(entry, _PERSON.c.id).select_from(
        source.join(_COLLECTION, _COLLECTION.c.id == _PERSON.c.collection_id)
    )
    wanted = wanted.where(_COLLECTION.c.id == gallery.id, _COLLECTION.c.model == gallery.model, entry.in_(entries))
    return {row[0]: row[1] for row in session.connection().execute(wanted)}


def template_blocks(
    session: Session,
    gallery: CollectionRow,
    model: str,
    *,
    people: Sequence[int] | None = None,
    faces: Sequence[int] | None = None,
) -> Iterator[TemplateBlock]:
    """The templates of a collection by a model, those of a person beside each other, some thousand at a time.

    Args:
        session: of the store.
        gallery: the collection.
        model: id.
        people: only of these row numbers, in no order of their own; at most some thousand.
        faces: only these row numbers, likewise.
    """
    wanted = select(_FACE.c.id, _FACE.c.public_id, _PERSON.c.id, _PERSON.c.public_id, _PERSON.c.wrapped_key, _SEALED)
    wanted = wanted.select_from(_JOINED).where(*_of(gallery, model)).order_by(_PERSON.c.id, _FACE.c.id)
    if people is not None:
        wanted = wanted.where(_PERSON.c.id.in_(people))
    if faces is not None:
        wanted = wanted.where(_FACE.c.id.in_(faces))
    result = session.connection().execute(wanted.execution_options(yield_per=_ROWS_AT_A_TIME))
    for rows in result.partitions(_ROWS_AT_A_TIME):
        yield _opened(vault_of(session), rows, gallery.id, model)


def _opened(vault: Vault, rows: Sequence[Any], collection: int, model: str) -> TemplateBlock:
    """Decrypt rows; bytes are joined and become one array, which is many times faster than an array each."""
    found: list[bytes] = []
    owner, key = None, b""
    for _, face_id, _, person_id, wrapped, sealed in rows:
        if wrapped is None:
            found.append(sealed)
            continue
        if person_id != owner:
            owner, key = person_id, vault.unwrap(person_id, wrapped)
        found.append(unseal(key, sealed, sealing_context(collection, person_id, face_id, model)))
    vectors = np.frombuffer(b"".join(found), dtype=_DTYPE).reshape(len(rows), -1)
    face_rows, _, person_rows, *_ = zip(*rows, strict=True)
    return TemplateBlock(np.array(face_rows), np.array(person_rows), vectors.astype(np.float32, copy=False))


def _of(gallery: CollectionRow, model: str) -> tuple[ColumnElement[bool], ...]:
    return _PERSON.c.collection_id == gallery.id, _TEMPLATE.c.model == model


def _templates(session: Session, gallery: CollectionRow, model: str, person: int | None = None) -> Iterator[Template]:
    only = None if person is None else [person]
    for block in template_blocks(session, gallery, model, people=only):
        yield from map(Template, block.faces.tolist(), block.people.tolist(), block.vectors)


def people_by_row(session: Session, rows: Sequence[int]) -> dict[int, PersonRow]:
    """People by their row numbers; deleted and expired ones are left out."""
    if not rows:
        return {}
    found = session.scalars(select(PersonRow).where(PersonRow.id.in_(rows), not_expired()))
    return {person.id: person for person in found}


def sealing_context(collection: int, person: str, face: str, what: str) -> str:
    """The associated data of a ciphertext: where it belongs."""
    return f"{collection}/{person}/{face}/{what}"
