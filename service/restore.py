"""Putting a backup back so that whoever was erased since stays erased.

Owns the order: the backup is checked, unpacked beside, opened with its master key, rid of what the erasure ledger
names, and only then, at once, takes the place of what was there (`service.places`). The ledger is the audit log that
goes on where the backup's ends; its records are taken over as they are, so receipts given after the backup stay good.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session, undefer

from service.backup import Backup, Manifest, agree, examined, failing_as, opened_backup
from service.erasure import remove_collection, remove_face, remove_person
from service.errors import StoreError
from service.places import place_for
from service.since import Since, Source, known_since
from service.store import ApiKeyRow, CollectionRow, FaceRow, Location, PersonRow, Store, TemplateRow
from service.store.audit import Erased, Event, Record, append, collection_pseudonym, insert_records
from service.store.faces import stored_crop, template_blocks
from service.store.followed import forget_index
from service.store.location import described
from service.store.people import collections
from service.store.snapshot_keys import collections_with_snapshot_key, drop_snapshot_key
from service.store.sqlite import DATABASE, claim_folder
from service.store.tables import now
from service.store.vault import vault_of

ACTOR: Final = "restore"
_CROPS_AT_A_TIME: Final = 256


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Attributes:
        manifest: of the backup.
        erased: how many people, faces and collections were erased again.
        revoked: how many API keys were revoked again.
        audit_head: receipt of the restore itself.
        unread: why the log of the store that was replaced could not be read; None where it was, or there was none.
    """

    manifest: Manifest
    erased: int
    revoked: int
    audit_head: str
    unread: str | None = None


def restore(
    file: Path,
    location: Location,
    *,
    master: bytes | None,
    erasures: Location | None = None,
    without_ledger: bool = False,
    replace: bool = False,
) -> Restored:
    """Make a store of a backup.

    Args:
        file: the backup.
        location: of the store; there is none, or ``replace``.
        master: the master key, where the backup is encrypted.
        erasures: a ledger, or the store that was served last; what the store that is replaced knows, if it can be read,
            counts too.
        without_ledger: restore although nothing is known of erasures after the backup: who was erased comes back.
        replace: whether a store that is there is given up.

    Raises:
        StoreError: anything of it cannot be; what was there is still there then.
    """
    with contextlib.ExitStack() as ended:
        ended.enter_context(failing_as(f"the store in {described(location)} cannot be restored"))
        backup = ended.enter_context(opened_backup(file))
        place = ended.enter_context(place_for(location, replace=replace))
        named = ended.enter_context(_erasures(erasures, location, place.replaced))
        since = known_since(place.replaced, named, without_ledger)
        backup.extract(place.work / DATABASE)
        restored = _prepared(place.work, backup, master, since, called=place.name)
        place.take(place.work / DATABASE)
    return restored


@contextlib.contextmanager
def _erasures(named: Location | None, location: Location, replaced: Source | None) -> Iterator[Source | Path | None]:
    """A ledger as it is; a store without its services, since what they erased from now on would come back."""
    if named is None or (isinstance(named, Path) and not named.is_dir()):
        yield named
    elif _same(named, location):
        yield replaced or Source.at(named)
    elif isinstance(named, Path):
        with claim_folder(named):
            yield Source.at(named)
    else:
        with Store(named, create=False) as store:
            store.claim(alone=True)
            yield Source(store.name, store.read)


def _same(named: Location, location: Location) -> bool:
    if isinstance(named, Path) and isinstance(location, Path):
        return location.is_dir() and named.samefile(location)
    return named == location


def _prepared(work: Path, backup: Backup, master: bytes | None, since: Since, *, called: str) -> Restored:
    """Check the unpacked database, and erase in it what is to stay erased."""
    with Store(work, create=False) as store:
        with store.read() as session:
            content = examined(session)
        agree(backup.manifest, content)
        store.unlock(master, called=called)
        with store.read() as session:
            _open_everything(session)
        with store.write() as session:
            erased, faces = _follow(session, since.log, content.head)
            revoked = _revoke(session, since.revoked)
            for number in collections_with_snapshot_key(session):
                drop_snapshot_key(session, number)
            forget_index(session)
            event = Event.RESTORE if since.log is not None else Event.RESTORE_WITHOUT_LEDGER
            head = append(session, [Erased(event, "", faces=faces)], actor=ACTOR)
        store.compact()
        with store.read() as session:
            examined(session)
    return Restored(backup.manifest, erased, revoked, head.receipt if head is not None else "", since.unread)


def _open_everything(session: Session) -> None:
    """Read every template of every model and every crop once: a key that opens all of them is the right one.

    Raises:
        StoreError: one does not open, or is no vector.
    """
    models = session.scalars(select(TemplateRow.model).distinct().order_by(TemplateRow.model)).all()
    for gallery in collections(session):
        try:
            for model in models:
                for _ in template_blocks(session, gallery, model):
                    pass
        except ValueError as error:
            raise StoreError(f"collection '{gallery.name}' holds a template that is no vector: {error}") from error
        for person, face in _with_crops(session, gallery):
            stored_crop(session, gallery, person, face)


def _with_crops(session: Session, gallery: CollectionRow) -> Iterator[tuple[PersonRow, FaceRow]]:
    joined = select(PersonRow, FaceRow).join(FaceRow, FaceRow.person_id == PersonRow.id)
    wanted = joined.where(PersonRow.collection_id == gallery.id, FaceRow.crop.is_not(None))
    found = session.execute(wanted.options(undefer(FaceRow.crop)).execution_options(yield_per=_CROPS_AT_A_TIME))
    return ((person, face) for person, face in found)


def _follow(session: Session, log: Sequence[Record] | None, head: Record | None) -> tuple[int, int]:
    """Take over the records after the backup's last one, and erase what they name; how much, and how many faces."""
    if log is None:
        return 0, 0
    behind = head.seq if head is not None else 0
    if len(log) < behind or (head is not None and log[behind - 1] != head):
        raise StoreError(
            "the erasure ledger does not go on where the audit log of the backup ends: it is older than the backup, or "
            "of another store"
        )
    new = log[behind:]
    insert_records(session, new)
    return _erase_again(session, new)


def _erase_again(session: Session, new: Sequence[Record]) -> tuple[int, int]:
    vault = vault_of(session)
    gone = {event: {_target(record) for record in new if record.event == event} for event in Event}
    erased, before = 0, _faces(session)
    for gallery in collections(session):
        if collection_pseudonym(session, gallery) in gone[Event.COLLECTION]:
            remove_collection(session, gallery)
            erased += 1
    for person in session.scalars(select(PersonRow)).all() if gone[Event.PERSON] else ():
        if vault.pseudonym("person", person.public_id) in gone[Event.PERSON]:
            remove_person(session, person)
            erased += 1
    for face in session.scalars(select(FaceRow)).all() if gone[Event.FACE] else ():
        if vault.pseudonym("face", face.public_id) in gone[Event.FACE]:
            remove_face(session, face)
            erased += 1
    return erased, before - _faces(session)


def _target(record: Record) -> str:
    """The pseudonym of what a record says was erased."""
    return record.face or record.person or record.collection


def _faces(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(FaceRow)) or 0


def _revoke(session: Session, revoked: frozenset[str]) -> int:
    """Revoke the keys that were revoked after the backup; the number of them."""
    forgotten = select(ApiKeyRow).where(ApiKeyRow.id.in_(revoked), ApiKeyRow.revoked_at.is_(None))
    rows = session.scalars(forgotten).all()
    for row in rows:
        row.revoked_at = now()
    return len(rows)
