"""The erasure ledger: a copy of the audit log in a file of its own, so that a restored backup stays without the erased.

One JSON object per line, a record each, in the order of the log. It names nobody: what is in it are pseudonyms that
only the store's secret can tell. Kept on another disk than the store, it knows every erasure when the store is lost.
"""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from sqlalchemy.exc import SQLAlchemyError

from facemargin.flushing import flush, flush_path
from service.errors import StoreError
from service.store import Store
from service.store.audit import Record, check_chain, records

log = logging.getLogger("facemargin.service")

_LONGEST_END: Final = 1 << 16
"""More bytes than a record and a torn one have."""

_BEGINNING: Final = b'{"seq":'
"""How every record begins."""


class Ledger:
    """The ledger that a service keeps.

    Args:
        path: the file; made if it is missing.

    Attributes:
        behind: whether it could not take what is in the log.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.behind = False

    def follow(self, store: Store) -> None:
        """Append the records that the file lacks; they are on the disk when this returns.

        Raises:
            StoreError: the file cannot be written, or is not of this store's log.
        """
        self.behind = True
        try:
            with os.fdopen(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600), "r+b") as file:
                self._append(store, file)
        except OSError as error:
            raise StoreError(f"the erasure ledger {self._path} cannot be written: {error.strerror}") from error
        self.behind = False

    def keep_up(self, store: Store) -> None:
        """`follow`, where a write is done and must be answered: what fails is logged, and tried again by others."""
        try:
            self.follow(store)
        except (StoreError, SQLAlchemyError):
            log.exception("an erasure is not in the ledger yet")

    def _append(self, store: Store, file: BinaryIO) -> None:
        last, end = _last_record(file, self._path)
        after = last.seq if last is not None else 0
        with store.read() as session:
            if last is not None and next(records(session, after=after - 1), None) != last:
                raise StoreError(
                    f"the erasure ledger {self._path} does not belong to the audit log of this store; "
                    "name another file to begin a new one"
                )
            new = list(records(session, after=after))
        if end == 0:
            flush_path(self._path.absolute().parent)  # it may have been made just now
        file.truncate(end)  # only now is it known to be this store's ledger
        file.seek(end)
        file.write(as_lines(new))
        flush(file)


def as_lines(log: Iterable[Record]) -> bytes:
    """Records as the lines of a ledger."""
    return b"".join(json.dumps(record.as_json(), separators=(",", ":")).encode() + b"\n" for record in log)


def read_ledger(path: Path) -> Sequence[Record]:
    """The records of a ledger; a last line that is not whole was never acknowledged and is left out.

    Raises:
        StoreError: it cannot be read, is none, or was changed.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise StoreError(f"the erasure ledger {path} cannot be read: {error.strerror}") from error
    log = [_record(line, path) for line in lines]
    if faults := check_chain(log).faults:
        raise StoreError(f"the erasure ledger {path} was changed: {faults[0]}")
    return log


def export_ledger(store: Store, output: Path) -> int:
    """Write the whole log to a new file; the number of records.

    Raises:
        StoreError: the file is there already, or cannot be written; nothing is left of it then.
    """
    part = output.with_name(f".{output.name}.part")
    try:
        with store.read() as session:
            log = list(records(session))
        with os.fdopen(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            file.write(as_lines(log))
            flush(file)
        if output.exists():
            raise StoreError(f"{output} is there already; name another file")
        part.rename(output)
        flush_path(output.absolute().parent)
    except OSError as error:
        raise StoreError(f"the ledger {output} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return len(log)


def _last_record(file: BinaryIO, path: Path) -> tuple[Record | None, int]:
    """The last whole line, and where it ends; what is after it must be the beginning of a record.

    Raises:
        StoreError: the file is no ledger; it is as it was.
    """
    length = file.seek(0, os.SEEK_END)
    start = max(0, length - _LONGEST_END)
    file.seek(start)
    end = file.read()
    whole = end.rfind(b"\n") + 1
    last = _record(end[: whole - 1].rpartition(b"\n")[2], path) if whole else None
    torn = end[whole:]
    if (start and not whole) or not (torn.startswith(_BEGINNING) or _BEGINNING.startswith(torn)):
        raise StoreError(f"{path} is no erasure ledger: it ends with something else than a record; it was not changed")
    return last, start + whole


def _record(line: bytes, path: Path) -> Record:
    try:
        return Record.from_json(json.loads(line))
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"the erasure ledger {path} holds a line that is no record: {error}") from error
