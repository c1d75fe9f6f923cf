"""The version of the tables in a database, and how they come to the present one.

A new database gets the present tables at once; a test shows that the migrations lead to the same.
"""

from sqlalchemy import Column as SqlColumn
from sqlalchemy import Connection, MetaData, String, inspect, text
from sqlalchemy import Table as SqlTable

from service.errors import StoreError
from service.store.tables import SCHEMA_VERSION, Table

FIRST_VERSION = 2
"""The oldest one that is brought up to the present."""

_VERSION = SqlTable("alembic_version", MetaData(), SqlColumn("version_num", String(32), primary_key=True))


def migrate(connection: Connection, *, name: str, create: bool = True) -> None:
    """Make the tables, or bring them to the present version, in the connection's transaction.

    Args:
        connection: in a transaction that nobody else can be in at the same time.
        name: of the database, for errors.
        create: whether to make them where there are none.

    Raises:
        StoreError: it holds something else, the tables of a newer version, or none although none may be made.
    """
    version = version_of(connection)
    if version == SCHEMA_VERSION:
        return
    if version is None and inspect(connection).get_table_names():
        raise StoreError(f"{name} holds tables of something else; name a database that is empty")
    if version is None and not create:
        raise StoreError(f"there is no store at {name}")
    if version is None:
        Table.metadata.create_all(connection)
        _VERSION.create(connection)
        _stamp(connection, SCHEMA_VERSION)
        return
    if not FIRST_VERSION <= version < SCHEMA_VERSION:
        raise StoreError(foreign_version(name, version))
    _upgrade(connection, version)


def version_of(connection: Connection) -> int | None:
    """The version of the tables in a database; None where there are none.

    Raises:
        StoreError: they are something else's.
    """
    if inspect(connection).has_table(_VERSION.name):
        version = connection.scalar(_VERSION.select()) or "0"
        if not version.isdecimal():  # alembic serves others too
            raise StoreError("the database holds tables of something else; name one that is empty")
        return int(version)
    if connection.dialect.name == "sqlite":  # stores of version 2 and below said it so
        return connection.scalar(text("PRAGMA user_version")) or None
    return None


def foreign_version(name: str, version: int) -> str:
    """Why a database of another version is refused, and what to do."""
    newer = f"; install the facemargin that wrote it, or a later one, instead of version {SCHEMA_VERSION}'s"
    older = f" and brings up those from version {FIRST_VERSION} on"
    return (
        f"{name} has tables of version {version}; this facemargin works with version {SCHEMA_VERSION}"
        f"{newer if version > SCHEMA_VERSION else older}"
    )


def _upgrade(connection: Connection, version: int) -> None:
    from alembic import command
    from alembic.config import Config

    if not inspect(connection).has_table(_VERSION.name):
        _VERSION.create(connection)
        _stamp(connection, version)
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "service.store:migrations")
    command.upgrade(config, "head")
    _stamp(connection, SCHEMA_VERSION)


def _stamp(connection: Connection, version: int) -> None:
    connection.execute(_VERSION.delete())
    connection.execute(_VERSION.insert().values(version_num=f"{version:04}"))
    if connection.dialect.name == "sqlite":  # versions of facemargin that know nothing of the table refuse by this
        connection.execute(text(f"PRAGMA user_version={version}"))
