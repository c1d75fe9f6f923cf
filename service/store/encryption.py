"""Turning encryption on and off, and changing the master key, for a store that no service is using.

Each is one transaction: killed at any moment, the store opens with the key of before or with that of after. Rows are
rewritten a thousand people at a time, then everything that the old rows left in the file is removed (`Store.compact`);
where that was not to be, a note in the store says so, and `finish_change` does it at the next start.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.orm import Session

from service.errors import StoreError, in_one_line
from service.store.database import Store
from service.store.faces import sealing_context
from service.store.followed import indexes_in_clear
from service.store.meta import compaction_is_due, keep_secret, needed_master_key
from service.store.snapshot_keys import collections_with_snapshot_key, drop_snapshot_key
from service.store.tables import FaceRow, PersonRow, TemplateRow
from service.store.vault import Vault

log = logging.getLogger("facemargin.service")

Progress = Callable[[int, int], None]
"""Is told how many people are done, and of how many."""

_PEOPLE_AT_A_TIME: Final = 1000


def change_encryption(
    store: Store,
    master: bytes | None,
    progress: Progress = lambda done, total: None,
    *,
    allow_plaintext_index: bool = False,
) -> int:
    """Let a store be encrypted under a master key, under another one than before, or not at all.

    From one master key to another only the keys of people are wrapped anew; their data stay as they are.

    Args:
        store: claimed and unlocked.
        master: the key to need from now on; None for none.
        progress: is told of it.
        allow_plaintext_index: whether indexes outside may go on holding in the clear what is to be encrypted.

    Returns:
        the number of people.

    Raises:
        StoreError: somebody is reading, an index outside holds templates in the clear that are to be encrypted, or the
            disk is full: nothing was changed. Or only what the rows of before left
            cannot be removed: then the store needs the new key, and the message says so.
    """
    if master is not None and not store.vault.encrypts and not allow_plaintext_index:
        _demand_nothing_in_clear(store)
    try:
        store.prepare_compaction()
        total = _change(store, master, progress)
    except DatabaseError as error:
        raise StoreError(f"the store {store} was not changed: {in_one_line(error)}") from error
    try:
        store.compact()
    except (StoreError, SQLAlchemyError) as error:
        needed = "the NEW master key: keep it" if master is not None else "no master key any more"
        raise StoreError(
            f"the store {store} now needs {needed}; its file still holds old rows ({error}): run the same command again"
        ) from error
    return total


def finish_change(store: Store) -> None:
    """Remove from the file what a change of the encryption that was killed, or could not end, left in it.

    Args:
        store: claimed; where somebody reads it, that is logged, and it is tried again at the next start.
    """
    with store.read() as session:
        if not compaction_is_due(session):
            return
    try:
        store.compact()
    except (StoreError, SQLAlchemyError):
        log.exception("the file still holds rows of before the encryption was changed; tried again at the next start")


def _demand_nothing_in_clear(store: Store) -> None:
    """Refuse to encrypt while a copy of the templates stays outside."""
    with store.read() as session:
        places = [place for place in indexes_in_clear(session) if store.shared or place != "pgvector:"]
    if places:  # but for one in the database that the store was moved from
        raise StoreError(
            f"templates of the store {store} are in the clear in the index at {', '.join(places)}; drop them first: "
            "facemargin gallery move --from URL --to faiss: --drop; or leave them there with --allow-plaintext-index"
        )


def _change(store: Store, master: bytes | None, progress: Progress) -> int:
    before, after = store.vault, store.vault.under(master)
    with store.write() as session:
        total = session.scalar(select(func.count()).select_from(PersonRow)) or 0
        done = 0
        for people in _people(session):
            _rewrap(session, people, before, after)
            done += len(people)
            progress(done, total)
        for number in collections_with_snapshot_key(session):
            drop_snapshot_key(session, number)  # a snapshot of before is of no use after
        keep_secret(session, after.secret, master)
    return total


def describe(session: Session) -> dict[str, Any]:
    """Whether a store is encrypted, the id of its key, the number of people, and whether old rows are in its file."""
    key = needed_master_key(session)
    people = session.scalar(select(func.count()).select_from(PersonRow)) or 0
    return {
        "encrypted": key is not None,
        "master_key_id": key.hex() if key is not None else None,
        "people": people,
        "compaction_due": compaction_is_due(session),
    }


def _people(session: Session) -> Iterator[Sequence[Any]]:
    """Row number, public id, collection and wrapped key, in batches."""
    columns = select(PersonRow.id, PersonRow.public_id, PersonRow.collection_id, PersonRow.wrapped_key)
    last = 0
    while batch := session.execute(
        columns.where(PersonRow.id > last).order_by(PersonRow.id).limit(_PEOPLE_AT_A_TIME)
    ).all():
        yield batch
        last = batch[-1].id


def _rewrap(session: Session, people: Sequence[Any], before: Vault, after: Vault) -> None:
    keys = {row.id: _key_after(row, before, after) for row in people}
    if before.encrypts != after.encrypts:
        _Resealing(session, {row.id: row for row in people}, keys, before, after).run()
    changes = [{"row": number, "wrapped_key": key} for number, key in keys.items()]
    session.connection().execute(update(PersonRow).where(PersonRow.id == bindparam("row")), changes)


def _key_after(row: Any, before: Vault, after: Vault) -> bytes | None:
    if row.wrapped_key is None or not after.encrypts:
        return after.new_key(row.public_id)
    return after.wrap(row.public_id, before.unwrap(row.public_id, row.wrapped_key))


@dataclass(frozen=True)
class _Resealing:
    """Opens what is stored of a batch of people with the keys of before and seals it with those of after."""

    session: Session
    people: Mapping[int, Any]
    keys: Mapping[int, bytes | None]
    before: Vault
    after: Vault

    def run(self) -> None:
        of_batch = FaceRow.person_id.between(min(self.people), max(self.people))
        columns = TemplateRow.face_id, FaceRow.public_id, FaceRow.person_id, TemplateRow.model, TemplateRow.sealed
        templates = select(*columns).join(FaceRow, FaceRow.id == TemplateRow.face_id).where(of_batch)
        of_template = TemplateRow.face_id == bindparam("row"), TemplateRow.model == bindparam("of")
        changes = [
            {"row": row.face_id, "of": row.model, "sealed": self._turned(row, row.model, row.sealed)}
            for row in self.session.execute(templates)
        ]
        if changes:
            self.session.connection().execute(update(TemplateRow).where(*of_template), changes)
        crops = select(FaceRow.id, FaceRow.public_id, FaceRow.person_id, FaceRow.crop)
        for row in self.session.execute(crops.where(of_batch, FaceRow.crop.is_not(None))).all():
            change = update(FaceRow).where(FaceRow.id == row.id).values(crop=self._turned(row, "crop", row.crop or b""))
            self.session.connection().execute(change)

    def _turned(self, row: Any, what: str, stored: bytes) -> bytes:
        who = self.people[row.person_id]
        context = sealing_context(who.collection_id, who.public_id, row.public_id, what)
        data = self.before.open(who.public_id, who.wrapped_key, stored, context)
        return self.after.seal(who.public_id, self.keys[row.person_id], data, context)
