"""Names that one at a time may hold, among all services and commands of a store."""

import fcntl
import hashlib
import os
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from sqlalchemy import Connection, text

from service.store.database import Store

_KIND: Final = 7_020_651
"""First number of the advisory locks; the second is of the name."""


class Locks(Protocol):
    """Who holds a name has it until it is given back, or its process ends."""

    def acquire(self, name: str) -> bool:
        """Take a name if nobody has it; whether it was free."""
        ...

    def release(self, name: str) -> None:
        """Give back a name that is held here."""
        ...


def locks_of(store: Store) -> Locks:
    """The names of a store, in its folder or its database."""
    return SharedLocks(store) if store.folder is None else FolderLocks(store.folder)


class FolderLocks:
    """Locked files in the folder of an SQLite store; see `Locks`.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, BinaryIO] = {}

    def acquire(self, name: str) -> bool:
        """Take a name if nobody has it; whether it was free."""
        path = self._path(name)
        file = path.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                raise FileNotFoundError  # whoever had it before has removed it since it was opened
        except (BlockingIOError, FileNotFoundError):
            file.close()
            return False
        self._held[name] = file
        return True

    def release(self, name: str) -> None:
        """Give back a name."""
        self._path(name).unlink(missing_ok=True)
        self._held.pop(name).close()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"


class SharedLocks:
    """Advisory locks of PostgreSQL, each on a connection of its own; see `Locks`.

    Args:
        store: on PostgreSQL.
    """

    def __init__(self, store: Store) -> None:
        self._engine = store.engine.execution_options(takes_turns=False, isolation_level="AUTOCOMMIT")
        self._held: dict[str, Connection] = {}

    def acquire(self, name: str) -> bool:
        """Take a name if nobody has it; whether it was free."""
        connection = self._engine.connect()
        numbers = {"kind": _KIND, "name": _number(name)}
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:kind, :name)"), numbers):
            connection.close()
            return False
        self._held[name] = connection
        return True

    def release(self, name: str) -> None:
        """Give back a name, with its connection, which also frees it where the server does not answer."""
        connection = self._held.pop(name)
        connection.invalidate()
        connection.close()


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big", signed=True)
