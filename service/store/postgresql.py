"""A store on a PostgreSQL server, which several services may use at the same time.

Durability: ``synchronous_commit=on``, so a commit returns after the server's log was flushed (what ``fsync`` and the
disks below make of it is the server's). Writers of all processes take one advisory lock at the start of their
transaction, so that at any time there is one writer, as in SQLite, and the rules that rest on it hold here too: the
chain of the audit log, the order of a collection's changes, one answer for an Idempotency-Key.

Every connection of a service holds a second lock, shared. A command that needs the store alone takes that one for
itself and leaves a mark: a service that had lost all its connections at that time finds another mark than its own when
it connects again, and answers nothing until it is started anew.
"""

from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, event, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from service.errors import StoreError, in_one_line
from service.store.copying import Progress, copy_rows, nobody
from service.store.location import described
from service.store.meta import ALONE, note_alone
from service.store.migration import migrate, version_of
from service.store.postgres_server import OUTAGES, check_server, engine_for, outage, warn_of_settings
from service.store.sqlite import new_file
from service.store.tables import Table

_WRITER: Final = 7_020_651_001
_SERVICES: Final = 7_020_651_002
"""Numbers of the advisory locks: of the one writer, and of those who are on the store."""

_MY_TURN: Final = (
    f"SELECT set_config('idle_in_transaction_session_timeout', '60s', true), pg_advisory_xact_lock({_WRITER})"
)
"""A process that stands still in its turn loses it after a minute: everybody waits for it."""

_STILL_OPEN = """
    SELECT 'process ' || pid FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
       AND (datname = current_database() OR datname IS NULL) AND backend_type <> 'autovacuum worker'
       AND age(backend_xmin) > age(CAST(CAST(:mine AS text) AS xid))
    UNION ALL SELECT 'standby ' || application_name FROM pg_stat_replication
     WHERE age(backend_xmin) > age(CAST(CAST(:mine AS text) AS xid))
    UNION ALL SELECT 'replication slot ' || slot_name FROM pg_replication_slots
     WHERE age(xmin) > age(CAST(CAST(:mine AS text) AS xid))
    UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts
     WHERE database = current_database() AND age(transaction) > age(CAST(CAST(:mine AS text) AS xid))
"""
"""Who may still see rows that were deleted before a transaction, for whom PostgreSQL keeps them, also when it rewrites
a table."""


