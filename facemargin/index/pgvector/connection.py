"""Connections of the engine pgvector: whose they are, and what their errors mean."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from facemargin.errors import ConfigError, FacemarginError, IndexDroppedError, IndexingError, IndexUnavailableError

_AWAY = ("08", "25006", "40", "53", "55P03", "57", "58")
"""SQLSTATEs that another try may not meet: no connection, standby, deadlock, no room, lock, shutdown, disk."""
_UNDEFINED_TABLE, _NOT_ALLOWED = "42P01", "42501"


@contextmanager
def transaction(database: Engine, given: Connection | None = None) -> Iterator[Connection]:
    """A transaction of one's own, or the one that somebody else has begun and will end.

    Raises:
        ConfigError: the role may not do it.
        IndexDroppedError: a table is not there.
        IndexUnavailableError: the server does not answer.
    """
    with answered():
        if given is not None:
            yield given
        else:
            with database.begin() as connection:
                yield connection


@contextmanager
def answered() -> Iterator[None]:
    """Turn errors of the driver and of SQLAlchemy into those of an index."""
    try:
        yield
    except PoolTimeoutError as error:
        raise IndexUnavailableError(f"pgvector: no connection is free: {error}") from error
    except DBAPIError as error:
        raise _named(error.orig) from error
    except psycopg.Error as error:
        raise _named(error) from error


def driver(connection: Connection) -> psycopg.Connection[tuple[object, ...]]:
    """The connection of psycopg that is inside of one of SQLAlchemy; COPY is only there."""
    inner = connection.connection.driver_connection
    if not isinstance(inner, psycopg.Connection):
        raise TypeError(f"pgvector needs the driver psycopg; this connection is of {type(inner).__module__}")
    return inner


def _named(error: BaseException | None) -> FacemarginError:
    state = getattr(error, "sqlstate", None)
    reason = " ".join(str(error).split())
    if state == _NOT_ALLOWED:
        return ConfigError(f"pgvector: the role of the store lacks a right: {reason}")
    if state == _UNDEFINED_TABLE:
        return IndexDroppedError(f"the index has been dropped: {reason}")
    if state is None or state.startswith(_AWAY):  # without a state, there was no server to give one
        return IndexUnavailableError(f"pgvector does not answer: {reason}")
    return IndexingError(f"pgvector refused: {reason}")
