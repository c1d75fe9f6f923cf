"""Encryption turned on, off and over to another key: nothing lost, nothing of before left, killed or not."""

import base64
import contextlib
import errno
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facemargin.errors import ConfigError
from service.errors import StoreError
from service.store import FaceRow, Location, PersonRow, Store
from service.store.encryption import change_encryption, describe
from service.store.faces import NewFace, add_face, stored_crop, templates_of_collection
from service.store.people import add_collection, add_person, collection
from service.store.snapshot_keys import collections_with_snapshot_key, keep_snapshot_key
from service.store.sqlite import DATABASE
from service.store.vault import master_key_id, read_master_key
from service.store_commands import backup, disable, enable, new_key, rotate, status

from .raw_store import as_option, held_in

ONE, TWO = bytes(range(32)), bytes(range(32, 64))
pytestmark = pytest.mark.both_databases

CROP = b"\x89PNG as good as" + bytes(range(200))


def made(folder: Location, master: bytes | None, vector: Callable[[int], Any], people: int = 30) -> None:
    with Store(folder) as store:
        store.unlock(master)
        with store.write() as session:
            gallery = add_collection(session, "staff", model="m", dim=32, keep_crops=True)
            for number in range(people):
                person = add_person(session, gallery, f"person {number}")
                add_face(session, gallery, person, NewFace(vector(number), "aligned", None, CROP, "arcface-112"))


def content(folder: Location, master: bytes | None) -> list[bytes]:
    """Every template and crop, opened."""
    with Store(folder, create=False) as store:
        store.unlock(master)
        with store.read() as session:
            gallery = collection(session, "staff")
            templates = [template.vector.tobytes() for template in templates_of_collection(session, gallery)]
            for person in session.query(PersonRow).all():
                for face in session.query(FaceRow).filter_by(person_id=person.id):
                    crop = stored_crop(session, gallery, person, face)
                    assert crop is not None
                    templates.append(crop)
    return templates


def changed(folder: Location, before: bytes | None, after: bytes | None) -> int:
    with Store(folder, create=False) as store:
        store.claim(alone=True)
        store.unlock(before)
        return change_encryption(store, after)


def test_enable_rotate_and_disable_lose_nothing_and_leave_nothing(location: Location, vector: Any) -> None:
    made(location, None, vector)
    before = content(location, None)
    assert vector(3).tobytes() in held_in(location)
    assert changed(location, None, ONE) == 30
    assert content(location, ONE) == before
    held = held_in(location)
    for number in range(30):
        data = vector(number).astype("<f4").tobytes()
        assert not any(data[start : start + 16] in held for start in range(0, len(data) - 15, 4))
    assert CROP not in held
    with Store(location, create=False) as store, store.read() as session:
        old_keys = [person.wrapped_key for person in session.query(PersonRow)]
    assert changed(location, ONE, TWO) == 30
    assert content(location, TWO) == before
    held = held_in(location)
    assert not any(key in held for key in old_keys if key)
    with pytest.raises(StoreError, match="another master key"):
        content(location, ONE)
    assert changed(location, TWO, None) == 30
    assert content(location, None) == before


REMNANT = b"a row that was here before"


def leave_remnant(folder: Path) -> None:
    """What SQLite may leave of a row in a page that it gave up."""
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as connection:
        connection.execute("PRAGMA secure_delete=OFF")
        with connection:
            connection.execute("INSERT INTO meta (name, value) VALUES ('x', ?)", (REMNANT * 100,))
        with connection:
            connection.execute("DELETE FROM meta WHERE name = 'x'")


@pytest.mark.sqlite
@pytest.mark.parametrize(("before", "after"), [(None, ONE), (ONE, TWO), (ONE, None)])
def test_nothing_that_was_ever_in_the_file_is_left_when_it_returns(
    tmp_path: Path, vector: Any, before: bytes | None, after: bytes | None
) -> None:
    made(tmp_path, before, vector, people=3)
    leave_remnant(tmp_path)
    assert REMNANT in held_in(tmp_path)
    with Store(tmp_path, create=False) as store:
        store.unlock(before)
        change_encryption(store, after)
        assert REMNANT not in held_in(tmp_path)  # of the log, too, while the store is open
        assert (tmp_path / f"{DATABASE}-wal").stat().st_size == 0
        with store.read() as session:
            assert describe(session)["compaction_due"] is False


def test_keys_of_snapshots_of_before_are_destroyed(location: Location, vector: Any) -> None:
    made(location, ONE, vector, people=1)
    with Store(location, create=False) as store:
        store.unlock(ONE)
        with store.write() as session:
            keep_snapshot_key(session, 1, TWO)
        change_encryption(store, TWO)
        with store.read() as session:
            assert collections_with_snapshot_key(session) == set()


