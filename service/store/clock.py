"""What time it is, where several machines must agree on it, and how much has gone by, also while one of them slept."""

import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from service.store.tables import now

_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)

elapsed: Final[Callable[[], float]] = time.monotonic if _BOOTTIME is None else partial(time.clock_gettime, _BOOTTIME)
"""Seconds since some moment, on Linux with those that the machine was suspended: what was read before that is old."""


def database_time() -> ColumnElement[Any]:
    """The time of a PostgreSQL server, UTC: the clocks of the services' machines need not agree."""
    return func.timezone("UTC", func.clock_timestamp())


def moment(session: Session) -> Any:
    """The present, to be written in a row: the server's, or this machine's where the database is a file of it."""
    return database_time() if _is_server(session) else now()


def present(session: Session) -> datetime:
    """The present by the same clock, UTC."""
    return session.scalars(select(func.clock_timestamp())).one() if _is_server(session) else now()


def _is_server(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"
