"""How a write happens: one transaction, once per Idempotency-Key, and the index after the commit.

Owns the order. A write is acknowledged when it is on the disk; the galleries follow in the order of the commits. What
an Idempotency-Key once answered is kept in the same transaction, so no crash can come between a write and its record.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from service.errors import IdempotencyGoneError, IdempotencyMismatchError
from service.gallery import Change, Gallery
from service.store import ReplyRow, Store
from service.store.replies import drop_old_replies, find_reply, keep_reply
from service.store.tables import now


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
        collection: that it speaks of.
        person: that it speaks of.
        replayed: whether it was given before.
    """

    status: int
    body: dict[str, Any] | None = None
    collection: str | None = None
    person: str | None = None
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
    row = find_reply(session, caller=once.caller, key=once.key) if once.key is not None else None
    if row is None or row.created_at < kept_since:
        return None
    if row.body is None and row.status != 204:
        raise IdempotencyGoneError(
            "this Idempotency-Key was answered before, and what the answer spoke of was deleted since"
        )
    if row.fingerprint != once.fingerprint:
        raise IdempotencyMismatchError("this Idempotency-Key came before with another request; use a new key")
    return Reply(row.status, row.body, row.collection, row.person, replayed=True)


def _keep(session: Session, once: Once, reply: Reply) -> None:
    if once.key is None:
        return
    row = ReplyRow(
        caller=once.caller,
        key=once.key,
        fingerprint=once.fingerprint,
        status=reply.status,
        body=reply.body,
        collection=reply.collection,
        person=reply.person,
    )
    keep_reply(session, row)
