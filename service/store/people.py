"""Collections and the people in them."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from service.errors import NotFoundError
from service.store.tables import CollectionRow, FaceRow, PersonRow, new_id, now
from service.store.vault import vault_of


def find_collection(session: Session, name: str) -> CollectionRow | None:
    """The collection of that name, if there is one."""
    return session.scalar(select(CollectionRow).where(CollectionRow.name == name))


def collection(session: Session, name: str) -> CollectionRow:
    """The collection of that name.

    Raises:
        NotFoundError: there is none.
    """
    found = find_collection(session, name)
    if found is None:
        raise NotFoundError(f"there is no collection '{name}'", collection=name)
    return found


def collections(session: Session) -> Sequence[CollectionRow]:
    """All collections by name."""
    return session.scalars(select(CollectionRow).order_by(CollectionRow.name)).all()


def count_people(session: Session, gallery: CollectionRow) -> int:
    """Number of people in a collection."""
    return session.scalar(select(func.count()).where(PersonRow.collection_id == gallery.id)) or 0


def count_faces(session: Session, gallery: CollectionRow) -> int:
    """Number of templates in a collection."""
    of_gallery = select(func.count(FaceRow.id)).join(FaceRow.person).where(PersonRow.collection_id == gallery.id)
    return session.scalar(of_gallery) or 0


class Totals(NamedTuple):
    """How much a store holds."""

    collections: int
    people: int
    faces: int


def totals(session: Session) -> Totals:
    """How much the store holds in all collections."""
    tables = (CollectionRow, PersonRow, FaceRow)
    return Totals(*(session.scalar(select(func.count()).select_from(table)) or 0 for table in tables))


def add_collection(session: Session, name: str, *, model: str, dim: int, keep_crops: bool = False) -> CollectionRow:
    """Make a collection for the vectors of one model."""
    row = CollectionRow(name=name, model=model, dim=dim, keep_crops=keep_crops)
    session.add(row)
    session.flush()
    return row


def keep_crops(session: Session, gallery: CollectionRow, keep: bool) -> None:
    """Say whether a collection keeps crops; where it no longer does, those that are stored are erased."""
    gallery.keep_crops = keep
    if not keep:
        people = select(PersonRow.id).where(PersonRow.collection_id == gallery.id)
        erased = update(FaceRow).where(FaceRow.person_id.in_(people)).values(crop=None, crop_template=None)
        session.execute(erased)


def delete_collection(session: Session, gallery: CollectionRow) -> None:
    """Delete a collection with its people and their templates."""
    session.execute(delete(CollectionRow).where(CollectionRow.id == gallery.id))


def not_expired() -> ColumnElement[bool]:
    """The condition that a person's time is not over; who is expired is gone for every reader, and erased soon."""
    return or_(PersonRow.expires_at.is_(None), PersonRow.expires_at > now())


def expired_people(session: Session, *, after: int, limit: int) -> Sequence[int]:
    """Row numbers of up to ``limit`` people whose time is over, those after row number ``after``."""
    over = select(PersonRow.id).where(PersonRow.id > after, PersonRow.expires_at <= now())
    return session.scalars(over.order_by(PersonRow.id).limit(limit)).all()


def expired_person(session: Session, row: int) -> tuple[CollectionRow, PersonRow] | None:
    """A person by row number, with the collection, if the time is (still) over."""
    joined = select(CollectionRow, PersonRow).join(PersonRow, PersonRow.collection_id == CollectionRow.id)
    found = session.execute(joined.where(PersonRow.id == row, PersonRow.expires_at <= now())).one_or_none()
    return None if found is None else (found[0], found[1])


def person(session: Session, gallery: CollectionRow, public_id: str) -> PersonRow:
    """The person of that id.

    Raises:
        NotFoundError: nobody in the collection has it.
    """
    wanted = select(PersonRow).where(PersonRow.collection_id == gallery.id, PersonRow.public_id == public_id)
    found = session.scalar(wanted.where(not_expired()))
    if found is None:
        raise NotFoundError(
            f"there is no person '{public_id}' in collection '{gallery.name}'",
            collection=gallery.name,
            person=public_id,
        )
    return found


def person_by_row(session: Session, row: int) -> PersonRow:
    """The person of a row number that a template refers to."""
    return session.get_one(PersonRow, row)


def add_person(session: Session, gallery: CollectionRow, name: str, expires_at: datetime | None = None) -> PersonRow:
    """Add a person without faces, with a data key of their own where the store is encrypted."""
    public_id = new_id("p")
    row = PersonRow(
        collection_id=gallery.id,
        public_id=public_id,
        name=name,
        wrapped_key=vault_of(session).new_key(public_id),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return row


def page_of_people(
    session: Session, gallery: CollectionRow, *, after: int, limit: int, name: str | None = None
) -> Sequence[PersonRow]:
    """Up to ``limit`` people in the order they came, those after row number ``after``; or only those of a name."""
    wanted = select(PersonRow).where(PersonRow.collection_id == gallery.id, PersonRow.id > after, not_expired())
    if name is not None:
        wanted = wanted.where(PersonRow.name == name)
    return session.scalars(wanted.order_by(PersonRow.id).limit(limit)).all()


def faces_per_person(session: Session, people: Sequence[PersonRow]) -> dict[int, int]:
    """Number of templates of each person, by row number; nobody without any is in it."""
    counts = (
        select(FaceRow.person_id, func.count().label("faces"))
        .where(FaceRow.person_id.in_([row.id for row in people]))
        .group_by(FaceRow.person_id)
    )
    return {row.person_id: row.faces for row in session.execute(counts)}


def delete_person(session: Session, row: PersonRow) -> None:
    """Delete a person and all templates."""
    session.execute(delete(PersonRow).where(PersonRow.id == row.id))
