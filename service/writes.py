"""How a write happens: one transaction, once per Idempotency-Key, and the index after the commit.

Owns the order. A write is acknowledged when it is on the disk; the galleries follow in the order of the commits. What
an Idempotency-Key once answered is kept in the same transaction, so no crash can come between a write and its record.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from anyio import CapacityLimiter
from sqlalchemy import update
from sqlalchemy.orm import Session

from service.current import Stage
from service.errors import IdempotencyGoneError, IdempotencyMismatchError, StoreError
from service.gallery import Change, Gallery
from service.ledger import Ledger
from service.store import CollectionRow, ReplyRow, Store
from service.store.replicas import demand_present_version
from service.store.replies import drop_old_replies, find_reply, has_old_replies, keep_reply
from service.store.tables import now
from service.store.vault import seal, unseal, vault_of

_REPLY = "stored reply"
_RECEIPT = "receipt"
_LONGEST_TURN_S = 30.0
_PATIENCE_MS = 1000
_THREADS = 8


@dataclass(frozen=True)
class Once:
    """A request to be done once.

    Attributes:
        caller: whose key space it is.
        key: the Idempotency-Key; None for a request without one.
        fingerprint: of the whole request; the boundary of a form and the order of its parts do not count.
    """

    caller: str
    key: str | None
    fingerprint: bytes


@dataclass(frozen=True)
class Reply:
    """The answer to a write.

    Attributes:
        status: HTTP status.
        body: JSON object, or None for 204.
        collection: name of the one that it speaks of.
        mentions: public ids of the people and faces that it speaks of; when one of them is deleted, it is forgotten.
        replayed: whether it was given before.
        receipt: of a deletion: number and digest of its audit record.
        overwrites: whether personal data were overwritten, so that the old bytes must leave the files.
    """

    status: int
    body: dict[str, Any] | None = None
    collection: str | None = None
    mentions: tuple[str, ...] = ()
    replayed: bool = False
    receipt: str | None = None
    overwrites: bool = False


Work = Callable[[Session, list[Change]], Reply]
"""Does a write in a session, appends what it means for the indexes, and returns the answer."""


class Writer:
    """Does writes one after another.

    Args:
        store: where they go.
        gallery: what follows them.
        keep_hours: how long answers to Idempotency-Keys are kept.
        ledger: takes a copy of each erasure's record before the erasure is answered.

    Attributes:
        threads: those in which writes wait for their turn; were they everybody's, searches would wait for one too.
    """

    def __init__(self, store: Store, gallery: Gallery, *, keep_hours: float, ledger: Ledger | None = None) -> None:
        self._store = store
        self._ledger = ledger
        self._gallery = gallery
        self._keep_hours = keep_hours
        self._turn = threading.Lock()
        self.threads = CapacityLimiter(_THREADS)
        self._forgotten = False  # a service before this one may have been killed after a deletion

    def replay(self, once: Once) -> Reply | None:
        """The answer that a request got before, if it did: worth asking before costly work.

        Raises:
            IdempotencyMismatchError, IdempotencyGoneError: see `run`.
        """
        if once.key is None:
            return None
        with self._store.read() as session:
            earlier = _earlier(session, once, self._kept_since())
        if earlier is not None:  # the service that gave it may have died before the index followed
            self._gallery.catch_up(self._store)
        return earlier

    def run(self, once: Once, work: Work) -> Reply:
        """Do a write, or give the answer that it got before. When this returns, the write is on the disk.

        Raises:
            IdempotencyMismatchError: the key came before with another request.
            IdempotencyGoneError: what the first answer spoke of was deleted since.
            StoreError, IndexUnavailableError: no write can be taken at present.
        """
        self._refuse_in_vain()
        with self._my_turn():
            self._refuse_in_vain()
            changes: list[Change] = []
            with Stage("commit"), self._store.write() as session:
                if self._store.shared:
                    demand_present_version(session, self._store.name)
                kept_since = self._kept_since()
                dropped = drop_old_replies(session, before=kept_since)
                reply = _earlier(session, once, kept_since)
                if reply is None:
                    reply = work(session, changes)
                    _count(session, changes)
                    _keep(session, once, reply)
                    self._gallery.prepare(session, changes)
            if reply.replayed:  # the service that gave it may have died before the index followed
                self._forgotten = self._forgotten and not dropped
                self._gallery.catch_up(self._store)
                return reply
            self._gallery.follow(self._store, changes)
            if reply.status == 204 or reply.overwrites:  # 204 answers deletions, nothing else
                self._forgotten = False
                if self._ledger is not None:
                    self._ledger.keep_up(self._store)
            if not self._forgotten:
                self._forgotten = self._store.forget()
            elif dropped:  # old replies can wait for the next write, or round
                self._forgotten = False
            return reply

    @property
    def unforgotten(self) -> bool:
        """Whether the log may still hold what was deleted, since somebody was reading the old state."""
        return not self._forgotten

    def settle(self) -> None:
        """Do what earlier writes left: see whether the disk takes writes again, empty the log, rebuild indexes.

        Raises:
            MemoryError, RuntimeError, FacemarginError, SQLAlchemyError: an index cannot be rebuilt, or the store fails.
        """
        with self._my_turn():
            if self._store.outage is not None:
                self._store.probe()
                self._forgotten = False
            if not self._forgotten:
                self._forgotten = self._store.forget(patience_ms=_PATIENCE_MS)
            self._gallery.repair(self._store)

    def write_ledger(self) -> None:
        """Write to the erasure ledger what it could not take when it was answered.

        Raises:
            StoreError: it still cannot be written.
            SQLAlchemyError: the store fails.
        """
        if self._ledger is not None and self._ledger.behind:
            with self._my_turn():
                self._ledger.follow(self._store)

    def drop_old_replies(self) -> None:
        """Drop replies that are too old to be given again; their bytes leave the files by the next `settle`."""
        before = self._kept_since()
        with self._store.read() as session:
            if not has_old_replies(session, before=before):
                return
        with self._my_turn(), self._store.write() as session:
            dropped = drop_old_replies(session, before=before)
            self._forgotten = self._forgotten and not dropped

    def _refuse_in_vain(self) -> None:
        """Refuse a write that cannot succeed: if each waited for the disk, their threads would be missed by readers."""
        if self._store.outage is not None:
            raise StoreError(f"the database takes no writes: {self._store.outage}; it is tried again every few seconds")
        self._gallery.demand()

    @contextlib.contextmanager
    def _my_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=_LONGEST_TURN_S):
            raise StoreError("other writes take too long; nothing was changed")
        try:
            yield
        finally:
            self._turn.release()

    def _kept_since(self) -> datetime:
        return now() - timedelta(hours=self._keep_hours)


def fingerprint(method: str, path: str, payload: dict[str, Any] | None) -> bytes:
    """SHA-256 of what a request asks; bytes count by their own hash."""
    content = json.dumps([method, path, payload], sort_keys=True, default=_plain, ensure_ascii=True)
    return hashlib.sha256(content.encode()).digest()


def _plain(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


def _earlier(session: Session, once: Once, kept_since: datetime) -> Reply | None:
    if once.key is None:
        return None
    row = find_reply(session, _pseudonym(session, once))
    if row is None or row.created_at < kept_since:
        return None
    if row.sealed is None and row.status != 204:
        raise IdempotencyGoneError(
            "this Idempotency-Key was answered before, and what the answer spoke of was deleted since"
        )
    if row.fingerprint != vault_of(session).mac("fingerprint", once.fingerprint):
        raise IdempotencyMismatchError("this Idempotency-Key came before with another request; use a new key")
    body = json.loads(unseal(_reply_key(session, once.key), row.sealed, _REPLY)) if row.sealed is not None else None
    if row.status == 204:
        return Reply(204, receipt=body[_RECEIPT] if body is not None else None, replayed=True)
    return Reply(row.status, body, replayed=True)


def _keep(session: Session, once: Once, reply: Reply) -> None:
    """Keep an answer without naming anybody: its body opens only with the Idempotency-Key, which is not kept."""
    if once.key is None:
        return
    vault = vault_of(session)
    content = reply.body if reply.receipt is None else {_RECEIPT: reply.receipt}
    body = None if content is None else json.dumps(content).encode()
    row = ReplyRow(
        key=_pseudonym(session, once),
        fingerprint=vault.mac("fingerprint", once.fingerprint),
        status=reply.status,
        sealed=None if body is None else seal(_reply_key(session, once.key), body, _REPLY),
        collection=None if reply.collection is None else vault.pseudonym("collection", reply.collection),
    )
    keep_reply(session, row, reply.mentions)


def _pseudonym(session: Session, once: Once) -> bytes:
    return vault_of(session).mac("idempotency", f"{once.caller} {once.key}".encode())


def _reply_key(session: Session, key: str) -> bytes:
    return vault_of(session).mac("reply", key.encode())


def _count(session: Session, changes: Sequence[Change]) -> None:
    """Raise the sequence of the collections whose templates change."""
    for number in {change.collection for change in changes if not change.drop}:
        raised = update(CollectionRow).where(CollectionRow.id == number).values(sequence=CollectionRow.sequence + 1)
        sequence = session.scalars(raised.returning(CollectionRow.sequence)).one()
        for change in changes:
            if change.collection == number:
                change.sequence = sequence
