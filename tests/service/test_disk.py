"""A full disk, a locked database, a missing model: writes are refused, everything else goes on, and it comes back."""

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from service.errors import StoreError
from service.store import Store, sqlite
from service.store.sqlite import DATABASE
from service.store.tables import MetaRow

PEOPLE = "/v1/collections/staff/people"
HOLD_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> Path:
    """Take all that is left."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return ballast


def wait_for(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def becomes(api: Any, status: int, within_s: float = 20.0) -> Any:
    """The answer of readiness once it has a status."""
    until = time.monotonic() + within_s
    while (answer := api.get("/health/ready")).status_code != status:
        assert time.monotonic() < until, answer.text
        time.sleep(0.05)
    return answer


def refused(answer: Any, problem: Any) -> None:
    problem(answer, "store-unavailable", 503)
    assert int(answer.headers["Retry-After"]) > 0


def check_all_writes_are_refused_and_reads_go_on(api: Any, person: str, face: str, vector: Any, problem: Any) -> None:
    body = {"embedding": vector(2).tolist(), "model": api.model}
    for answer in (
        api.post(f"{PEOPLE}/{person}/faces", json=body),
        api.post(PEOPLE, json={"name": "Bob"}),
        api.patch(f"{PEOPLE}/{person}", json={"name": "Bob"}),
        api.delete(f"{PEOPLE}/{person}/faces/{face}"),
        api.delete(f"{PEOPLE}/{person}"),
        api.put("/v1/collections/other"),
        api.delete("/v1/collections/staff"),
    ):
        refused(answer, problem)
    assert [found["id"] for found in api.get(f"{PEOPLE}/{person}/faces").json()["faces"]] == [face]
    assert api.get(PEOPLE).json()["people"][0]["name"] == "Ada"
    found = api.find(vector(1), threshold=0.999)
    assert ([candidate["person"]["id"] for candidate in found["candidates"]], found["templates"]) == ([person], 1)
    assert api.get("/health/live").status_code == 200


def check_it_works_again(api: Any, person: str, vector: Any) -> None:
    assert becomes(api, 200)
    api.enrol(person, vector(2))
    assert api.find(vector(2), threshold=0.999)["templates"] == 2
    assert api.delete(f"{PEOPLE}/{person}").status_code == 204
    assert api.find(vector(1))["templates"] == 0
    with closing(sqlite3.connect(api.service.settings.store / DATABASE)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM meta WHERE name = 'probe'").fetchall() == [(0,)]


def test_a_full_disk(make_api: Any, small_disk: Path, vector: Any, problem: Any) -> None:
    api = make_api(min_free_bytes=0, store=small_disk / "store", housekeeping_seconds=0.1)
    person = api.person()
    face = api.enrol(person, vector(1))["id"]
    assert api.service.store.forget()
    ballast = fill(small_disk)
    refused(api.patch(f"{PEOPLE}/{person}", json={"name": "A" * 200}), problem)
    check_all_writes_are_refused_and_reads_go_on(api, person, face, vector, problem)
    assert "the disk is full" in becomes(api, 503).json()["detail"]
    ballast.unlink()
    check_it_works_again(api, person, vector)


def test_a_snapshot_that_finds_the_disk_full(make_api: Any, small_disk: Path, vector: Any) -> None:
    fast = {"housekeeping_seconds": 0.05, "snapshot_seconds": 0.01, "snapshot_faces": 1, "min_free_bytes": 0}
    store = small_disk / "store"
    api = make_api(store=store, **fast)
    person = api.person()
    api.enrol(person, vector(1))
    ballast = fill(small_disk)
    with suppress(AssertionError):  # the disk is as full as it was; whether this one goes in does not matter
        api.enrol(person, vector(2))
    assert api.find(vector(1), threshold=0.999)["templates"] >= 1
    ballast.unlink()
    becomes(api, 200)
    api.enrol(person, vector(3))
    until = time.monotonic() + 20
    while not [path for path in (store / "snapshots").iterdir() if path.suffix == ".snapshot"]:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_locked_database(
    make_api: Any, tmp_path: Path, vector: Any, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_PRAGMAS", (*sqlite._PRAGMAS[:-1], "PRAGMA busy_timeout=100"))
    monkeypatch.setattr(sqlite, "_BUSY_MS", 100)
    api = make_api(housekeeping_seconds=0.1)
    person = api.person()
    face = api.enrol(person, vector(1))["id"]
    command = [sys.executable, "-c", HOLD_LOCK, str(tmp_path / "store" / DATABASE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "locked\n"
        check_all_writes_are_refused_and_reads_go_on(api, person, face, vector, problem)
        assert "another process has locked it" in becomes(api, 503).json()["detail"]
        holder.stdin.close()
    check_it_works_again(api, person, vector)


def test_a_write_that_fails_for_its_own_reasons_does_not_stop_the_others(api: Any) -> None:
    with pytest.raises(OperationalError, match="no such table"), api.service.store.write() as session:
        session.connection().exec_driver_sql("SELECT * FROM nowhere")
    assert api.service.store.outage is None
    api.person()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_FULL, "full"),
        (sqlite3.SQLITE_BUSY, "locked"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "locked"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "cannot be written"),
        (sqlite3.SQLITE_IOERR_FSYNC, "disk fails"),
        (sqlite3.SQLITE_CANTOPEN_ISDIR, "cannot be opened"),
    ],
)
def test_every_kind_of_outage_is_named(
    make_api: Any, problem: Any, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    api = make_api(housekeeping_seconds=30)
    while api.service.writer.unforgotten:  # until the first round is over
        time.sleep(0.05)
    time.sleep(0.05)
    cause = sqlite3.OperationalError("as SQLite says it")
    cause.sqlite_errorcode = code

    def fail(*_: Any) -> None:
        raise OperationalError("COMMIT", None, cause)

    monkeypatch.setattr("service.writes._keep", fail)
    refused(api.put("/v1/collections/staff"), problem)
    monkeypatch.undo()
    assert words in problem(api.get("/health/ready"), "not-ready", 503)["detail"]
    refused(api.put("/v1/collections/staff"), problem)
    api.service.housekeeping.round()
    assert api.get("/health/ready").status_code == 200
    assert api.put("/v1/collections/staff").status_code == 201


def test_a_file_system_that_is_read_only_at_the_start(small_disk: Path) -> None:
    Store(small_disk / "store").close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match="cannot be used: Read-only file system"):
        Store(small_disk / "store")


def test_a_bundle_that_is_removed_while_it_is_served(
    make_api: Any, make_tiny_bundle: Callable[..., Any], crop: Any, vector: Any
) -> None:
    bundle = make_tiny_bundle(seed=5)
    api = make_api(bundle=bundle)
    person = api.person()
    shutil.rmtree(bundle.path)
    faces = f"{PEOPLE}/{person}/faces"
    assert api.post(faces, files={"image": crop(1)}, data={"aligned": "true"}).status_code == 201
    found = api.post("/v1/collections/staff/search", files={"image": crop(1, 1)}, data={"aligned": "true"})
    assert [candidate["person"]["id"] for candidate in found.json()["candidates"]] == [person]
    assert api.get("/health/ready").status_code == 200


def test_without_a_detector_photographs_are_refused_and_the_rest_is_ready(api: Any, crop: Any, problem: Any) -> None:
    problem(api.post("/v1/embeddings", files={"images": crop(1)}), "detector-missing", 503)
    assert api.get("/health/ready").json()["detector"] is False
    assert api.post("/v1/embeddings", files={"images": crop(1)}, data={"aligned": "true"}).status_code == 200


def test_a_probe_that_was_killed_half_way_does_not_stop_the_next(make_api: Any) -> None:
    api = make_api(housekeeping_seconds=30)
    store = api.service.store
    with store.write() as session:
        session.add(MetaRow(name="probe", value=b"left behind"))
    store.outage = "the disk is full"
    store.probe()
    assert store.outage is None
    with store.read() as session:
        assert session.get(MetaRow, "probe") is None


def test_writes_that_wait_keep_no_search_waiting_and_too_many_are_refused(
    make_api: Any, vector: Any, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.replies._MOST_WAITING", 40)
    api = make_api(housekeeping_seconds=30)
    api.enrol(api.person(), vector(1))
    turn = api.service.writer._turn
    with ThreadPoolExecutor(60) as pool:
        with turn:
            writes = [pool.submit(api.post, PEOPLE, json={"name": "Bob"}) for _ in range(60)]
            wait_for(lambda: any(write.done() for write in writes))
            search = pool.submit(api.find, vector(1), threshold=0.999)
            assert len(search.result(timeout=10)["candidates"]) == 1
        answers = [write.result() for write in writes]
    refusals = [answer for answer in answers if answer.status_code != 201]
    assert 0 < len(refusals) <= 12  # of 60, eight have a thread and forty wait
    for answer in refusals:
        refused(answer, problem)
