"""The erasure ledger: on the disk before it counts, and never over a file of somebody else."""

import os
from pathlib import Path
from typing import Any

import pytest

from service.errors import StoreError
from service.ledger import Ledger, export_ledger, read_ledger
from service.store import Location, Store
from service.store.audit import Erased, Event, append

pytestmark = pytest.mark.both_databases

RECORD = b'{"seq":1,"at":"2026-01-31T09:30:00.000Z"'


@pytest.fixture
def store(location: Location) -> Any:
    with Store(location) as opened:
        opened.unlock(None)
        yield opened


def erase(store: Store, times: int = 1) -> None:
    with store.write() as session:
        append(session, [Erased(Event.PERSON, "c", "p")] * times, actor="test")


@pytest.mark.sqlite
@pytest.mark.parametrize("records", [0, 2])
@pytest.mark.parametrize(
    "content",
    [
        b'{"the only copy": "of something"}',
        b"no newline at its end",
        b'line\n{"seq":1',
        b"\n",
        b'{"a": 1}\n',
        RECORD + b" " * (1 << 17),
        b"x" * (1 << 17) + b"\n" + RECORD,
    ],
    ids=["json", "text", "lines", "empty line", "json lines", "long", "long line"],
)
def test_a_file_that_is_no_ledger_is_refused_and_stays_as_it_is(
    store: Store, tmp_path: Path, content: bytes, records: int
) -> None:
    erase(store, records)
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(StoreError, match=r"no erasure ledger|is no record"):
        Ledger(tmp_path / "mine").follow(store)
    assert (tmp_path / "mine").read_bytes() == content


def test_the_ledger_of_another_store_keeps_its_torn_end(store: Store, tmp_path: Path, make_location: Any) -> None:
    erase(store, 2)
    export_ledger(store, tmp_path / "ledger")
    torn = (tmp_path / "ledger").read_bytes()[:-5]
    (tmp_path / "ledger").write_bytes(torn)
    with Store(make_location("other")) as other:
        other.unlock(None)
        with pytest.raises(StoreError, match="does not belong"):
            Ledger(tmp_path / "ledger").follow(other)
    assert (tmp_path / "ledger").read_bytes() == torn


def test_a_torn_end_is_cut_though_nothing_is_to_be_added(store: Store, tmp_path: Path) -> None:
    erase(store)
    export_ledger(store, tmp_path / "ledger")
    whole = (tmp_path / "ledger").read_bytes()
    (tmp_path / "ledger").write_bytes(whole + RECORD)
    Ledger(tmp_path / "ledger").follow(store)
    assert (tmp_path / "ledger").read_bytes() == whole
    assert len(read_ledger(tmp_path / "ledger")) == 1


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int]]:
    """What was flushed to the disk, and how many bytes it had."""
    found: list[tuple[Path, int]] = []
    flush = os.fsync

    def note(number: int) -> None:
        found.append((Path(f"/proc/self/fd/{number}").readlink(), os.fstat(number).st_size))
        flush(number)

    monkeypatch.setattr("os.fsync", note)
    return found


def test_what_was_written_is_on_the_disk(store: Store, tmp_path: Path, flushed: list[tuple[Path, int]]) -> None:
    (tmp_path / "disk").mkdir()
    path = tmp_path / "disk" / "ledger"
    ledger = Ledger(path)
    erase(store)
    ledger.follow(store)
    assert (path, path.stat().st_size) in flushed
    assert path.parent in [flushed_path for flushed_path, _ in flushed], "the name of a new file is not on the disk"
    flushed.clear()
    erase(store)
    ledger.follow(store)
    assert flushed == [(path, path.stat().st_size)]
    flushed.clear()
    export_ledger(store, tmp_path / "disk" / "export")
    assert [flushed_path.name for flushed_path, _ in flushed] == [".export.part", "disk"]
