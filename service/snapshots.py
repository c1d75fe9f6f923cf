"""Snapshots of the indexes: files that hold what an index is loaded from, so that a start need not read every row.

Owns the files; when they are written is decided by `service.housekeeping`, what is in them by `service.gallery`. A file
is a header and chunks of ids, people and float32 vectors, each chunk AES-256-GCM under a key of its own file that lies
in the database (`service.store.snapshot_keys`), bound to the header and its place. So a torn, edited, exchanged or
foreign file does not open, also where the store itself is not encrypted. Compressed codes are never written.
"""

import hashlib
import logging
import os
import re
import struct
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from sqlalchemy.orm import Session

from facemargin.flushing import flush, flush_path
from service.entries import Block
from service.errors import StoreError
from service.store import Store
from service.store.snapshot_keys import (
    collections_with_snapshot_key,
    drop_snapshot_key,
    find_snapshot_key,
    keep_snapshot_key,
    new_snapshot_key,
)
from service.store.tables import SCHEMA_VERSION
from service.store.vault import seal, unseal

log = logging.getLogger("facemargin.service")

ROWS: Final = 8192
"""Vectors in a chunk: 16 MiB at 512 dimensions, which is what reading and writing need of memory."""

SNAPSHOTS: Final = "snapshots"
"""Name of their folder, beside the database."""

_MAGIC: Final = b"fmsnap1\n"
_HEADER: Final = struct.Struct("<8sIIqqq32s")
_SEALING: Final = 28  # nonce and tag
_FLUSH_EVERY: Final = 4  # chunks: one flush of gigabytes would hold up the commits of others
_NAME: Final = re.compile(r"(\d+)\.(snapshot|part)")


class SnapshotError(StoreError):
    """A snapshot that cannot be used; it is thrown away."""


@dataclass(frozen=True)
class Label:
    """What a snapshot is of.

    Attributes:
        collection: row number.
        model: id of the model of the vectors.
        templates: ``best`` or ``mean``.
        dim: length of a vector.
        sequence: the collection's, when the ids were listed.
        count: number of entries.
    """

    collection: int
    model: str
    templates: str
    dim: int
    sequence: int
    count: int

    def packed(self, rows: int) -> bytes:
        """The header of the file."""
        kind = hashlib.sha256(f"{SCHEMA_VERSION} {self.templates} {self.model}".encode()).digest()
        return _HEADER.pack(_MAGIC, rows, self.dim, self.collection, self.sequence, self.count, kind)


