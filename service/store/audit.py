"""The audit log: one record per erasure, chained so that none can be changed, left out or put between unseen.

A record's digest is SHA-256 over the digest of the record before it (32 bytes; zeros before the first) and the record
as a JSON array ``[seq, at, event, collection, person, face, faces, actor]`` in ASCII without spaces, ``at`` in UTC to
the millisecond. Collections, people and faces are keyed pseudonyms (`Vault.pseudonym`): nobody is named, and who knows
an id and the store's secret can find what was done to it. A collection is known by a random id, neither by its name,
which may be given again, nor by its row number, which a restore takes back with all that came after the backup.

The chain shows every change but one: cutting off its end and writing another. Receipts kept elsewhere show that too.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Self

from sqlalchemy import func, insert, or_, select, text
from sqlalchemy.orm import Session

from service.errors import StoreError
from service.store.tables import AUDIT_GIVEN, AuditRow, CollectionRow, MetaRow, now
from service.store.vault import vault_of

BEFORE_THE_FIRST: Final = bytes(32)
_RECORDS_AT_A_TIME = 4096


class Event(StrEnum):
    """What a record tells of. `RESTORE` says that the state went back to a backup, and what was erased again."""

    PERSON = "erase-person"
    FACE = "erase-face"
    COLLECTION = "erase-collection"
    RESTORE = "restore"
    RESTORE_WITHOUT_LEDGER = "restore-without-ledger"


@dataclass(frozen=True)
class Record:
    """A record of the log.

    Attributes:
        seq: 1, 2, 3 and so on.
        at: when, UTC, to the millisecond.
        event: one of `Event`.
        collection: pseudonym; empty where it is about none.
        person: pseudonym of the person.
        face: pseudonym of the face, where one face of a person was erased.
        faces: how many faces were erased.
        actor: id of the API key, or which part of the service did it by itself.
        previous: digest of the record before.
        digest: of this one.
    """

    seq: int
    at: datetime
    event: str
    collection: str
    person: str | None
    face: str | None
    faces: int
    actor: str
    previous: bytes
    digest: bytes = b""

    def computed(self) -> bytes:
        """The digest that the record must have."""
        content = [self.seq, _moment(self.at), self.event, self.collection, self.person, self.face, self.faces]
        line = json.dumps([*content, self.actor], ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(self.previous + line.encode("ascii")).digest()

    @property
    def receipt(self) -> str:
        """What proves later that the log still holds this record and all before it: ``SEQ-DIGEST``."""
        return f"{self.seq}-{self.digest.hex()}"

    def as_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        values = {name: getattr(self, name) for name in _FIELDS}
        return values | {"at": _moment(self.at), "previous": self.previous.hex(), "digest": self.digest.hex()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The record of `as_json`.

        Raises:
            ValueError: it is none.
        """
        if set(values) != set(_FIELDS):
            raise ValueError(f"a record has the members {', '.join(_FIELDS)}")
        read = {name: bytes.fromhex(values[name]) for name in ("previous", "digest")}
        return cls(**values | read | {"at": datetime.fromisoformat(values["at"])})


_FIELDS = tuple(Record.__dataclass_fields__)


@dataclass(frozen=True)
class Receipt:
    """Number and digest of a record, as a deletion was answered with."""

    seq: int
    digest: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """The receipt of ``SEQ-DIGEST``.

        Raises:
            StoreError: it is none.
        """
        number, _, digest = text.strip().partition("-")
        try:
            receipt = cls(int(number), bytes.fromhex(digest))
        except ValueError:
            receipt = cls(0, b"")
        if receipt.seq < 1 or len(receipt.digest) != len(BEFORE_THE_FIRST):
            raise StoreError(f"'{text}' is no receipt: a number, a hyphen and 64 hexadecimal digits")
        return receipt


@dataclass(frozen=True)
class Erased:
    """What a record is to be written about; see `Record`."""

    event: Event
    collection: str
    person: str | None = None
    face: str | None = None
    faces: int = 0


def append(session: Session, erased: Iterable[Erased], *, actor: str) -> Record | None:
    """Chain records to the log, in the transaction of what they tell of.

    Returns:
        the last one; None where there was nothing to write.
    """
    last, previous = _end(session)
    moment, made = now(), list[Record]()
    for seq, one in enumerate(erased, start=last + 1):
        record = Record(seq, moment, one.event, one.collection, one.person, one.face, one.faces, actor, previous)
        made.append(replace(record, digest=record.computed()))
        previous = made[-1].digest
    insert_records(session, made)
    return made[-1] if made else None


