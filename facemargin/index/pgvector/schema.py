"""What the engine pgvector keeps in a database: the extension, a schema, a register, and a table for each index."""

import re

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from facemargin.errors import ConfigError

SCHEMA = "facemargin_vectors"
REGISTER = f"{SCHEMA}._indexes"
"""Name, length of the vectors and number of them; no index can be called so, for the underscore."""
_LOCK = 7_020_651_101
_LEAST_VERSION = (0, 8)
_NOT_ALLOWED = "42501"
_ASK = "have the database's owner or a superuser run: CREATE EXTENSION vector"


def table_of(name: str) -> str:
    """The table of an index, to be put into SQL; ``name`` has been checked."""
    return f'{SCHEMA}."{name}"'


def lock(connection: Connection) -> None:
    """Wait until no other transaction makes or drops tables; two at a time would meet errors nobody can act on."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})


def prepare(connection: Connection) -> None:
    """Make what is missing, but for the tables of indexes. Waits for nobody where nothing is.

    Raises:
        ConfigError: pgvector is missing, or older than 0.8.
    """
    version, registered = _version(connection), _registered(connection)
    if version is None or not registered:
        lock(connection)
        version, registered = _version(connection) or _installed(connection), _registered(connection)
    _require(version)
    if not registered:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        columns = "name text PRIMARY KEY, dim integer NOT NULL, count bigint NOT NULL DEFAULT 0"
        connection.execute(text(f"CREATE TABLE {REGISTER} ({columns}) WITH (fillfactor = 50)"))  # count changes often


def _registered(connection: Connection) -> bool:
    return connection.scalar(text("SELECT to_regclass(:name)"), {"name": REGISTER}) is not None


def _version(connection: Connection) -> str | None:
    version: str | None = connection.scalar(text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    return version


def _installed(connection: Connection) -> str:
    available = connection.scalar(text("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"))
    if available is None:
        raise ConfigError("pgvector is not on the PostgreSQL server: install its package there (0.8 or newer)")
    try:
        with connection.begin_nested():
            connection.execute(text("CREATE EXTENSION vector"))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _NOT_ALLOWED:
            raise
        raise ConfigError(f"this role may not make the extension vector; {_ASK}") from error
    return str(available)


def _require(version: str) -> None:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < _LEAST_VERSION:
        raise ConfigError(
            f"the database has pgvector {version}; 0.8 or newer is needed: install it on the server, then have the "
            "database's owner run: ALTER EXTENSION vector UPDATE"
        )