class Snapshots:
    """The snapshot files of one store.

    Args:
        folder: where they are; made with the first one.
        rows: vectors in a chunk.
    """

    def __init__(self, folder: Path, *, rows: int = ROWS) -> None:
        self._folder = folder
        self._rows = rows
        self._withdrawn: dict[int, int] = {}
        self._counting = threading.Lock()
        self._closed = threading.Event()

    def withdraw(self, session: Session, collections: Collection[int]) -> None:
        """Make the snapshots of collections useless, in the transaction that takes something out of them."""
        for number in collections:
            drop_snapshot_key(session, number)
        self._give_up(collections)  # before the commit, so that a snapshot being written cannot slip through after it

    def forget(self, collections: Collection[int]) -> None:
        """Give up and delete what an index held before a change was taken over; it may have been begun since."""
        self._give_up(collections)
        self.remove(collections)

    def times_withdrawn(self, collection: int) -> int:
        """How often the snapshots of a collection were made useless; to be asked before its entries are listed."""
        return self._withdrawn.get(collection, 0)

    def remove(self, collections: Iterable[int]) -> None:
        """Delete the files of collections, finished or not; what cannot be deleted now is by a later `sweep`."""
        for number in collections:
            try:
                for path in (self._path(number), self._part(number)):
                    path.unlink(missing_ok=True)
            except OSError as error:
                log.error("the snapshot of collection %d cannot be deleted yet: %s", number, error)

    def sweep(self, session: Session) -> None:
        """Delete every file that no key opens, and what was left half-written; not while one is written.

        Raises:
            OSError: a file cannot be deleted.
        """
        usable = collections_with_snapshot_key(session)
        for path in self._files():
            found = _NAME.fullmatch(path.name)
            if found and (found[2] == "part" or int(found[1]) not in usable):
                path.unlink(missing_ok=True)

    def write(self, store: Store, label: Label, blocks: Callable[[int], Iterable[Block]], times: int) -> bool:
        """Write a snapshot in place of the one before, unless something is taken out of the collection meanwhile.

        No lock is held while bytes go to the disk; only the last step, a rename, is in a transaction.

        Args:
            store: where the key goes.
            label: what it is of.
            blocks: gives the entries in blocks of so many rows (the last may be shorter).
            times: `times_withdrawn` of the collection when the entries were listed.

        Returns:
            whether it was written.

        Raises:
            OSError: the disk is full or gone.
        """
        number, key = label.collection, new_snapshot_key()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        part = self._part(number)
        try:
            with _private(part) as file:
                header = label.packed(self._rows)
                file.write(header)
                for place, block in enumerate(blocks(self._rows)):
                    if self._closed.is_set() or self.times_withdrawn(number) != times:
                        return False
                    file.write(seal(key, _bytes_of(block), _context(header, place)))
                    if place % _FLUSH_EVERY == 0:
                        flush(file)
                flush(file)
            with store.write() as session, self._counting:  # so that no deletion, and no `forget`, comes in between
                if self.times_withdrawn(number) != times:
                    return False
                keep_snapshot_key(session, number, key)
                part.rename(self._path(number))
                flush_path(self._folder)
            return True
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def read(self, session: Session, wanted: Label) -> tuple[Label, Generator[Block]] | None:
        """The label and the entries of a collection's snapshot; None where there is none.

        Args:
            session: of the store.
            wanted: what it must be of; its sequence and count do not matter.

        Raises:
            SnapshotError: it cannot be used. Iterating raises it too.
        """
        path, key = self._path(wanted.collection), find_snapshot_key(session, wanted.collection)
        if not path.is_file():
            return None
        if key is None:
            raise SnapshotError(f"{path.name}: the store has no key for it")
        try:
            file = path.open("rb")
        except OSError as error:
            raise SnapshotError(f"{path.name}: {error}") from error
        try:
            label, rows = _checked(file, wanted, path)
        except BaseException:
            file.close()
            raise
        return label, _blocks(file, label, rows, key)

    def has(self, collection: int) -> bool:
        """Whether there is a finished file of a collection."""
        return self._path(collection).is_file()

    def oldest_seconds(self) -> float | None:
        """Age of the oldest finished file; None where there is none."""
        written = []
        for path in self._files():
            with suppress(FileNotFoundError):  # it was removed since it was listed
                written += [path.stat().st_mtime] if path.suffix == ".snapshot" else []
        return max(0.0, time.time() - min(written)) if written else None

    def close(self) -> None:
        """Write no more; what is being written is given up within one chunk."""
        self._closed.set()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.snapshot"

    def _part(self, number: int) -> Path:
        return self._folder / f"{number}.part"

    def _files(self) -> list[Path]:
        return sorted(self._folder.iterdir()) if self._folder.is_dir() else []

    def _give_up(self, collections: Iterable[int]) -> None:
        with self._counting:
            for number in collections:
                self._withdrawn[number] = self.times_withdrawn(number) + 1


def _checked(file: BinaryIO, wanted: Label, path: Path) -> tuple[Label, int]:
    """The label in a file, and the rows of its chunks, if it is of what is wanted and of the right length."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise SnapshotError(f"{path.name}: it ends within its header")
    _, rows, _, _, sequence, count, _ = _HEADER.unpack(header)
    label = Label(wanted.collection, wanted.model, wanted.templates, wanted.dim, sequence, count)
    if header != label.packed(rows):
        raise SnapshotError(f"{path.name}: it is of another collection, model, kind of templates or version")
    chunks = -(-count // rows) if rows else -1
    size = _HEADER.size + chunks * _SEALING + count * _row_bytes(label)
    if chunks < 1 or os.fstat(file.fileno()).st_size != size:
        raise SnapshotError(f"{path.name}: it does not have the length that its header says")
    return label, rows


def _blocks(file: BinaryIO, label: Label, rows: int, key: bytes) -> Generator[Block]:
    header = label.packed(rows)
    with file:
        for place, start in enumerate(range(0, label.count, rows)):
            count = min(rows, label.count - start)
            sealed = file.read(_SEALING + count * _row_bytes(label))
            try:
                data = unseal(key, sealed, _context(header, place))
            except StoreError as error:
                raise SnapshotError(f"{label.collection}.snapshot: chunk {place} was changed") from error
            yield _block_of(data, count, label.dim)


def _row_bytes(label: Label) -> int:
    return 16 + 4 * label.dim


def _context(header: bytes, place: int) -> str:
    return f"snapshot {hashlib.sha256(header).hexdigest()} {place}"


def _bytes_of(block: Block) -> bytes:
    parts = block.ids.astype("<i8"), block.people.astype("<i8"), block.vectors.astype("<f4")
    return b"".join(part.tobytes() for part in parts)


def _block_of(data: bytes, count: int, dim: int) -> Block:
    ids, people = np.frombuffer(data, "<i8", 2 * count).reshape(2, count)
    vectors = np.frombuffer(data, "<f4", count * dim, offset=16 * count).reshape(count, dim)
    return Block(ids, people, vectors)


def _private(path: Path) -> BinaryIO:
    """A new file for its owner only."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb")
