"""What is known of the time after a backup: who was erased since, and which API keys were revoked.

The audit log of the store that is replaced counts whenever it can be read, beside the ledger or store that is named:
of one history, the longer one knows more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from service.errors import StoreError
from service.ledger import read_ledger
from service.store import ApiKeyRow, Store
from service.store.audit import Record, check_log, records


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


def known_since(replaced: Path | None, erasures: Path | None, without_ledger: bool) -> Since:
    """What the store that is replaced and the erasures that were named know together.

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
    named = _known(erasures) if erasures.is_dir() else Since(read_ledger(erasures))
    return Since(_longer(own.log or (), named.log or ()), own.revoked | named.revoked, unread)


def _nothing_known(replaced: Path | None, unread: str | None) -> str:
    what = "who was erased after the backup would come back"
    if replaced is not None:
        what = f"the audit log of the store in {replaced} cannot be read ({unread})"
    return f"{what}; name the erasure ledger with --erasures, or accept that with --without-ledger"


def _known_if_readable(replaced: Path | None) -> tuple[Since, str | None]:
    if replaced is None:
        return Since(()), None
    try:
        return _known(replaced), None
    except StoreError as error:
        return Since(()), str(error)


def _known(folder: Path) -> Since:
    """The log and the revoked keys of a store.

    Raises:
        StoreError: it cannot be read, or its log is not whole.
    """
    try:
        with Store(folder, create=False) as store, store.read() as session:
            if faults := check_log(session).faults:
                raise StoreError(f"the audit log of the store in {folder} is broken: {faults[0]}")
            revoked = select(ApiKeyRow.id).where(ApiKeyRow.revoked_at.is_not(None))
            return Since(list(records(session)), frozenset(session.scalars(revoked)))
    except SQLAlchemyError as error:
        raise StoreError(f"the audit log of the store in {folder} cannot be read: {error}") from error


def _longer(own: Sequence[Record], named: Sequence[Record]) -> Sequence[Record]:
    shorter, longer = sorted((own, named), key=len)
    if list(longer[: len(shorter)]) != list(shorter):
        raise StoreError(
            "the audit log of the store that is replaced and the erasures named are not of one history: "
            "restore to another folder, or leave --erasures out"
        )
    return longer
