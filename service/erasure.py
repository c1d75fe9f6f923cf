"""Erasing people, faces and collections: rows, data keys, index entries and every reply that speaks of them.

Owns what an erasure takes with it and the record that it leaves in the audit log, for every route, command and job that
erases. The caller holds the transaction; the bytes are gone from the files when the log is emptied after the commit
(`Store.forget`). The record returned is the receipt.
"""

from collections.abc import Iterator

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.gallery import Change, Gallery
from service.store import CollectionRow, FaceRow, PersonRow
from service.store.audit import Erased, Event, Record, append, collection_pseudonym
from service.store.faces import delete_face, entry_ids
from service.store.people import delete_collection, delete_person, faces_per_person
from service.store.replies import forget_collection, forget_mentions
from service.store.vault import vault_of


def erase_person(
    session: Session,
    changes: list[Change],
    indexes: Gallery,
    gallery: CollectionRow,
    person: PersonRow,
    *,
    actor: str,
) -> Record:
    """Erase a person with all faces.

    Args:
        session: of the transaction.
        changes: what the indexes have to follow is appended here.
        indexes: the galleries in memory.
        gallery: the person's collection.
        person: whom to erase.
        actor: id of the API key, or the part of the service that does it by itself.
    """
    changes.append(Change(gallery.id, gallery.model, gallery.dim, remove=_entry_ids(session, indexes, gallery, person)))
    erased = Erased(
        Event.PERSON,
        collection_pseudonym(session, gallery),
        person=vault_of(session).pseudonym("person", person.public_id),
        faces=faces_per_person(session, [person]).get(person.id, 0),
    )
    remove_person(session, person)
    return _recorded(session, [erased], actor)


def erase_face(
    session: Session,
    changes: list[Change],
    indexes: Gallery,
    gallery: CollectionRow,
    person: PersonRow,
    face: FaceRow,
    *,
    actor: str,
) -> Record:
    """Erase one face of a person; see `erase_person`."""
    held = _entry_ids(session, indexes, gallery, person)
    erased = Erased(
        Event.FACE,
        collection_pseudonym(session, gallery),
        person=vault_of(session).pseudonym("person", person.public_id),
        face=vault_of(session).pseudonym("face", face.public_id),
        faces=1,
    )
    remove_face(session, face)
    changes.append(Change(gallery.id, gallery.model, gallery.dim))
    if indexes.templates == "mean":
        changes[-1].remove, changes[-1].add = held, indexes.entries(session, gallery, person)
    else:
        changes[-1].remove = [face.id] if face.id in held else []
    return _recorded(session, [erased], actor)


def erase_collection(session: Session, changes: list[Change], gallery: CollectionRow, *, actor: str) -> Record:
    """Erase a collection with everybody in it; a record for each person, and the last one for the collection."""
    changes.append(Change(gallery.id, gallery.model, gallery.dim, drop=True))
    erased = list(_everybody(session, gallery))
    faces = sum(one.faces for one in erased)
    erased.append(Erased(Event.COLLECTION, collection_pseudonym(session, gallery), faces=faces))
    remove_collection(session, gallery)
    return _recorded(session, erased, actor)


def remove_person(session: Session, person: PersonRow) -> None:
    """Take a person out of the store: rows, key and replies; without a record, for what has one already."""
    forget_mentions(session, person.public_id)
    delete_person(session, person)


def remove_face(session: Session, face: FaceRow) -> None:
    """Take a face out of the store; see `remove_person`."""
    forget_mentions(session, face.public_id)
    delete_face(session, face)


def remove_collection(session: Session, gallery: CollectionRow) -> None:
    """Take a collection out of the store; see `remove_person`."""
    forget_collection(session, gallery.name)
    delete_collection(session, gallery)


def _entry_ids(session: Session, indexes: Gallery, gallery: CollectionRow, person: PersonRow) -> list[int]:
    """What the index holds of a person, without a look at the vectors: what was damaged can be erased too."""
    found: list[int] = entry_ids(session, gallery, people=indexes.templates == "mean", person=person.id).tolist()
    return found


def _everybody(session: Session, gallery: CollectionRow) -> Iterator[Erased]:
    vault, pseudonym = vault_of(session), collection_pseudonym(session, gallery)
    people = (
        select(PersonRow.public_id, func.count(FaceRow.id))
        .outerjoin(FaceRow, FaceRow.person_id == PersonRow.id)
        .where(PersonRow.collection_id == gallery.id)
        .group_by(PersonRow.id)
        .order_by(PersonRow.id)
    )
    for public_id, faces in session.execute(people):
        yield Erased(Event.PERSON, pseudonym, person=vault.pseudonym("person", public_id), faces=faces)


def _recorded(session: Session, erased: list[Erased], actor: str) -> Record:
    record = append(session, erased, actor=actor)
    if record is None:
        raise ValueError("an erasure leaves a record")
    return record
