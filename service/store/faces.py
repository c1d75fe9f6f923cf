"""Templates: the vectors that people are recognised by."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.store.tables import CollectionRow, FaceRow, PersonRow

_ROWS_AT_A_TIME = 4096


def add_face(
    session: Session,
    person: PersonRow,
    *,
    model: str,
    vector: NDArray[np.float32],
    source: str,
    quality: dict[str, Any] | None,
) -> FaceRow:
    """Add a template to a person."""
    row = FaceRow(person_id=person.id, model=model, vector=vector, source=source, quality=quality)
    session.add(row)
    session.flush()
    return row


def faces(session: Session, person: PersonRow) -> Sequence[FaceRow]:
    """The templates of a person in the order they came."""
    return session.scalars(select(FaceRow).where(FaceRow.person_id == person.id).order_by(FaceRow.id)).all()


def face(session: Session, person: PersonRow, public_id: str) -> FaceRow:
    """One template of a person.

    Raises:
        NotFoundError: the person has no such template.
    """
    found = session.scalar(select(FaceRow).where(FaceRow.person_id == person.id, FaceRow.public_id == public_id))
    if found is None:
        raise NotFoundError(
            f"person '{person.public_id}' has no face '{public_id}'", person=person.public_id, face_id=public_id
        )
    return found


def face_in_collection(session: Session, gallery: CollectionRow, public_id: str) -> FaceRow:
    """A template by its id alone.

    Raises:
        NotFoundError: nobody in the collection has it.
    """
    wanted = select(FaceRow).join(FaceRow.person)
    found = session.scalar(wanted.where(PersonRow.collection_id == gallery.id, FaceRow.public_id == public_id))
    if found is None:
        raise NotFoundError(
            f"there is no face '{public_id}' in collection '{gallery.name}'", collection=gallery.name, face_id=public_id
        )
    return found


def delete_face(session: Session, row: FaceRow) -> None:
    """Delete a template."""
    session.execute(delete(FaceRow).where(FaceRow.id == row.id))


def vectors_of_collection(session: Session, gallery: CollectionRow) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Every template of a collection as (face row, person row, vector), the templates of a person beside each other."""
    wanted = (
        select(FaceRow.id, FaceRow.person_id, FaceRow.vector)
        .join(FaceRow.person)
        .where(PersonRow.collection_id == gallery.id)
        .order_by(FaceRow.person_id, FaceRow.id)
        .execution_options(yield_per=_ROWS_AT_A_TIME)
    )
    for row in session.execute(wanted):
        yield row.id, row.person_id, row.vector


def people_by_row(session: Session, rows: Sequence[int]) -> dict[int, PersonRow]:
    """People by their row numbers; deleted ones are left out."""
    return {person.id: person for person in session.scalars(select(PersonRow).where(PersonRow.id.in_(rows)))}
