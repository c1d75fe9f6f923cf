"""Backups: one file with a copy of the database at one moment, and a manifest that tells whether it is whole.

The file is a tar with two members: ``manifest.json`` and ``facemargin.sqlite3``, whatever kind of database the store
is in. SQLite makes the copy itself (``VACUUM INTO``); of PostgreSQL the rows are read in one transaction that sees one
state. Both are consistent while the service writes, and hold rows only, nothing that free pages and gaps in pages may
still hold. The master key is never in it.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from facemargin import __version__
from facemargin.flushing import flush, flush_path
from service.errors import StoreError, in_one_line
from service.store import ApiKeyRow, CollectionRow, FaceRow, Location, PersonRow, Store, TemplateRow
from service.store.audit import Record, check_log
from service.store.meta import needed_master_key
from service.store.migration import FIRST_VERSION
from service.store.sqlite import DATABASE
from service.store.tables import SCHEMA_VERSION, now

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_PACKED: Final = "backup.tar"
_MOST_MANIFEST_BYTES: Final = 1 << 16
_BLOCK: Final = 1 << 20
_COUNTED = {
    "collections": CollectionRow,
    "people": PersonRow,
    "faces": FaceRow,
    "templates": TemplateRow,
    "api_keys": ApiKeyRow,
}


class Manifest(BaseModel):
    """What a backup says of itself.

    Attributes:
        format: of the file.
        facemargin: version of the program that made it.
        schema_version: of the tables.
        created_at: when it was made.
        sha256: of the database, hexadecimal.
        bytes: length of the database.
        counts: rows by kind.
        audit_head: receipt of the last audit record; None while nothing was ever erased.
        master_key_id: of the key that opens it, hexadecimal; None where it is not encrypted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    facemargin: str
    schema_version: int
    created_at: datetime
    sha256: str
    bytes: int
    counts: dict[str, int]
    audit_head: str | None
    master_key_id: str | None

    @property
    def encrypted(self) -> bool:
        """Whether templates and crops in it are encrypted."""
        return self.master_key_id is not None


@dataclass(frozen=True)
class Content:
    """What is in a database, as it was found by looking."""

    counts: dict[str, int]
    head: Record | None
    master_key_id: str | None

    @property
    def audit_head(self) -> str | None:
        """Receipt of the last audit record."""
        return self.head.receipt if self.head is not None else None


def back_up(store: str | Location, output: Path) -> Manifest:
    """Write a backup of a store, also of one that is being served; it holds every write acknowledged before.

    Args:
        store: its location.
        output: the file to make; readable by its owner only.

    Raises:
        StoreError: there is no store, the file is there already, the disk is full, or the copy is not whole. Nothing is
            left behind; what a kill leaves, ``OUTPUT.part``, the next backup to this name removes.
    """
    if output.exists():
        raise StoreError(f"{output} is there already; name another file")
    if not output.absolute().parent.is_dir():
        raise StoreError(f"the folder {output.absolute().parent} does not exist")
    with failing_as(f"{output} cannot be written"), _private_folder(output) as work:
        copy, part = work / DATABASE, work / _PACKED
        _copy_database(store, copy)
        manifest = _described(copy)
        _pack(part, copy, manifest)
        copy.unlink()
        with opened_backup(part) as again:
            again.check()
        part.rename(output)
        flush_path(output.absolute().parent)
    return manifest