class PostgresDatabase:
    """A database of a PostgreSQL server; see `service.store.database.Database`.

    Args:
        url: ``postgresql://user@host:port/database``, with options of libpq.

    Raises:
        ConfigError: the driver is missing.
        StoreError: the server does not answer, or cannot hold a store.
    """

    folder: Path | None = None
    shared = True

    def __init__(self, url: URL) -> None:
        self.name = described(url)
        self._engine = engine_for(url)
        self.reading = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self.writing = self._engine.execution_options(isolation_level="READ COMMITTED", takes_turns=True)
        self._claim: Connection | None = None
        self._alone = False
        self._mark: bytes | None = None
        event.listen(self._engine, "begin", self._take_turn)
        event.listen(self._engine, "connect", self._keep_place)
        try:
            with self._engine.connect() as connection:
                check_server(connection, self.name)
        except DBAPIError as error:
            self._engine.dispose()
            raise StoreError(f"{self.name} cannot be used as a store: {in_one_line(error)}") from error
        except BaseException:
            self._engine.dispose()
            raise

    def outage(self, error: OperationalError) -> str | None:
        """Why no write at all can succeed, if that is so."""
        return outage(error)

    def forget(self, patience_ms: int) -> bool:
        """Nothing: deleted rows leave the server's files by its own vacuum, and by `compact`; docs/postgresql.md."""
        return True

    def compact(self) -> None:
        """Write every table anew, and, where the role may, begin a new file of the log and let go of the old ones.

        Raises:
            StoreError: somebody is on a table for too long, may still see deleted rows, or the disk is full.
        """
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                now = connection.scalar(text("SELECT CAST(pg_current_xact_id() AS xid)"))
                for table in Table.metadata.sorted_tables:
                    connection.execute(text(f"VACUUM FULL {table.name}"))
                seeing = connection.scalars(text(_STILL_OPEN), {"mine": str(now)}).all()
                _leave_log(connection)
        except SQLAlchemyError as error:
            raise StoreError(f"{self.name} cannot be compacted: {in_one_line(error)}") from error
        if seeing:
            raise StoreError(
                f"{self.name} still keeps deleted rows for a transaction that began before ({', '.join(seeing)}); "
                "end it, and compact again"
            )

    def copy_to(self, target: Path) -> None:
        """Write its rows to a new SQLite file.

        Raises:
            StoreError: the disk is full, or the server does not answer.
        """
        try:
            with self.reading.connect() as source, new_file(target) as copy:
                copy_rows(source, copy)
        except SQLAlchemyError as error:
            raise StoreError(f"{self.name} cannot be copied to {target}: {in_one_line(error)}") from error

    def version(self) -> int | None:
        """The version of its tables; None where it holds no store."""
        with self.reading.connect() as connection:
            return version_of(connection)

    def refill(self, source: Connection, progress: Progress = nobody) -> dict[str, int]:
        """Give up what is in it for the rows of another store, in one transaction; how many there are by table.

        Raises:
            StoreError: it holds tables of something else, or what came is not what was sent: then it is as it was.
        """
        with self.writing.begin() as connection:
            if version_of(connection) is not None:
                for table in reversed(Table.metadata.sorted_tables):
                    connection.execute(text(f"DROP TABLE IF EXISTS {table.name}"))
                for statement in ("DROP TABLE alembic_version", *(f"DROP FUNCTION {name}()" for name in _FUNCTIONS)):
                    connection.execute(text(statement))
            migrate(connection, name=self.name)
            counts = copy_rows(source, connection, progress)
            note_alone(connection)
        return counts

    def claim(self, *, alone: bool) -> None:
        """Hold a lock that services share, or one that shuts them out.

        Raises:
            StoreError: somebody holds one that does not go with it, or no writes are taken.
        """
        kind = "pg_try_advisory_lock" if alone else "pg_try_advisory_lock_shared"
        self._engine.dispose()  # connections that hold no lock
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            if connection.scalar(text("SHOW transaction_read_only")) == "on":
                raise StoreError(f"the store {self.name} cannot be had: {OUTAGES['25006']}; name the primary")
            if not connection.scalar(text(f"SELECT {kind}({_SERVICES})")):
                others = "services are on it; stop them first" if alone else "a command that needs it alone is at work"
                raise StoreError(f"the store {self.name} cannot be had: {others}")
            if alone and version_of(connection) is not None:
                note_alone(connection)
            if not alone:
                self._mark = connection.scalar(text(_MARK))
                warn_of_settings(connection, self.name)
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        self._claim, self._alone = connection, alone

    def close(self) -> None:
        """Close every connection; the server gives the locks free with them."""
        if self._claim is not None:
            self._claim.invalidate()
            self._claim.close()
            self._claim = None
        self._engine.dispose()

    def _take_turn(self, connection: Connection) -> None:
        """A writer waits for its turn before it looks at anything."""
        if not connection.get_execution_options().get("takes_turns", False):
            return
        connection.exec_driver_sql(_MY_TURN)
        if self._claim is None and not connection.scalar(text(f"SELECT pg_try_advisory_xact_lock_shared({_SERVICES})")):
            raise StoreError(f"the store {self.name} cannot be written: a command that needs it alone is at work")

    def _keep_place(self, connection: Any, _record: Any) -> None:
        """Let a new connection of a service hold the lock of services, if no command was alone on the store since."""
        if self._claim is None or self._alone:
            return
        try:
            (free,) = connection.execute(f"SELECT pg_try_advisory_lock_shared({_SERVICES})").fetchone()
            mark = connection.execute(_MARK).fetchone()
            connection.commit()
            if not free:
                raise StoreError(f"the store {self.name} cannot be had: a command that needs it alone is at work")
            if (mark[0] if mark is not None else None) != self._mark:
                raise StoreError(
                    f"a command had the store {self.name} alone while this service had no connection to it: "
                    "start the service anew"
                )
        except BaseException:
            connection.close()
            raise


_MARK: Final = f"SELECT value FROM meta WHERE name = '{ALONE}'"
_FUNCTIONS: Final = ("audit_refuses", "audit_counts")


def _leave_log(connection: Connection) -> None:
    """Begin a new file of the server's log, and let those before go, as far as the role may."""
    if connection.scalar(text("SELECT has_function_privilege('pg_switch_wal()', 'EXECUTE')")):
        connection.execute(text("SELECT pg_switch_wal()"))
    may = "SELECT bool_or(rolsuper OR pg_has_role(current_user, oid, 'USAGE')) FROM pg_roles WHERE rolname IN "
    if connection.scalar(text(f"{may} (current_user, 'pg_checkpoint') AND (rolsuper OR rolname = 'pg_checkpoint')")):
        connection.execute(text("CHECKPOINT"))
