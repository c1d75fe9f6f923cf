"""Erasing people, faces and collections: rows, data keys, index entries and every reply that speaks of them.

Owns what an erasure takes with it, for every route, command and job that erases. The caller holds the transaction; the
bytes are gone from the files when the log is emptied after the commit (`Store.forget`).
"""

from sqlalchemy.orm import Session

from service.gallery import Change, Gallery, difference
from service.store import CollectionRow, FaceRow, PersonRow
from service.store.faces import delete_face
from service.store.people import delete_collection, delete_person
from service.store.replies import forget_collection, forget_mentions


def erase_person(
    session: Session, changes: list[Change], indexes: Gallery, gallery: CollectionRow, person: PersonRow
) -> None:
    """Erase a person with all faces."""
    changes.append(difference(gallery, indexes.entries(session, gallery, person), []))
    forget_mentions(session, person.public_id)
    delete_person(session, person)


def erase_face(
    session: Session,
    changes: list[Change],
    indexes: Gallery,
    gallery: CollectionRow,
    person: PersonRow,
    face: FaceRow,
) -> None:
    """Erase one face of a person."""
    before = indexes.entries(session, gallery, person)
    forget_mentions(session, face.public_id)
    delete_face(session, face)
    changes.append(difference(gallery, before, indexes.entries(session, gallery, person)))


def erase_collection(session: Session, changes: list[Change], gallery: CollectionRow) -> None:
    """Erase a collection with everybody in it."""
    changes.append(Change(gallery.id, gallery.dim, drop=True))
    forget_collection(session, gallery.name)
    delete_collection(session, gallery)
