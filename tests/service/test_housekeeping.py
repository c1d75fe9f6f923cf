"""What the service does by itself: erases who has expired, empties the log, and tells when it cannot."""

import shutil
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from service import housekeeping as housekeeping_module
from service.ledger import read_ledger
from service.store import Location
from service.store.audit import records
from service.store.tables import PersonRow

from .raw_store import held_in

pytestmark = pytest.mark.both_databases

FAST = 0.05
NAME = "Ada Lovelace the First"


def bytes_in(location: Location) -> bytes:
    if not isinstance(location, Path):
        return held_in(location)
    found = []
    for path in sorted(location.rglob("*")):
        try:
            found.append(path.read_bytes() if path.is_file() else b"")
        except FileNotFoundError:  # a snapshot that was removed since it was listed
            continue
    return b"".join(found)


def wait_until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(FAST)


def after_the_first_round(api: Any) -> Any:
    """The service once its thread sleeps, so that the rounds of a test are the only ones."""
    wait_until(lambda: not api.service.writer.unforgotten)
    time.sleep(0.1)
    return api


def gone(api: Any, words: bytes = NAME.encode()) -> bool:
    return words not in bytes_in(api.service.settings.store)


@pytest.mark.sqlite
@pytest.mark.parametrize("held_s", [1.0, pytest.param(10.0, marks=pytest.mark.slow)])
def test_a_reader_delays_an_erasure_only_while_it_reads(make_api: Any, held_s: float) -> None:
    api = make_api(housekeeping_seconds=FAST)
    person = api.person(NAME)
    with api.service.store.read() as session:
        assert session.scalar(text("SELECT count(*) FROM people")) == 1
        assert api.delete(f"/v1/collections/staff/people/{person}").status_code == 204
        time.sleep(held_s)
        assert not gone(api)
    wait_until(lambda: gone(api))


@pytest.mark.sqlite
def test_readers_without_a_break_do_not_delay_it(make_api: Any, vector: Any) -> None:
    api = make_api(housekeeping_seconds=FAST)
    api.enrol(api.person("Bob"), vector(1))
    person = api.person(NAME)
    api.enrol(person, vector(2))
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            with api.service.store.read() as session:
                session.scalar(text("SELECT count(*) FROM people"))
                time.sleep(0.005)
                session.scalar(text("SELECT count(*) FROM faces"))

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        assert api.delete(f"/v1/collections/staff/people/{person}").status_code == 204
        wait_until(lambda: gone(api) and gone(api, vector(2).tobytes()))
    finally:
        done.set()
        for reader in readers:
            reader.join()


def test_who_has_expired_is_erased(make_api: Any, vector: Any) -> None:
    api = after_the_first_round(make_api(housekeeping_seconds=30, snapshot_faces=1, snapshot_seconds=1e-3))
    kept, person = api.person("Bob"), api.person(NAME)
    api.enrol(kept, vector(1))
    api.enrol(person, vector(2))
    housekeeping = api.service.housekeeping
    housekeeping.round()
    folder = api.service.store.folder
    assert folder is None or list((folder / "snapshots").iterdir())
    with api.service.store.write() as session:
        (row,) = session.query(PersonRow).where(PersonRow.public_id == person)
        row.expires_at = datetime.now(UTC) - timedelta(seconds=1)
    assert api.get(f"/v1/collections/staff/people/{person}").status_code == 404
    housekeeping.round()
    assert gone(api)
    assert gone(api, vector(2).tobytes())
    assert not gone(api, b"Bob")
    found = api.find(vector(2), threshold=0.999)
    assert (found["candidates"], found["templates"]) == ([], 1)
    with api.service.store.read() as session:
        assert [(record.event, record.actor, record.faces) for record in records(session)] == [
            ("erase-person", "retention", 1)
        ]


def test_old_replies_are_dropped_without_another_write(make_api: Any) -> None:
    api = after_the_first_round(make_api(housekeeping_seconds=30, idempotency_hours=1e-9))
    assert api.put("/v1/collections/staff", headers={"Idempotency-Key": "one"}).status_code == 201
    count = text("SELECT count(*) FROM replies")
    with api.service.store.read() as session:
        assert session.scalar(count) == 1
    api.service.housekeeping.round()
    with api.service.store.read() as session:
        assert session.scalar(count) == 0