@contextlib.contextmanager
def reader(folder: Path) -> Iterator[None]:
    """Somebody who sees the store as it is now, until the block ends."""
    with contextlib.closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM meta").fetchall()
        yield


@pytest.mark.sqlite
def test_a_reader_of_before_is_noticed_before_anything_is_changed(tmp_path: Path, vector: Any) -> None:
    made(tmp_path, ONE, vector)
    before = content(tmp_path, ONE)
    with reader(tmp_path), pytest.raises(StoreError, match="nothing was changed"):
        changed(tmp_path, ONE, TWO)
    assert content(tmp_path, ONE) == before
    with Store(tmp_path, create=False) as store, store.read() as session:
        assert describe(session)["compaction_due"] is False


@pytest.mark.sqlite
@pytest.mark.parametrize(("old", "new"), [(None, ONE), (ONE, TWO), (ONE, None)])
def test_a_reader_who_comes_in_between_leaves_a_store_that_says_which_key_it_needs(
    tmp_path: Path, vector: Any, old: bytes | None, new: bytes | None
) -> None:
    made(tmp_path, old, vector)
    leave_remnant(tmp_path)
    before = content(tmp_path, old)
    needed = "no master key" if new is None else "the NEW master key"
    with contextlib.ExitStack() as reading:
        come = [lambda: reading.enter_context(reader(tmp_path))]
        with Store(tmp_path, create=False) as store:
            store.unlock(old)
            with pytest.raises(StoreError, match=rf"now needs {needed}.*run the same command again"):
                change_encryption(store, new, lambda done, total: come.pop()() if come else None)
            with store.read() as session:
                assert describe(session)["compaction_due"] is True
    assert content(tmp_path, new) == before
    assert changed(tmp_path, new, new) == 30
    assert REMNANT not in held_in(tmp_path)
    assert content(tmp_path, new) == before


@pytest.mark.sqlite
def test_a_reader_who_comes_later_than_the_rewriting_is_told_of_too(tmp_path: Path, vector: Any) -> None:
    made(tmp_path, ONE, vector)
    with contextlib.ExitStack() as reading, Store(tmp_path, create=False) as store:
        store.unlock(ONE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "compact", noticed(Store.compact, lambda: reading.enter_context(reader(tmp_path))))
            with pytest.raises(StoreError, match="now needs the NEW master key"):
                change_encryption(store, TWO)


def noticed(work: Callable[[Store], None], first: Callable[[], None]) -> Callable[[Store], None]:
    def both(store: Store) -> None:
        first()
        work(store)

    return both


_KILLED_BEFORE_CLEANING = """
import os, signal, sys
from pathlib import Path
from service.store import Store
from service.store.encryption import change_encryption
Store.compact = lambda store: os.kill(os.getpid(), signal.SIGKILL)
with Store(Path(sys.argv[1]), create=False) as store:
    store.unlock(None)
    change_encryption(store, bytes.fromhex(sys.argv[2]))
"""


