"""Who serves a store: a line for each service, and what must be alike in all of them.

All moments are the database's, since the clocks of the services' machines need not agree.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.errors import StoreError
from service.store.clock import database_time
from service.store.migration import foreign_version
from service.store.tables import SCHEMA_VERSION, ReplicaRow

LIVE_S: Final = 10.0
"""How long ago a service may have been seen that counts as running."""

_FORGOTTEN_AFTER: Final = timedelta(hours=1)


def present(session: Session, replica: str, described: Mapping[str, Any]) -> None:
    """Say that a service is there now, and what it is."""
    row = {"id": replica, "described": dict(described), "started_at": database_time(), "seen_at": database_time()}
    seen = {"described": dict(described), "seen_at": database_time()}
    session.execute(insert(ReplicaRow).values(row).on_conflict_do_update(index_elements=[ReplicaRow.id], set_=seen))


def others(session: Session, replica: str) -> list[dict[str, Any]]:
    """What the other running services are, the one that began first before the rest."""
    alive = ReplicaRow.seen_at > database_time() - timedelta(seconds=LIVE_S)
    wanted = select(ReplicaRow.described).where(ReplicaRow.id != replica, alive)
    return [*session.scalars(wanted.order_by(ReplicaRow.started_at, ReplicaRow.id))]


def leave(session: Session, replica: str) -> None:
    """Take the line of a service away, and those of services that ended long ago without doing so."""
    gone = ReplicaRow.seen_at < database_time() - _FORGOTTEN_AFTER
    session.execute(delete(ReplicaRow).where((ReplicaRow.id == replica) | gone))


def newer_version(session: Session, name: str) -> str | None:
    """Why the tables cannot be worked with any more: another program has changed them; None where none has."""
    version = int(session.scalar(text("SELECT version_num FROM alembic_version")) or 0)
    return None if version == SCHEMA_VERSION else foreign_version(name, version)


def demand_present_version(session: Session, name: str) -> None:
    """Pass if the tables are those that this program works with.

    Raises:
        StoreError: a newer program has changed them since this one opened the store.
    """
    if (trouble := newer_version(session, name)) is not None:
        raise StoreError(f"{trouble}; this service takes no writes any more")
