"""Faces and their templates: the vectors that people are recognised by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.store.people import not_expired
from service.store.tables import CollectionRow, FaceRow, PersonRow, TemplateRow
from service.store.vault import vault_of

_ROWS_AT_A_TIME = 4096
_DTYPE = "<f4"


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
        context = _context(gallery.id, person.public_id, row.public_id, "crop")
        row.crop = vault_of(session).seal(person.public_id, person.wrapped_key, face.crop, context)
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
    context = _context(gallery.id, person.public_id, face.public_id, model)
    data = vector.astype(_DTYPE).tobytes()
    sealed = vault_of(session).seal(person.public_id, person.wrapped_key, data, context)
    session.add(TemplateRow(face_id=face.id, model=model, sealed=sealed))
    session.flush()


def stored_crop(session: Session, gallery: CollectionRow, person: PersonRow, face: FaceRow) -> bytes | None:
    """The stored crop of a face, PNG; None where none is kept."""
    if face.crop is None:
        return None
    context = _context(gallery.id, person.public_id, face.public_id, "crop")
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


def templates_of_collection(session: Session, gallery: CollectionRow, model: str | None = None) -> Iterator[Template]:
    """Every template of a collection by a model (default: its own), those of a person beside each other."""
    return _templates(session, gallery, model or gallery.model)


def _templates(session: Session, gallery: CollectionRow, model: str, person: int | None = None) -> Iterator[Template]:
    """Rows as plain tuples: with a hundred thousand of them, objects would cost more than the decryption."""
    vault, number = vault_of(session), gallery.id
    wanted = (
        select(
            FaceRow.id, FaceRow.public_id, PersonRow.id, PersonRow.public_id, PersonRow.wrapped_key, TemplateRow.sealed
        )
        .join(FaceRow, FaceRow.id == TemplateRow.face_id)
        .join(PersonRow, PersonRow.id == FaceRow.person_id)
        .where(PersonRow.collection_id == number, TemplateRow.model == model)
        .order_by(PersonRow.id, FaceRow.id)
        .execution_options(yield_per=_ROWS_AT_A_TIME)
    )
    if person is not None:
        wanted = wanted.where(PersonRow.id == person)
    for face_row, face_id, person_row, person_id, wrapped, sealed in session.execute(wanted):
        data = vault.open(person_id, wrapped, sealed, _context(number, person_id, face_id, model))
        yield Template(face_row, person_row, np.frombuffer(data, dtype=_DTYPE).astype(np.float32, copy=False))


def people_by_row(session: Session, rows: Sequence[int]) -> dict[int, PersonRow]:
    """People by their row numbers; deleted and expired ones are left out."""
    found = session.scalars(select(PersonRow).where(PersonRow.id.in_(rows), not_expired()))
    return {person.id: person for person in found}


def _context(collection: int, person: str, face: str, what: str) -> str:
    """The associated data of a ciphertext: where it belongs."""
    return f"{collection}/{person}/{face}/{what}"
