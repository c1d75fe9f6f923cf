"""The database: durability settings, versions, one service a store, and nothing left of what was deleted."""

import contextlib
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from service.errors import StoreError
from service.store import FaceRow, Location, PersonRow, Store
from service.store.people import add_collection, add_person
from service.store.sqlite import DATABASE
from service.store.tables import new_id


def test_every_connection_is_durable(tmp_path: Path) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "temp_store": 2}
    with Store(tmp_path) as store:
        for open_session in (store.read, store.write):
            with open_session() as session:
                assert {name: session.scalar(text(f"PRAGMA {name}")) for name in wanted} == wanted


def test_only_the_owner_can_look(tmp_path: Path) -> None:
    with Store(tmp_path / "store"):
        assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "store" / DATABASE).stat().st_mode) == 0o600


def test_what_others_could_read_is_closed_at_opening(tmp_path: Path) -> None:
    Store(tmp_path / "store").close()
    (tmp_path / "store").chmod(0o755)
    (tmp_path / "store" / DATABASE).chmod(0o644)
    test_only_the_owner_can_look(tmp_path)


@pytest.mark.both_databases
def test_a_write_that_raises_is_undone(location: Location) -> None:
    with Store(location) as store:
        with contextlib.suppress(ZeroDivisionError), store.write() as session:
            add_collection(session, "staff", model="m", dim=4)
            assert session.scalar(text("SELECT count(*) FROM collections")) == 1 // 0
        with store.read() as session:
            assert session.scalar(text("SELECT count(*) FROM collections")) == 0


@pytest.mark.both_databases
def test_a_face_without_a_person_cannot_be(location: Location) -> None:
    with Store(location) as store, pytest.raises(IntegrityError), store.write() as session:
        session.add(FaceRow(person_id=99, source="image", quality=None))


def opened(location: Location) -> Store:
    store = Store(location)
    store.unlock(None)
    return store


@pytest.mark.both_databases
def test_row_numbers_are_never_given_again(location: Location) -> None:
    with opened(location) as store, store.write() as session:
        gallery = add_collection(session, "staff", model="m", dim=4)
        first = add_person(session, gallery, "Ada").id
        session.delete(session.get_one(PersonRow, first))
        session.flush()
        assert add_person(session, gallery, "Bob").id > first


def test_ids_tell_nothing_and_do_not_meet() -> None:
    made = {new_id("p") for _ in range(1000)}
    assert len(made) == 1000
    assert all(len(one) == 18 and one.startswith("p_") for one in made)


@pytest.mark.parametrize("content", [b"this is no database, though it is long enough " * 40, b"short"])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE).write_bytes(content)
    with pytest.raises(StoreError, match="cannot be used as a store"):
        Store(tmp_path)
    assert (tmp_path / DATABASE).read_bytes() == content


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match="there is no store in"):
        Store(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_one_service_a_store(tmp_path: Path) -> None:
    with Store(tmp_path) as first, Store(tmp_path) as second:
        first.claim()
        with pytest.raises(StoreError, match="served by another process"):
            second.claim()
        first.close()
        second.claim()


@pytest.mark.both_databases
def test_everything_is_there_after_a_restart(make_api: Any, vector: Any) -> None:
    api = make_api()
    person = api.person("Ada")
    face = api.enrol(person, vector(1))["id"]
    before = [api.get(url).json() for url in _urls(person)] + [api.find(vector(1))]
    api.close()
    api.service.close()
    api = make_api()
    assert [api.get(url).json() for url in _urls(person)] + [api.find(vector(1))] == before
    assert api.delete(f"/v1/collections/staff/people/{person}/faces/{face}").status_code == 204
    assert api.find(vector(1))["candidates"] == []


def _urls(person: str) -> list[str]:
    people = "/v1/collections/staff/people"
    return ["/v1/collections", people, f"{people}/{person}", f"{people}/{person}/faces"]


@pytest.mark.parametrize("what", ["face", "person", "faceless", "collection"])
def test_no_file_holds_a_deleted_vector(api: Any, vector: Any, what: str) -> None:
    person = api.person("Ada Lovelace the First")
    for number in range(20):
        api.enrol(api.person(f"other {number}"), vector(100 + number))
    face = api.enrol(person, vector(1))["id"]
    stored = vector(1).astype(np.float64)
    needle = (stored / np.linalg.norm(stored)).astype("<f4").tobytes()
    folder = api.service.settings.store
    assert needle in _bytes_in(folder)
    if what == "faceless":
        assert api.delete(f"/v1/collections/staff/people/{person}").status_code == 204
        person = api.person("Ada Lovelace the First")
        assert b"Ada Lovelace the First" in _bytes_in(folder)
    url = "/v1/collections/staff"
    if what != "collection":
        url += f"/people/{person}" + (f"/faces/{face}" if what == "face" else "")
    assert api.delete(url).status_code == 204
    left = _bytes_in(folder)
    assert needle not in left
    assert needle[:32] not in left
    assert (b"Ada Lovelace the First" in left) is (what == "face")


def test_a_reader_delays_the_erasure_to_the_next_write(api: Any) -> None:
    person = api.person("Ada Lovelace the First")
    folder = api.service.settings.store
    with api.service.store.read() as session:
        assert session.scalar(text("SELECT count(*) FROM people")) == 1
        assert api.delete(f"/v1/collections/staff/people/{person}").status_code == 204
        assert api.service.store.forget() is False
        assert b"Ada Lovelace the First" in _bytes_in(folder)
    api.person("Bob")
    assert b"Ada Lovelace the First" not in _bytes_in(folder)


def _bytes_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
