"""How a write happens: one transaction, once per Idempotency-Key, and the index after the commit.

Owns the order. A write is acknowledged when it is on the disk; the galleries follow in the order of the commits. What
an Idempotency-Key once answered is kept in the same transaction, so no crash can come between a write and its record.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from service.errors import IdempotencyGoneError, IdempotencyMismatchError
from service.gallery import Change, Gallery
from service.store import CollectionRow, ReplyRow, Store
from service.store.replies import drop_old_replies, find_reply, keep_reply
from service.store.tables import now
from service.store.vault import seal, unseal, vault_of

_REPLY = "stored reply"


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
    """

    status: int
    body: dict[str, Any] | None = None
    collection: str | None = None
    mentions: tuple[str, ...] = ()
    replayed: bool = False


Work = Callable[[Session, list[Change]], Reply]
"""Does a write in a session, appends what it means for the indexes, and returns the answer."""


class Writer:
    """Does writes one after another.

    Args:
        store: where they go.
        gallery: what follows them.
        keep_hours: how long answers to Idempotency-Keys are kept.
    """

    def __init__(self, store: Store, gallery: Gallery, *, keep_hours: float) -> None:
        self._store = store
        self._gallery = gallery
        self._keep_hours = keep_hours
        self._turn = threading.Lock()
        self._forgotten = False  # a service before this one may have been killed after a deletion

    def replay(self, once: Once) -> Reply | None:
        """The answer that a request got before, if it did: worth asking before costly work.

        Raises:
            IdempotencyMismatchError, IdempotencyGoneError: see `run`.
        """
        if once.key is None:
            return None
        with self._store.read() as session:
            return _earlier(session, once, self._kept_since())

    def run(self, once: Once, work: Work) -> Reply:
        """Do a write, or give the answer that it got before. When this returns, the write is on the disk.

        Raises:
            IdempotencyMismatchError: the key came before with another request.
            IdempotencyGoneError: what the first answer spoke of was deleted since.
        """
        with self._turn:
            changes: list[Change] = []
            with self._store.write() as session:
                kept_since = self._kept_since()
                drop_old_replies(session, before=kept_since)
                if (earlier := _earlier(session, once, kept_since)) is not None:
                    return earlier
                reply = work(session, changes)
                _count(session, changes)
                _keep(session, once, reply)
            self._gallery.follow(self._store, changes)
            if reply.status == 204 or not self._forgotten:  # 204 answers deletions, and nothing else
                self._forgotten = self._store.forget()
            return reply

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
    return Reply(row.status, body, replayed=True)


def _keep(session: Session, once: Once, reply: Reply) -> None:
    """Keep an answer without naming anybody: its body opens only with the Idempotency-Key, which is not kept."""
    if once.key is None:
        return
    vault = vault_of(session)
    body = None if reply.body is None else json.dumps(reply.body).encode()
    row = ReplyRow(
        key=_pseudonym(session, once),
        fingerprint=vault.mac("fingerprint", once.fingerprint),
        status=reply.status,
        sealed=None if body is None else seal(_reply_key(session, once.key), body, _REPLY),
        mentions=[vault.pseudonym("mention", public_id) for public_id in reply.mentions],
        collection=None if reply.collection is None else vault.pseudonym("collection", reply.collection),
    )
    keep_reply(session, row)


def _pseudonym(session: Session, once: Once) -> bytes:
    return vault_of(session).mac("idempotency", f"{once.caller} {once.key}".encode())


def _reply_key(session: Session, key: str) -> bytes:
    return vault_of(session).mac("reply", key.encode())


def _count(session: Session, changes: Sequence[Change]) -> None:
    """Raise the sequence of the collections whose templates change."""
    for number in {change.collection for change in changes if not change.drop}:
        session.get_one(CollectionRow, number).sequence += 1
