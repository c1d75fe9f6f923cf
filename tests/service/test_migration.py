"""Databases of earlier versions become the present one without losing anything, in SQLite and PostgreSQL alike."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import URL, Engine, create_engine, inspect, text

from service.errors import StoreError
from service.store import Location, Store
from service.store.audit import Erased, Event, append, check_log
from service.store.people import add_collection, add_person, collections
from service.store.sqlite import DATABASE
from service.store.tables import SCHEMA_VERSION, Table


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """Where a store can be made."""
    return tmp_path if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def engine_at(location: Location) -> Engine:
    if isinstance(location, URL):
        return create_engine(location.set(drivername="postgresql+psycopg"))
    return create_engine(f"sqlite:///{location / DATABASE}")


def migrated(location: Location, to: str) -> None:
    engine = engine_at(location)
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", "service.store:migrations")
        command.upgrade(config, to)
        if to == "0002" and connection.dialect.name == "sqlite":  # as version 2 left its databases
            connection.execute(text("DROP TABLE alembic_version"))
            connection.execute(text("PRAGMA user_version=2"))
    engine.dispose()


def described(location: Location) -> Any:
    """Everything that the database knows of its tables, indexes and triggers."""
    engine = engine_at(location)
    with engine.connect() as connection:
        seen = inspect(connection)
        tables = {
            name: (
                [{**column, "type": str(column["type"])} for column in seen.get_columns(name)],
                sorted(str(index) for index in seen.get_indexes(name)),
                sorted(str(key) for key in seen.get_foreign_keys(name)),
                sorted(str(one["column_names"]) for one in seen.get_unique_constraints(name)),
                seen.get_pk_constraint(name)["constrained_columns"],
            )
            for name in seen.get_table_names()
        }
        triggers = (
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
            if connection.dialect.name == "sqlite"
            else "SELECT tgname, pg_get_triggerdef(oid), (SELECT prosrc FROM pg_proc WHERE oid = tgfoid) "
            "FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname"
        )
        spaceless = [tuple(" ".join(str(part).split()) for part in row) for row in connection.execute(text(triggers))]
        options = (
            connection.execute(text("SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' ORDER BY relname"))
            if connection.dialect.name == "postgresql"
            else ()
        )
        stored = [(row[0], row[1]) for row in options if row[0] in tables]
    engine.dispose()
    return tables, spaceless, stored


def test_the_migrations_lead_to_the_tables_that_a_new_store_gets(location: Location, tmp_path: Path) -> None:
    Store(location).close()
    new = described(location)
    if isinstance(location, URL):
        engine = engine_at(location)
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        engine.dispose()
    else:
        (location / DATABASE).unlink()
    migrated(location, "head")
    assert described(location) == new
    assert not isinstance(location, URL) or dict(new[2])["people"]
    engine = engine_at(location)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    engine.dispose()


def test_a_store_of_version_2_is_brought_up_with_all_that_is_in_it(location: Location) -> None:
    with Store(location) as store:  # its rows, for a database of version 2
        store.unlock(None)
    engine = engine_at(location)
    with engine.begin() as connection:
        for table in ("changes", "replicas", "taken"):
            connection.execute(text(f"DROP TABLE {table}"))
        if connection.dialect.name == "sqlite":
            connection.execute(text("DROP TABLE alembic_version"))
            connection.execute(text("PRAGMA user_version=2"))
        else:
            connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
        connection.execute(
            text(
                "INSERT INTO collections (id, public_id, name, model, dim, keep_crops, sequence, created_at) "
                "VALUES (7, 'c_1', 'staff', 'm', 4, false, 3, '2026-01-02 03:04:05')"
            )
        )
    engine.dispose()
    with Store(location, create=False) as store:
        store.unlock(None)
        with store.read() as session:
            (row,) = collections(session)
            assert (row.id, row.name, row.sequence) == (7, "staff", 3)
            assert session.scalar(text("SELECT count(*) FROM changes")) == 0
        with store.write() as session:
            append(session, [Erased(Event.PERSON, "x")], actor="me")
        with store.read() as session:
            assert check_log(session).faults == ()


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION + 1, 99])
def test_a_store_of_a_version_that_cannot_be_brought_up_is_refused_and_left_alone(
    location: Location, version: int
) -> None:
    Store(location).close()
    engine = engine_at(location)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{version:04}'"))
    before = described(location)
    with pytest.raises(StoreError, match=f"version {version}; this facemargin works with version {SCHEMA_VERSION}"):
        Store(location)
    assert described(location) == before
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == f"{version:04}"
    engine.dispose()


def test_a_store_of_a_newer_version_says_what_to_install(location: Location) -> None:
    Store(location).close()
    engine = engine_at(location)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0099'"))
    engine.dispose()
    with pytest.raises(StoreError, match="install the facemargin that wrote it"):
        Store(location)


def test_a_database_of_something_else_is_refused(location: Location) -> None:
    engine = engine_at(location)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE invoices (id INTEGER)"))
    engine.dispose()
    with pytest.raises(StoreError, match="tables of something else"):
        Store(location)
    assert set(described(location)[0]) == {"invoices"}


def test_a_program_of_version_2_would_refuse_the_present_file(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_many_may_make_the_same_store_at_the_same_time(location: Location) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def opened(number: int) -> None:
        with Store(location) as store:
            store.unlock(None)
            with store.write() as session:
                gallery = add_collection(session, f"c{number}", model="m", dim=4)
                add_person(session, gallery, "Ada")

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(opened, range(6)))
    with Store(location) as store, store.read() as session:
        assert [row.name for row in collections(session)] == [f"c{number}" for number in range(6)]


def test_nothing_is_made_where_nothing_may_be(location: Location) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        Store(location, create=False)
    if isinstance(location, URL):
        assert described(location)[0] == {}
