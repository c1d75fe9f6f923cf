"""The connections to a PostgreSQL server: what they ask of it, and what its refusals mean."""

import logging
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.exc import ArgumentError, OperationalError

from facemargin.errors import ConfigError
from service.errors import StoreError
from service.store.location import described

log = logging.getLogger("facemargin.service")

_LEAST_VERSION: Final = 14
_POOL: Final = 10
_POOL_WAIT_S: Final = 5
_CONNECT: Final = {
    "application_name": "facemargin",
    "client_encoding": "utf8",
    "connect_timeout": "4",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "10000",
}
"""Options of libpq: a server that is not there any more is noticed within 20 seconds."""

_SETTINGS: Final = (
    "SET synchronous_commit = on; SET timezone = 'UTC'; "
    "SET lock_timeout = '30s'; SET idle_in_transaction_session_timeout = '10min'; "
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 2"
)
"""Not options of the start, which poolers refuse or swallow. A writer waits as long for those of other processes as for
those of its own; no reader keeps dead rows for long; the locks of a client whose machine vanished are free after 20
seconds."""

OUTAGES: Final = {
    "08": "the database server does not answer",
    "25006": "the database server is a standby that takes no writes",
    "25P0": "the database server ended a transaction that stood still",
    "3D000": "the database is gone",
    "53100": "the disk of the database server is full",
    "53200": "the database server has no memory left",
    "53300": "the database server takes no more connections",
    "57P": "the database server is stopping or starting",
    "58": "the disk of the database server fails",
}
"""Why no write at all can succeed, by the beginning of the SQLSTATE."""

_UNSAFE: Final = {
    "fsync": "a crash of the server's machine can lose or ruin the database",
    "full_page_writes": "a crash of the server's machine can ruin the database",
    "zero_damaged_pages": "damage is overwritten with zeros instead of told",
}
"""Settings of the server that undo what the service promises, where they do not have PostgreSQL's default."""


def engine_for(url: URL) -> Engine:
    """Connections to a database, all with the same options; an outage under any name is an `OperationalError`.

    Raises:
        ConfigError: the driver is missing, or an option of the URL is none.
    """
    full = url.set(drivername="postgresql+psycopg", query=dict(_CONNECT) | dict(url.query))
    try:
        engine = create_engine(
            full,
            pool_size=_POOL,
            max_overflow=_POOL,
            pool_timeout=_POOL_WAIT_S,
            pool_pre_ping=True,
            pool_recycle=1800,
            hide_parameters=True,
            connect_args={"prepare_threshold": None},  # no plan outlives a migration, or needs the same connection
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            "a store on PostgreSQL needs the package psycopg: pip install 'facemargin[postgres]'"
        ) from error
    except (ArgumentError, TypeError) as error:
        raise ConfigError(f"{described(url)} is no location of a store: {error}") from error
    event.listen(engine, "do_connect", _connected)
    event.listen(engine, "handle_error", _as_outage)
    event.listen(engine, "before_cursor_execute", _without_nul, retval=True)
    return engine


def _connected(_dialect: Dialect, _record: Any, arguments: Any, options: Any) -> Any:
    from service.store.watched_connection import WatchedConnection

    connection = WatchedConnection.connect(*arguments, **options)
    try:
        connection.execute(_SETTINGS)
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def check_server(connection: Connection, name: str) -> None:
    """Pass if the server can hold a store.

    Raises:
        StoreError: it is too old, or the database has another encoding.
    """
    version = int(connection.scalar(text("SHOW server_version_num")) or 0) // 10_000
    if version < _LEAST_VERSION:
        raise StoreError(f"{name} is on PostgreSQL {version}; a store needs version {_LEAST_VERSION} or later")
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise StoreError(f"{name} has the encoding {encoding}; make it with CREATE DATABASE ... ENCODING 'UTF8'")


def warn_of_settings(connection: Connection, name: str) -> None:
    """Log which settings of the server undo what the service promises."""
    chosen = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names) AND setting <> boot_val")
    for setting, value in connection.execute(chosen, {"names": list(_UNSAFE)}):
        log.warning("the server of %s has %s=%s: %s", name, setting, value, _UNSAFE[setting])


def outage(error: OperationalError) -> str | None:
    """Why no write at all can succeed; None where the error is about one statement."""
    state = _state(error.orig)
    if state is None:  # there was no connection that could have said so
        return OUTAGES["08"]
    return next((why for begins, why in OUTAGES.items() if state.startswith(begins)), None)


def _as_outage(context: ExceptionContext) -> Exception | None:
    """Let what is no fault of a statement be an `OperationalError`, under whichever class the driver has it."""
    state = _state(context.original_exception) or ""
    if isinstance(context.sqlalchemy_exception, OperationalError):
        return None
    if context.is_disconnect or state.startswith(("25006", "25P0")):
        return OperationalError(context.statement, None, context.original_exception, hide_parameters=True)
    return None


def _state(error: BaseException | None) -> str | None:
    state = getattr(error, "sqlstate", None)
    return "25006" if state == "0A000" and "recovery" in str(error) else state  # a standby, asked to read and write


def _without_nul(
    _connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool
) -> tuple[str, Any]:
    """Let a search for a text with a NUL character find nothing: PostgreSQL, which can hold none, would refuse it.

    No id or name holds the character that takes its place.
    """
    if not executemany and isinstance(parameters, dict) and statement.startswith("SELECT"):
        parameters = {
            name: value.replace("\0", "\x01") if isinstance(value, str) else value for name, value in parameters.items()
        }
    return statement, parameters