@pytest.mark.sqlite
@pytest.mark.parametrize("read", [False, True])
def test_a_service_ends_what_was_killed_before_the_clean_up(
    tmp_path: Path, make_api: Any, vector: Any, caplog: Any, read: bool
) -> None:
    folder = tmp_path / "store"
    made(folder, None, vector, people=3)
    leave_remnant(folder)
    done = subprocess.run(
        [sys.executable, "-c", _KILLED_BEFORE_CLEANING, str(folder), ONE.hex()], check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert REMNANT in held_in(folder)
    status(folder)
    key = {"master_key": base64.b64encode(ONE).decode(), "housekeeping_seconds": 30}
    with reader(folder) if read else contextlib.nullcontext():
        api = make_api(**key)
        api.close()
        api.service.close()
        assert (REMNANT in held_in(folder)) == read
    assert ("still holds rows of before" in caplog.text) == read
    make_api(**key)
    assert REMNANT not in held_in(folder)
    with Store(folder, create=False) as store, store.read() as session:
        assert describe(session)["compaction_due"] is False


def test_pseudonyms_stay_the_same(location: Location, vector: Any) -> None:
    made(location, None, vector, people=1)
    names = []
    for before, after in ((None, ONE), (ONE, TWO), (TWO, None)):
        with Store(location, create=False) as store:
            store.unlock(before)
            names.append(store.vault.pseudonym("person", "p_1"))
        changed(location, before, after)
    assert len(set(names)) == 1


def test_a_service_starts_on_what_was_encrypted(make_api: Any, vector: Any, location: Location) -> None:
    api = make_api()
    api.enrol(api.person("Ada"), vector(1))
    with pytest.raises(StoreError, match=r"served by another process|services are on it"):
        changed(location, None, ONE)
    api.close()
    api.service.close()
    changed(location, None, ONE)
    with pytest.raises(StoreError, match="is encrypted"):
        make_api()
    api = make_api(master_key=base64.b64encode(ONE).decode())
    assert [hit["person"]["name"] for hit in api.find(vector(1), threshold=0.9)["candidates"]] == ["Ada"]


def test_progress_and_status_are_told(location: Location, vector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.encryption._PEOPLE_AT_A_TIME", 10)
    made(location, None, vector, people=25)
    told: list[tuple[int, int]] = []
    with Store(location, create=False) as store:
        store.unlock(None)
        assert change_encryption(store, ONE, lambda done, total: told.append((done, total))) == 25
        with store.read() as session:
            found = describe(session)
    assert (found["encrypted"], found["people"]) == (True, 25)
    assert bytes.fromhex(found["master_key_id"]) == master_key_id(ONE)
    assert told == [(10, 25), (20, 25), (25, 25)]
    assert len(content(location, ONE)) == 50


def test_a_failure_in_the_middle_changes_nothing(
    location: Location, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.encryption._PEOPLE_AT_A_TIME", 10)
    made(location, ONE, vector)
    before = content(location, ONE)

    def fail(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with Store(location, create=False) as store:
        store.unlock(ONE)
        with pytest.raises(KeyboardInterrupt):
            change_encryption(store, TWO, fail)
    assert content(location, ONE) == before


_ROTATE = """
import sys
from service.store import Store
from service.store.encryption import change_encryption
with Store(sys.argv[1], create=False) as store:
    store.unlock(bytes.fromhex(sys.argv[2]))
    print("go", flush=True)
    change_encryption(store, bytes.fromhex(sys.argv[3]))
"""


def killed_rotation(folder: Location, before: bytes, after: bytes, delay_s: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _ROTATE, as_option(folder), before.hex(), after.hex()], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_rotation_killed_at_any_moment_leaves_one_key_that_opens_everything(
    location: Location, vector: Any, kills: int
) -> None:
    made(location, ONE, vector, people=200)
    before, valid, other = content(location, ONE), ONE, TWO
    for delay in np.random.default_rng(0).uniform(0, 0.1, kills):
        killed_rotation(location, valid, other, float(delay))
        try:
            assert content(location, valid) == before
        except StoreError:
            valid, other = other, valid
            assert content(location, valid) == before
        with pytest.raises(StoreError, match="another master key"):
            content(location, other)


@pytest.mark.sqlite
def test_new_key_makes_a_private_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_key(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    key = read_master_key(tmp_path / "key")
    assert len(key) == 32
    assert base64.b64encode(key).decode() not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="cannot be made: File exists"):
        new_key(tmp_path / "key")
    assert read_master_key(tmp_path / "key") == key


@pytest.mark.sqlite
def test_new_key_is_on_the_disk_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed, flush = list[Path](), os.fsync

    def note(number: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{number}").readlink())
        flush(number)

    monkeypatch.setattr("os.fsync", note)
    new_key(tmp_path / "key")
    assert flushed == [tmp_path / "key", tmp_path]

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="cannot be made: No space left"):
        new_key(tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_the_commands_from_clear_to_clear(
    tmp_path: Path, vector: Any, capfd: pytest.CaptureFixture[str], location: Location
) -> None:
    store, one, two = location, tmp_path / "one", tmp_path / "two"
    made(store, None, vector)
    before = content(store, None)
    new_key(one)
    new_key(two)
    enable(as_option(store), one)
    rotate(as_option(store), one, two)
    with pytest.raises(ConfigError, match="same key"):
        rotate(as_option(store), two, two)
    with pytest.raises(StoreError, match="another master key"):
        disable(as_option(store), one)
    rotate(as_option(store), one, two)  # once more, as after a kill before the clean-up
    assert content(store, read_master_key(two)) == before
    disable(as_option(store), two)
    assert content(store, None) == before
    said = "".join(capfd.readouterr())
    for path in (one, two):
        key = read_master_key(path)
        assert key.hex() not in said
        assert path.read_text().strip() not in said


@pytest.mark.sqlite
def test_a_master_key_is_in_no_file_log_or_error(tmp_path: Path, vector: Any, make_api: Any, caplog: Any) -> None:
    text = base64.b64encode(TWO).decode()
    with caplog.at_level("DEBUG"):
        api = make_api(master_key=text)
        api.enrol(api.person(), vector(1))
        backup(tmp_path / "store", tmp_path / "backup")
    assert text not in repr(api.service.settings)
    for held in (held_in(tmp_path), caplog.text.encode()):
        assert TWO not in held
        assert text.encode() not in held
        assert TWO.hex().encode() not in held
    assert (tmp_path / "store" / DATABASE).exists()
    assert os.environ.get("FACEMARGIN_MASTER_KEY") is None
