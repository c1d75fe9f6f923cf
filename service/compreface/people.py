"""Subjects in the store: a subject is everybody of one name in a collection."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.compreface.errors import SUBJECT_UNKNOWN, Refusal
from service.context import Service
from service.erasure import erase_person
from service.gallery import Change, Gallery, difference
from service.models import Model
from service.replies import write
from service.store import CollectionRow, FaceRow, PersonRow
from service.store.faces import add_template, delete_face, faces, sealing_context, stored_crop, templates_of_person
from service.store.faces import models_of_person as models_of
from service.store.people import add_collection, faces_per_person, find_collection, not_expired
from service.store.tables import filler
from service.store.vault import vault_of
from service.writes import Once, Reply

_AT_A_TIME = 200
"""People erased in one transaction: between two of them other writes get their turn."""


class Place(NamedTuple):
    """The collection of a key, None until the first write, and the model that it is or would be bound to."""

    gallery: CollectionRow | None
    model: Model


class Erased(NamedTuple):
    """How many were erased, and the receipt of the last one."""

    people: int
    faces: int
    receipt: str | None


def once(actor: str) -> Once:
    """The identity of a write of this API, which knows no Idempotency-Key."""
    return Once(actor, None, b"")


def place(service: Service, name: str) -> Place:
    """Where a key's subjects are.

    Raises:
        ModelMismatchError: the collection's model is not loaded.
    """
    with service.store.read() as session:
        gallery = find_collection(session, name)
    return Place(gallery, service.models.of(gallery) if gallery is not None else service.models.default)


def made(service: Service, session: Session, name: str) -> CollectionRow:
    """The collection, made by the first write for the default model."""
    model = service.models.default
    return find_collection(session, name) or add_collection(session, name, model=model.id, dim=model.dim)


def names(session: Session, gallery: CollectionRow) -> list[str]:
    """Every subject once, in the order they came."""
    wanted = select(PersonRow.name).where(PersonRow.collection_id == gallery.id, not_expired())
    return list(session.scalars(wanted.group_by(PersonRow.name).order_by(func.min(PersonRow.id))))


def people(
    session: Session, gallery: CollectionRow, subject: str | None, limit: int | None = None
) -> Sequence[PersonRow]:
    """The people of a name, or all, in the order they came."""
    wanted = select(PersonRow).where(PersonRow.collection_id == gallery.id, not_expired()).order_by(PersonRow.id)
    if subject is not None:
        wanted = wanted.where(PersonRow.name == subject)
    return session.scalars(wanted.limit(limit)).all()


def known(session: Session, name: str, subject: str) -> tuple[CollectionRow, Sequence[PersonRow]]:
    """The people of a name, and the collection that they are in.

    Raises:
        Refusal: there is nobody.
    """
    gallery = find_collection(session, name)
    found = people(session, gallery, subject) if gallery is not None else []
    if gallery is None or not found:
        raise Refusal(SUBJECT_UNKNOWN, f"Subject {subject} not found")
    return gallery, found


def page_of_faces(
    session: Session, gallery: CollectionRow, subject: str | None, *, page: int, size: int
) -> tuple[list[tuple[str, str]], int]:
    """Ids and subjects of a page of faces in the order they came, and how many there are in all."""
    joined = select(FaceRow.public_id, PersonRow.name).join(PersonRow, PersonRow.id == FaceRow.person_id)
    wanted = joined.where(PersonRow.collection_id == gallery.id, not_expired())
    if subject is not None:
        wanted = wanted.where(PersonRow.name == subject)
    total = session.scalar(select(func.count()).select_from(wanted.subquery())) or 0
    rows = session.execute(wanted.order_by(FaceRow.id).offset(page * size).limit(size))
    return [(public_id, name) for public_id, name in rows], total


async def erase(service: Service, name: str, actor: str, subject: str | None) -> Erased:
    """Erase the people of a name, or everybody of the collection."""
    erased = Erased(0, 0, None)
    while True:
        some = await _erase_some(service, name, actor, subject)
        erased = Erased(erased.people + some.people, erased.faces + some.faces, some.receipt or erased.receipt)
        if some.people < _AT_A_TIME:
            return erased


async def _erase_some(service: Service, name: str, actor: str, subject: str | None) -> Erased:
    erased = Erased(0, 0, None)

    def work(session: Session, changes: list[Change]) -> Reply:
        nonlocal erased
        gallery = find_collection(session, name)
        found = people(session, gallery, subject, limit=_AT_A_TIME) if gallery is not None else []
        if gallery is None or not found:
            return Reply(200)
        count = sum(faces_per_person(session, found).values())
        records = [erase_person(session, changes, service.gallery, gallery, who, actor=actor) for who in found]
        erased = Erased(len(found), count, records[-1].receipt)
        return Reply(204, collection=name, receipt=erased.receipt)

    await write(service, once(actor), work)
    return erased


def merge(
    session: Session,
    changes: list[Change],
    indexes: Gallery,
    gallery: CollectionRow,
    sources: Sequence[PersonRow],
    target: PersonRow,
    *,
    actor: str,
) -> None:
    """Give a person all faces of others, who are erased; the faces keep their ids.

    Each face is sealed anew under the target's data key, as a row of its own: templates are never changed in place.
    """
    before = [entry for who in (target, *sources) for entry in indexes.entries(session, gallery, who)]
    for who in sources:
        for face in faces(session, who):
            _move(session, gallery, face, who, target)
    changes.append(difference(gallery, before, indexes.entries(session, gallery, target)))
    for who in sources:
        erase_person(session, changes, indexes, gallery, who, actor=actor)


def _move(session: Session, gallery: CollectionRow, face: FaceRow, source: PersonRow, target: PersonRow) -> None:
    vectors = {
        model: template.vector
        for model in models_of(session, source)
        for template in templates_of_person(session, gallery, source, model)
        if template.face == face.id
    }
    crop = stored_crop(session, gallery, source, face)
    fields = ("public_id", "source", "quality", "crop_template", "created_at")
    moved = FaceRow(person_id=target.id, **{name: getattr(face, name) for name in fields})
    delete_face(session, face)
    if crop is not None:
        context = sealing_context(gallery.id, target.public_id, moved.public_id, "crop")
        moved.crop = vault_of(session).seal(target.public_id, target.wrapped_key, crop, context)
        moved.filler = filler(session.get_bind().dialect.name)
    session.add(moved)
    session.flush()
    for model, vector in vectors.items():
        add_template(session, gallery, target, moved, model, vector)
