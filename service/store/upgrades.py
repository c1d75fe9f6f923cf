"""Templates of a second model: which faces lack one, and dropping them all."""

import json
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeVarTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Select,
    String,
    cast,
    column,
    delete,
    exists,
    func,
    literal,
    select,
)
from sqlalchemy.orm import Session, undefer

from service.store.people import not_expired
from service.store.tables import CollectionRow, FaceRow, PersonRow, TemplateRow

Columns = TypeVarTuple("Columns")


class Coverage(NamedTuple):
    """Faces of a collection: all, those with a template by a model, those that could get one from their crop."""

    faces: int
    embedded: int
    waiting: int

    @property
    def unreachable(self) -> int:
        """Faces without a template and without a crop to make one from: they must be enrolled again."""
        return self.faces - self.embedded - self.waiting


class Owners(NamedTuple):
    """Row numbers of faces (N,) and of their people (N,), int64."""

    faces: NDArray[np.int64]
    people: NDArray[np.int64]


def owners(session: Session, gallery: CollectionRow, model: str) -> Owners:
    """The faces of a collection that have a template by a model, and whose they are."""
    joined = select(FaceRow.id, FaceRow.person_id).join(PersonRow, PersonRow.id == FaceRow.person_id)
    rows = session.execute(joined.where(PersonRow.collection_id == gallery.id, _has_template(model)))
    faces, people = np.array([tuple(row) for row in rows], dtype=np.int64).reshape(-1, 2).T.copy()
    return Owners(faces, people)


def coverage(
    session: Session, gallery: CollectionRow, model: str, template: str | None, unreadable: Collection[int] = ()
) -> Coverage:
    """Count the faces of a collection by whether a model has a template of them.

    Args:
        session: to count in.
        gallery: the collection.
        model: id.
        template: by which its crops are cut; None where the model is not loaded and can embed none.
        unreadable: row numbers of faces whose crop is of no use.
    """
    counted = _faces(gallery, select(func.count(FaceRow.id)))
    faces = session.scalar(counted) or 0
    embedded = session.scalar(counted.where(_has_template(model))) or 0
    waiting = session.scalar(counted.where(~_has_template(model), _has_crop(session, template, unreadable))) or 0
    return Coverage(faces, embedded, waiting)


def waiting_faces(
    session: Session, gallery: CollectionRow, model: str, template: str, *, unreadable: Collection[int], limit: int
) -> Sequence[tuple[FaceRow, PersonRow]]:
    """Faces with a crop by the template, but for those that cannot be read, and no vector by the model."""
    wanted = _faces(gallery, select(FaceRow, PersonRow)).where(
        ~_has_template(model), _has_crop(session, template, unreadable)
    )
    rows = session.execute(wanted.options(undefer(FaceRow.crop)).order_by(FaceRow.id).limit(limit))
    return [(face, person) for face, person in rows]


def shared_faces(session: Session, gallery: CollectionRow, models: Sequence[str], *, limit: int) -> Sequence[int]:
    """Row numbers of the first faces that have templates by all of some models, those of a person beside each other."""
    wanted = _faces(gallery, select(FaceRow.id)).where(*map(_has_template, models))
    return session.scalars(wanted.order_by(PersonRow.id, FaceRow.id).limit(limit)).all()


def has_template(session: Session, face: FaceRow, model: str) -> bool:
    """Whether a face has a template by a model."""
    return session.get(TemplateRow, (face.id, model)) is not None


def drop_templates(session: Session, gallery: CollectionRow, model: str) -> None:
    """Delete all templates of a collection by a model."""
    of_gallery = _faces(gallery, select(FaceRow.id))
    session.execute(delete(TemplateRow).where(TemplateRow.model == model, TemplateRow.face_id.in_(of_gallery)))


def moving_collections(session: Session) -> Sequence[CollectionRow]:
    """Collections that are moving to another model, or can still go back."""
    moving = CollectionRow.upgrade_model.is_not(None) | CollectionRow.previous_model.is_not(None)
    return session.scalars(select(CollectionRow).where(moving).order_by(CollectionRow.id)).all()


def _faces(gallery: CollectionRow, wanted: Select[*Columns]) -> Select[*Columns]:
    return wanted.join(PersonRow, PersonRow.id == FaceRow.person_id).where(
        PersonRow.collection_id == gallery.id, not_expired()
    )


def _has_template(model: str) -> ColumnElement[bool]:
    return exists().where(TemplateRow.face_id == FaceRow.id, TemplateRow.model == model)


def _has_crop(session: Session, template: str | None, unreadable: Collection[int]) -> ColumnElement[bool]:
    has = FaceRow.crop.is_not(None) & (FaceRow.crop_template == template)
    if not unreadable:
        return has
    sqlite = session.get_bind().dialect.name == "sqlite"
    listed = func.json_each if sqlite else func.json_array_elements_text
    text = json.dumps(list(unreadable))  # one parameter, however many
    numbers = listed(text if sqlite else cast(literal(text, String), JSON)).table_valued(column("value"))
    return has & FaceRow.id.not_in(select(cast(numbers.c.value, BigInteger)))
