"""What is known of the time after a backup: who was erased since, and which API keys were revoked.

The audit log of the store that is replaced counts whenever it can be read, beside the ledger or store that is named:
of one history, the longer one knows more.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.errors import StoreError
from service.ledger import read_ledger
from service.store import ApiKeyRow, Location, Store
from service.store.audit import Record, check_log, records
from service.store.location import described


@dataclass(frozen=True)
class Source:
    """A store that knows of erasures.

    Attributes:
        name: as errors call it.
        read: opens a session on it.
    """

    name: str
    read: Callable[[], contextlib.AbstractContextManager[Session]]

    @classmethod
    def at(cls, location: Location) -> Self:
        """The store of a location, which is opened to be read."""

        @contextlib.contextmanager
        def read() -> Iterator[Session]:
            with Store(location, create=False) as store, store.read() as session:
                yield session

        return cls(described(location), read)


@dataclass(frozen=True)
class Since:
    """What is known of the time after the backup.

    Attributes:
        log: the audit log from its first record; None where nothing is known, which the caller was warned of.
        revoked: ids of the API keys that are revoked.
        unread: why the log of the store that is replaced cannot be read.
    """

    log: Sequence[Record] | None
    revoked: frozenset[str] = frozenset()
    unread: str | None = None


def known_since(replaced: Source | None, erasures: Source | Path | None, without_ledger: bool) -> Since:
    """What the store that is replaced and the erasures that were named, a store or a ledger, know together.

    Raises:
        StoreError: neither knows anything, or one contradicts the other.
    """
    if without_ledger and erasures is not None:
        raise StoreError("--erasures and --without-ledger contradict each other: leave one of them out")
    own, unread = _known_if_readable(replaced)
    if without_ledger:
        return Since(None, own.revoked, unread)
    if erasures is None:
        if replaced is None or unread is not None:
            raise StoreError(_nothing_known(replaced, unread))
        return own
    named = Since(read_ledger(erasures)) if isinstance(erasures, Path) else _known(erasures)
    return Since(_longer(own.log or (), named.log or ()), own.revoked | named.revoked, unread)


def _nothing_known(replaced: Source | None, unread: str | None) -> str:
    what = "who was erased after the backup would come back"
    if replaced is not None:
        what = f"the audit log of the store in {replaced.name} cannot be read ({unread})"
    return f"{what}; name the erasure ledger with --erasures, or accept that with --without-ledger"


def _known_if_readable(replaced: Source | None) -> tuple[Since, str | None]:
    if replaced is None:
        return Since(()), None
    try:
        return _known(replaced), None
    except StoreError as error:
        return Since(()), str(error)


def _known(source: Source) -> Since:
    """The log and the revoked keys of a store.

    Raises:
        StoreError: it cannot be read, or its log is not whole.
    """
    try:
        with source.read() as session:
            if faults := check_log(session).faults:
                raise StoreError(f"the audit log of the store in {source.name} is broken: {faults[0]}")
            revoked = select(ApiKeyRow.id).where(ApiKeyRow.revoked_at.is_not(None))
            return Since(list(records(session)), frozenset(session.scalars(revoked)))
    except SQLAlchemyError as error:
        raise StoreError(f"the audit log of the store in {source.name} cannot be read: {error}") from error


def _longer(own: Sequence[Record], named: Sequence[Record]) -> Sequence[Record]:
    shorter, longer = sorted((own, named), key=len)
    if list(longer[: len(shorter)]) != list(shorter):
        raise StoreError(
            "the audit log of the store that is replaced and the erasures named are not of one history: "
            "restore to another folder, or leave --erasures out"
        )
    return longer