@dataclass(frozen=True)
class Backup:
    """A backup that is open for reading.

    Attributes:
        manifest: what it says of itself.
        name: of the file.
    """

    manifest: Manifest
    name: str
    _database: BinaryIO

    def check(self) -> None:
        """Read the database through.

        Raises:
            StoreError: it was changed.
        """
        self._pour(None)

    def extract(self, target: Path) -> None:
        """Write the database to a new file, readable by its owner only; it is on the disk when this returns.

        Raises:
            StoreError: it was changed.
        """
        with os.fdopen(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            self._pour(file)
            flush(file)

    def _pour(self, file: BinaryIO | None) -> None:
        digest, length = hashlib.sha256(), 0
        self._database.seek(0)
        while block := self._read():
            digest.update(block)
            length += len(block)
            if file is not None:
                file.write(block)
        if (digest.hexdigest(), length) != (self.manifest.sha256, self.manifest.bytes):
            raise StoreError(f"the backup {self.name} was changed or is torn: its database is not the one it names")

    def _read(self) -> bytes:
        with _reading(self.name):
            return self._database.read(_BLOCK)


@contextlib.contextmanager
def opened_backup(path: Path) -> Iterator[Backup]:
    """A backup to read from.

    Raises:
        StoreError: it cannot be read, is no backup, or is of another version.
    """
    with contextlib.ExitStack() as opened:
        with _reading(str(path)):
            backup = _found_in(opened.enter_context(tarfile.open(path, "r:")), path)
        yield backup


def _found_in(archive: tarfile.TarFile, path: Path) -> Backup:
    members = archive.getmembers()
    if [(member.name, member.isreg()) for member in members] != [(MANIFEST, True), (DATABASE, True)]:
        raise StoreError(f"{path} is no backup: it must hold {MANIFEST} and {DATABASE}")
    described, database = (archive.extractfile(member) for member in members)
    if described is None or database is None:
        raise StoreError(f"{path} is no backup")
    manifest = _manifest(described.read(_MOST_MANIFEST_BYTES), path)
    return Backup(manifest, str(path), database)  # type: ignore[arg-type]


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what the backup itself refuses into an error that names it."""
    try:
        yield
    except tarfile.TarError as error:
        raise StoreError(f"{name} is no backup, or is torn: {error}") from error
    except OSError as error:
        raise StoreError(f"the backup {name} cannot be read: {error}") from error


def examined(session: Session) -> Content:
    """Look through a whole database.

    Raises:
        StoreError: a page is damaged, a row refers to none, or the audit log is broken.
    """
    connection = session.connection()
    found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
    if found != ["ok"]:
        raise StoreError(f"the database is damaged: {found[0]}")
    if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
        raise StoreError("the database is damaged: a row refers to one that is not there")
    verdict = check_log(session)
    if verdict.faults:
        raise StoreError(f"the audit log is broken: {verdict.faults[0]}")
    key = needed_master_key(session)
    counts = {name: session.scalar(select(func.count()).select_from(table)) or 0 for name, table in _COUNTED.items()}
    return Content(counts, verdict.head, key.hex() if key is not None else None)


def agree(manifest: Manifest, content: Content) -> None:
    """Pass if a database is what the manifest says.

    Raises:
        StoreError: it is not.
    """
    said = (manifest.counts, manifest.audit_head, manifest.master_key_id)
    if said != (content.counts, content.audit_head, content.master_key_id):
        raise StoreError("the backup's manifest and its database do not agree: one of them was changed")


def _copy_database(store: str | Location, copy: Path) -> None:
    with Store(store, create=False) as opened:
        opened.copy_to(copy)
    copy.chmod(0o600)
    with copy.open("rb+") as file:
        flush(file)


def _described(database: Path) -> Manifest:
    with database.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    content = _content_of(database)
    return Manifest(
        format=FORMAT,
        facemargin=__version__,
        schema_version=SCHEMA_VERSION,
        created_at=now(),
        sha256=digest,
        bytes=database.stat().st_size,
        counts=content.counts,
        audit_head=content.audit_head,
        master_key_id=content.master_key_id,
    )


def _content_of(database: Path) -> Content:
    """Look into the copy without changing a byte of it: it is opened read-only, not as a store."""
    engine = create_engine(f"sqlite+pysqlite:///file:{database}?mode=ro&immutable=1&uri=true")
    try:
        with Session(engine) as session:
            return examined(session)
    finally:
        engine.dispose()


def _pack(part: Path, database: Path, manifest: Manifest) -> None:
    text = manifest.model_dump_json(indent=2).encode()
    with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive, database.open("rb") as content:
            archive.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))
            archive.addfile(_member(DATABASE, manifest.bytes), content)
        flush(file)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(now().timestamp())
    return member


def _manifest(text: bytes, path: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise StoreError(f"{path}: {MANIFEST} is wrong: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if manifest.format != FORMAT or not FIRST_VERSION <= manifest.schema_version <= SCHEMA_VERSION:
        raise StoreError(
            f"{path} has format {manifest.format} and tables of version {manifest.schema_version}; "
            f"this facemargin restores format {FORMAT} with versions {FIRST_VERSION} to {SCHEMA_VERSION}"
        )
    return manifest


@contextlib.contextmanager
def _private_folder(output: Path) -> Iterator[Path]:
    """The folder ``OUTPUT.part`` for half-made files, gone at the end; empty at first, whatever was killed before."""
    folder = output.absolute().with_name(f"{output.name}.part")
    folder.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as ended:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        ended.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"another backup is being written to {output}") from None
        _empty(folder)
        ended.callback(shutil.rmtree, folder)
        yield folder


def _empty(folder: Path) -> None:
    """Remove what a backup that was killed left, and nothing else."""
    left = list(folder.iterdir())
    if strange := [path.name for path in left if not path.name.startswith((DATABASE, _PACKED))]:
        raise StoreError(f"{folder} is no remnant of a backup: it holds {strange[0]}; name another output")
    for path in left:
        path.unlink()


@contextlib.contextmanager
def failing_as(what: str) -> Iterator[None]:
    """Turn what the disk or the database refuses into one error that begins with ``what``."""
    try:
        yield
    except DBAPIError as error:
        raise StoreError(f"{what}: {in_one_line(error)}") from error
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{what}: {error}") from error
