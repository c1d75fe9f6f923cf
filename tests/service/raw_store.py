"""A store by its database alone, past everything that the service would do."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import URL, create_engine, inspect, text

from service.store import Location
from service.store.meta import ALONE
from service.store.sqlite import DATABASE

_UNSTEADY = ("replicas", "taken")


def execute(location: Location, *statements: str) -> Sequence[Any]:
    """Run statements in one transaction; the rows of the last one."""
    if isinstance(location, URL):
        engine = create_engine(location.set(drivername="postgresql+psycopg"))
    else:
        engine = create_engine(f"sqlite:///{location / DATABASE}")
    try:
        with engine.begin() as connection:
            found = [connection.execute(text(statement)) for statement in statements]
            return found[-1].all() if found[-1].returns_rows else []
    finally:
        engine.dispose()


def as_option(location: Location) -> str:
    """A location as it is typed."""
    return location.render_as_string(hide_password=False) if isinstance(location, URL) else str(location)


def held_in(location: Location) -> bytes:
    """Everything that a store holds: the bytes of its files, or the values of its rows."""
    if isinstance(location, URL):
        engine = create_engine(location.set(drivername="postgresql+psycopg"))
        try:
            with engine.connect() as connection:
                tables = [table for table in inspect(connection).get_table_names() if table not in _UNSTEADY]
                rows = [row for table in tables for row in connection.execute(text(f"SELECT * FROM {table}"))]
                rows = [row for row in rows if row[0] != ALONE]
        finally:
            engine.dispose()
        return b"|".join(value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row)
    return b"".join(path.read_bytes() for path in sorted(location.rglob("*")) if path.is_file())


def is_empty(location: Location) -> bool:
    """Whether nobody ever made a store there, or nobody ever used it."""
    if isinstance(location, URL):
        tables = (f"meta WHERE name <> '{ALONE}'", "collections", "audit")
        return not any(execute(location, f"SELECT 1 FROM {table}") for table in tables)
    return not location.exists()