def test_the_erasure_ledger_catches_up_without_another_write(make_api: Any, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "disk").mkdir()
    path = tmp_path / "disk" / "ledger"
    api = after_the_first_round(make_api(housekeeping_seconds=30, erasure_ledger=path))
    shutil.rmtree(tmp_path / "disk")
    api.delete(f"/v1/collections/staff/people/{api.person()}")
    housekeeping = api.service.housekeeping
    for _ in range(3):
        caplog.clear()
        housekeeping.round()
    assert [record.getMessage().startswith("writing the erasure ledger failed") for record in caplog.records] == [True]
    assert not caplog.records[0].exc_info, "a traceback in every round"
    assert housekeeping.troubles() == ["writing the erasure ledger has failed 3 times"]
    assert housekeeping.failed["mending the store and the indexes"] == 0
    (tmp_path / "disk").mkdir()
    housekeeping.round()
    assert [record.seq for record in read_ledger(path)] == [1]
    assert housekeeping.troubles() == []


def test_a_job_that_fails_is_tried_again_and_readiness_tells(
    make_api: Any, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = after_the_first_round(make_api(housekeeping_seconds=30))
    housekeeping, settled = api.service.housekeeping, list[int]()
    monkeypatch.setitem(housekeeping._jobs, "dropping old replies", lambda: 1 // 0)
    monkeypatch.setitem(housekeeping._jobs, "mending the store and the indexes", lambda: settled.append(1))
    for _ in range(2):
        housekeeping.round()
        assert api.get("/health/ready").status_code == 200
    housekeeping.round()
    detail = problem(api.get("/health/ready"), "not-ready", 503)["detail"]
    assert detail == "dropping old replies has failed 3 times"
    assert len(settled) == 3
    monkeypatch.undo()
    housekeeping.round()
    assert api.get("/health/ready").status_code == 200


@pytest.mark.sqlite
def test_readiness_tells_of_a_log_that_cannot_be_emptied(
    make_api: Any, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.housekeeping._UNFORGOTTEN_S", 0.0)
    monkeypatch.setattr("service.writes._PATIENCE_MS", 10)
    api = after_the_first_round(make_api(housekeeping_seconds=30))
    person = api.person(NAME)
    with api.service.store.read() as session:
        assert session.scalar(text("SELECT count(*) FROM people")) == 1
        assert api.delete(f"/v1/collections/staff/people/{person}").status_code == 204
        api.service.housekeeping.round()
        assert "a reader keeps" in problem(api.get("/health/ready"), "not-ready", 503)["detail"]
    api.service.housekeeping.round()
    assert api.get("/health/ready").status_code == 200
    assert gone(api)


@pytest.mark.sqlite  # where a follower mends it at its own pace
def test_an_index_apart_from_the_store_is_mended_without_a_write(make_api: Any, vector: Any) -> None:
    api = after_the_first_round(make_api(housekeeping_seconds=30))
    api.enrol(api.person(), vector(1))
    gallery = api.service.gallery
    (number,) = gallery._shelves
    gallery._shelves.clear()
    gallery.stale.add(number)
    assert api.get("/health/ready").status_code == 503
    api.service.housekeeping.round()
    assert api.get("/health/ready").status_code == 200
    assert api.find(vector(1), threshold=0.999)["templates"] == 1


@pytest.mark.sqlite
def test_it_ends_with_the_service(make_api: Any) -> None:
    api = after_the_first_round(make_api(housekeeping_seconds=30))
    started = time.monotonic()
    api.close()
    api.service.close()
    assert time.monotonic() - started < 10
    assert "housekeeping" not in {thread.name for thread in threading.enumerate()}


def expire(api: Any, *people: str) -> None:
    with api.service.store.write() as session:
        for row in session.query(PersonRow).where(PersonRow.public_id.in_(people)):
            row.expires_at = datetime.now(UTC) - timedelta(seconds=1)


def test_one_who_cannot_be_erased_keeps_nobody_else(
    make_api: Any, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.housekeeping._ERASED_AT_A_TIME", 2)
    api = after_the_first_round(make_api(housekeeping_seconds=30))
    stuck, *others = [api.person(f"person {number}") for number in range(5)]
    expire(api, stuck, *others)
    erase = housekeeping_module.erase_person

    def refuse_one(session: Any, changes: Any, gallery: Any, collection: Any, person: Any, **more: Any) -> Any:
        if person.public_id == stuck:
            raise RuntimeError("cannot")
        return erase(session, changes, gallery, collection, person, **more)

    monkeypatch.setattr(housekeeping_module, "erase_person", refuse_one)
    for _ in range(3):
        api.service.housekeeping.round()
    with api.service.store.read() as session:
        assert [row.public_id for row in session.query(PersonRow)] == [stuck]
    told = problem(api.get("/health/ready"), "not-ready", 503)["detail"]
    assert "erasing who has expired has failed 3 times" in told
    monkeypatch.undo()
    api.service.housekeeping.round()
    assert api.get("/health/ready").status_code == 200
    with api.service.store.read() as session:
        assert session.query(PersonRow).count() == 0


def test_who_got_more_time_meanwhile_is_not_erased(make_api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api = after_the_first_round(make_api(housekeeping_seconds=30))
    person = api.person()
    expire(api, person)
    run = api.service.writer.run

    def later(once: Any, work: Any) -> Any:
        with api.service.store.write() as session:
            session.query(PersonRow).one().expires_at = None
        return run(once, work)

    monkeypatch.setattr(api.service.writer, "run", later)
    api.service.housekeeping.round()
    assert api.get(f"/v1/collections/staff/people/{person}").status_code == 200


@pytest.mark.sqlite
def test_snapshots_leave_the_disk_idle_for_twenty_times_as_long_as_they_took(
    make_api: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = after_the_first_round(make_api(housekeeping_seconds=30, snapshot_faces=1, snapshot_seconds=1e-3))
    api.enrol(api.person(), vector(1))
    saves = list[float]()

    def save(*_: Any) -> bool:
        saves.append(time.monotonic())
        time.sleep(0.2)
        return False

    monkeypatch.setattr(api.service.gallery, "save", save)
    for _ in range(5):
        api.service.housekeeping.round()
        time.sleep(0.01)
    assert len(saves) == 1
    wait_until(lambda: api.service.housekeeping.round() or len(saves) == 2)
    assert 4.0 <= saves[1] - saves[0] < 10.0


@pytest.mark.sqlite
def test_what_old_replies_held_leaves_the_log(make_api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api = after_the_first_round(make_api(housekeeping_seconds=30, idempotency_hours=1e-9))
    held = api.service.settings.store / "facemargin.sqlite3-wal"
    for drop in (api.service.writer.drop_old_replies, lambda: api.put("/v1/collections/other")):
        assert api.put("/v1/collections/staff", headers={"Idempotency-Key": "one"}).status_code in (200, 201)
        api.service.writer.settle()
        assert not api.service.writer.unforgotten
        drop()
        assert api.service.writer.unforgotten
        assert held.stat().st_size > 0
        api.service.writer.settle()
        assert held.stat().st_size == 0


@pytest.mark.sqlite
def test_the_service_does_not_wait_for_a_snapshot_to_end(
    make_api: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = after_the_first_round(make_api(housekeeping_seconds=30, snapshot_faces=1, snapshot_seconds=1e-3))
    monkeypatch.setattr(api.service.snapshots, "_rows", 1)
    person = api.person()
    for number in range(40):
        api.enrol(person, vector(number))
    writing, flushes = threading.Event(), list[int]()

    def slow_disk(_: Any) -> None:
        flushes.append(1)
        writing.set()
        time.sleep(0.2)

    monkeypatch.setattr("service.snapshots.flush", slow_disk)
    housekeeping = api.service.housekeeping
    worker = threading.Thread(target=housekeeping.round)
    worker.start()
    assert writing.wait(60)
    housekeeping.stop()
    worker.join(60)
    assert len(flushes) <= 3  # of eleven