def insert_records(session: Session, made: Sequence[Record]) -> None:
    """Insert records that are chained already."""
    if made:
        session.execute(insert(AuditRow), [{name: getattr(one, name) for name in _FIELDS} for one in made])


def records(session: Session, *, after: int = 0) -> Iterator[Record]:
    """The records in their order, those after number ``after``."""
    columns = [getattr(AuditRow, name) for name in _FIELDS]
    wanted = select(*columns).where(AuditRow.seq > after).order_by(AuditRow.seq)
    with session.execute(wanted.execution_options(yield_per=_RECORDS_AT_A_TIME)) as found:  # few are read to the end
        for row in found:
            yield Record(*row)


def records_of(session: Session, public_id: str) -> list[Record]:
    """The records about a person or a face."""
    vault = vault_of(session)
    person, face = (vault.pseudonym(kind, public_id) for kind in ("person", "face"))
    found = session.scalars(select(AuditRow.seq).where(or_(AuditRow.person == person, AuditRow.face == face)))
    numbers = set(found)
    return [record for record in records(session, after=min(numbers) - 1) if record.seq in numbers] if numbers else []


def last_record(session: Session) -> Record | None:
    """The newest record; its receipt speaks for the whole log."""
    return next(records(session, after=_end(session)[0] - 1), None)


def collection_pseudonym(session: Session, gallery: CollectionRow) -> str:
    """The pseudonym of a collection in records."""
    return vault_of(session).pseudonym("collection id", gallery.public_id)


@dataclass(frozen=True)
class Verdict:
    """What a check of the log found.

    Attributes:
        count: number of records that were looked at.
        head: the last good one.
        faults: one sentence each; none where all is well.
    """

    count: int
    head: Record | None
    faults: tuple[str, ...]


def check_chain(log: Iterable[Record], receipts: Sequence[Receipt] = (), *, given: int = 0) -> Verdict:
    """Recompute the chain up to its first fault, and look for the receipts in it.

    Args:
        log: the records, from the first one.
        receipts: what must be in it.
        given: the highest number that was ever given to a record, where that is known otherwise.
    """
    wanted = {receipt.seq: receipt for receipt in receipts}
    head, fault, found = None, None, dict[int, bytes]()
    for record in log:
        if (fault := _fault(head, record)) is not None:
            break
        head = record
        if record.seq in wanted:
            found[record.seq] = record.digest
    count = head.seq if head is not None else 0
    if fault is None and given > count:
        fault = f"the end of the log is missing: {given} records were written, {count} are there"
    about_receipts = [_unproven(receipt, found.get(receipt.seq), count) for receipt in receipts]
    return Verdict(count, head, tuple(said for said in (fault, *about_receipts) if said is not None))


def check_log(session: Session, receipts: Sequence[Receipt] = ()) -> Verdict:
    """`check_chain` of a store's log."""
    return check_chain(records(session), receipts, given=_given(session))


def _given(session: Session) -> int:
    """The highest number that was ever given to a record, by the database's own count."""
    if session.get_bind().dialect.name == "sqlite":
        return session.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = 'audit'")) or 0
    row = session.get(MetaRow, AUDIT_GIVEN)
    return int(row.value) if row is not None else 0


def _fault(before: Record | None, record: Record) -> str | None:
    expected = before.seq + 1 if before is not None else 1
    if record.seq != expected:
        return f"record {expected} is missing: after {expected - 1} comes {record.seq}"
    if record.previous != (before.digest if before is not None else BEFORE_THE_FIRST):
        return f"record {record.seq} does not continue the one before it: one of them was changed or moved"
    if record.digest != record.computed():
        return f"record {record.seq} was changed: its digest is of another content"
    return None


def _unproven(receipt: Receipt, digest: bytes | None, count: int) -> str | None:
    if digest == receipt.digest:
        return None
    if digest is None:
        return f"receipt {receipt.seq}: the log has {count} good records; this one was cut off or comes after a fault"
    return f"receipt {receipt.seq}: the log has another record under this number; it was rewritten"


def _end(session: Session) -> tuple[int, bytes]:
    seq = session.scalar(select(func.max(AuditRow.seq)))
    if seq is None:
        return 0, BEFORE_THE_FIRST
    return seq, session.scalars(select(AuditRow.digest).where(AuditRow.seq == seq)).one()


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
