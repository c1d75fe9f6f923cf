"""What a bulk enrolment has done, on the disk: one JSON line a picture, each flushed before the next counts.

A run that was killed goes on from here. The first line says which collection of which service the journal is about; a
line that a crash tore off is cut away, and any other damage is an error.
"""

import errno
import fcntl
import json
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from facemargin.errors import DataError

_VERSION = 1


class Journal:
    """The record of one source, one collection. One run holds it at a time.

    Args:
        path: the file; made, readable by its owner only, if it is missing.
        target: what it is about (service, collection, when that was made), as JSON values.

    Raises:
        DataError: it is about something else, damaged, or held by another run.
    """

    def __init__(self, path: Path, target: dict[str, str]) -> None:
        self.path = path
        self._done: set[tuple[str, str]] = set()
        self._writing = threading.Lock()
        try:
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b", buffering=0)
        except OSError as error:
            raise self._no_place(error) from error
        try:
            self._take()
            self._read(target)
        except OSError as error:
            self._file.close()
            raise self._no_place(error) from error
        except DataError:
            self._file.close()
            raise

    def _no_place(self, error: OSError) -> DataError:
        said = error.strerror or str(error)
        return DataError(f"the journal {self.path} cannot be written: {said}; choose another by --journal")

    def _take(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"the journal {self.path} is in use by another run of the command") from error

    def _read(self, target: dict[str, str]) -> None:
        content = self._file.read()
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            self._file.truncate(len(content) - len(torn))
        records = [self._parsed(number, line) for number, line in enumerate(whole.splitlines(), 1)]
        if not records:
            self._append({"version": _VERSION, **target})
            return
        if records[0] != {"version": _VERSION, **target}:
            raise DataError(
                f"the journal {self.path} is about another service or collection, or one of that name that was made at "
                "another time; name another file by --journal, or delete it"
            )
        self._done = {self._key(number, record) for number, record in enumerate(records[1:], 2)}

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise self._damaged(number)
        return record

    def _key(self, number: int, record: dict[str, Any]) -> tuple[str, str]:
        try:
            return record["person"], record["sha256"]
        except KeyError:
            raise self._damaged(number) from None

    def _damaged(self, number: int) -> DataError:
        return DataError(f"the journal {self.path} is damaged in line {number}; mend it, or delete the file")

    def done(self, person: str, sha256: str) -> bool:
        """Whether this picture of this person (`Someone.identity`) is enrolled."""
        return (person, sha256) in self._done

    def add(self, *, person: str, sha256: str, image: str, person_id: str, face: str) -> None:
        """Record that a picture is enrolled; when this returns, it is on the disk.

        Raises:
            OSError: the disk is full or gone; the journal is as before.
        """
        record = {"person": person, "sha256": sha256, "image": image, "person_id": person_id, "face": face}
        with self._writing:
            self._append(record)
            self._done.add((person, sha256))

    def _append(self, record: dict[str, Any]) -> None:
        """Write a line as a whole, or not at all."""
        line, size = json.dumps(record).encode() + b"\n", os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(size)
            raise

    def close(self) -> None:
        """Let other runs have it."""
        self._file.close()

    def __enter__(self) -> Self:
        """The journal, closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
