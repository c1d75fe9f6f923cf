"""Moving a store to another place, of whichever kind: every row, nothing decrypted, and the source stays as it is."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from service.backup import failing_as
from service.errors import StoreError
from service.places import place_for
from service.store import Location, Store
from service.store.audit import check_log
from service.store.copying import Progress
from service.store.location import described

_TOLD: Final = ("collections", "people", "faces", "templates", "api_keys", "audit")


@dataclass(frozen=True)
class Moved:
    """What a move did.

    Attributes:
        counts: rows by kind.
        audit_head: receipt of the last audit record; None while nothing was ever erased.
    """

    counts: dict[str, int]
    audit_head: str | None


def move(source: Location, target: Location, progress: Progress = lambda table, rows: None) -> Moved:
    """Copy a store to a place that holds none, while nobody else has either of them.

    Everything is read back and compared before it counts. Killed at any moment, the target holds nothing, or all.

    Args:
        source: a store; it is left as it is.
        target: a folder, or a database of a PostgreSQL server, without a store.
        progress: is told of it.

    Raises:
        StoreError: somebody has one of them, the target holds something, the source's audit log is broken, or the disk
            is full.
    """
    if source == target:
        raise StoreError(f"{described(source)} is both where the store is and where it is to go")
    with failing_as(f"the store {described(source)} cannot be moved"), Store(source, create=False) as store:
        store.claim(alone=True)
        with place_for(target) as place, store.read() as session:
            head = _checked(session, store.name)
            counts = place.fill(session.connection(), progress)
    return Moved({name: counts[name] for name in _TOLD}, head)


def _checked(session: Session, name: str) -> str | None:
    verdict = check_log(session)
    if verdict.faults:
        raise StoreError(f"the audit log of the store in {name} is broken: {verdict.faults[0]}")
    return verdict.head.receipt if verdict.head is not None else None
