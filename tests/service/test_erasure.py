"""Nothing of what was erased is in any file: rows, log, free pages, gaps in pages, snapshots; killed or not."""

import base64
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, select

from service.erasure import erase_collection
from service.snapshots import SNAPSHOTS
from service.store import FaceRow, Location, PersonRow, Store, TemplateRow
from service.store.audit import Event, check_log, records
from service.store.faces import NewFace, add_face
from service.store.people import add_collection, add_person, collection
from service.store.sqlite import DATABASE
from service.store.tables import FILLER, PAGE_BYTES

from .raw_store import held_in

MASTER = bytes(range(32))
PEOPLE = "/v1/collections/staff/people"
WINDOW = 16
ENCRYPTED = {"master_key": base64.b64encode(MASTER).decode()}
SETTINGS = [pytest.param({}, id="clear"), pytest.param(ENCRYPTED, id="encrypted")]


def files(folder: Path) -> bytes:
    held = []
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # a snapshot may be deleted meanwhile
            held.append(path.read_bytes())
    return b"".join(held)


def windows(secret: bytes) -> Iterator[bytes]:
    for start in range(0, max(1, len(secret) - WINDOW + 1), 4):
        yield secret[start : start + WINDOW]


def forms(vector: Any) -> list[bytes]:
    """A vector as it could lie in a file: float32, float64, float16, and as SQ8 codes of a common range."""
    codes = [np.clip((vector / scale + 1) * 127.5, 0, 255).astype(np.uint8).tobytes() for scale in (1.0, vector.max())]
    signed = np.round(vector / np.abs(vector).max() * 127).astype(np.int8).tobytes()
    return [vector.astype(kind).tobytes() for kind in ("<f4", "<f8", "<f2")] + [*codes, signed]


def stored(store: Store, person: str, face: str | None = None) -> dict[str, list[bytes]]:
    """What the database holds of somebody, or of one face: as it is sealed, nonce first, and the wrapped key."""
    sealed = (
        select(TemplateRow.sealed, FaceRow.crop, PersonRow.wrapped_key, PersonRow.name)
        .join(FaceRow, FaceRow.id == TemplateRow.face_id)
        .join(PersonRow, PersonRow.id == FaceRow.person_id)
        .where(PersonRow.public_id == person)
    )
    if face is not None:
        sealed = sealed.where(FaceRow.public_id == face)
    with store.read() as session:
        rows = session.execute(sealed).all()
    assert rows
    whose = [rows[0].name.encode(), *([rows[0].wrapped_key] if rows[0].wrapped_key else [])]
    return {"faces": [part for row in rows for part in (row.sealed, row.crop) if part], "person": whose}


def assert_gone(folder: Path, secrets: list[bytes]) -> None:
    held = files(folder)
    for secret in secrets:
        assert not any(window in held for window in windows(secret)), "something is left"


def within_a_minute(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def erase(api: Any, what: str, person: str, face: str) -> None:
    if what == "expiry":
        soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
        assert api.patch(f"{PEOPLE}/{person}", json={"expires_at": soon}).status_code == 200
        return
    url = {
        "face": f"{PEOPLE}/{person}/faces/{face}",
        "person": f"{PEOPLE}/{person}",
        "collection": "/v1/collections/staff",
    }[what]
    assert api.delete(url).status_code == 204


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("what", ["face", "person", "collection", "expiry"])
def test_nothing_of_the_erased_is_in_any_file(
    make_api: Any, vector: Any, crop: Any, tmp_path: Path, what: str, settings: dict[str, Any]
) -> None:
    api = make_api(**settings, housekeeping_seconds=0.2, snapshot_faces=1, snapshot_seconds=0.2)
    api.put("/v1/collections/staff", json={"keep_crops": True})
    person = api.person("Ada Lovelace the First")
    for number in range(6):
        api.enrol(api.person(f"somebody else {number}"), vector(100 + number))
    face = api.enrol(person, vector(1))["id"]
    kept = api.enrol(person, vector(2))["id"]
    image = {"image": ("a.png", crop(3), "image/png")}
    shot = api.post(f"{PEOPLE}/{person}/faces", files=image, data={"aligned": "true"})
    assert shot.status_code == 201
    api.enrol(api.person("Somebody elsewhere", "guests"), vector(200), "guests")
    of_person, of_face = stored(api.service.store, person), stored(api.service.store, person, face)
    of_shot = stored(api.service.store, person, shot.json()["id"])["faces"]
    assert len(of_shot) == 2
    assert all(next(windows(secret)) in files(tmp_path) for secret in of_person["faces"] + of_person["person"])
    snapshots = tmp_path / "store" / SNAPSHOTS
    within_a_minute(lambda: len(list(snapshots.glob("*.snapshot"))) == 2)
    erase(api, what, person, face)
    within_a_minute(lambda: of_face["faces"][0] not in files(tmp_path))
    if what == "face":
        assert_gone(tmp_path, [*of_face["faces"], *forms(vector(1))])
        assert of_person["person"][-1] in files(tmp_path)
        erase(api, what, person, shot.json()["id"])
        assert_gone(tmp_path, of_shot)
        assert [one["id"] for one in api.get(f"{PEOPLE}/{person}/faces").json()["faces"]] == [kept]
    else:
        assert_gone(tmp_path, of_person["faces"] + of_person["person"] + forms(vector(1)) + forms(vector(2)))
    if not settings:
        assert vector(200).tobytes() in files(tmp_path)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("what", "settings"),
    [
        ("face", {}),
        ("person", ENCRYPTED),
        ("collection", {}),
        ("expiry", ENCRYPTED),
        pytest.param("person", {}, marks=pytest.mark.slow),
        pytest.param("collection", ENCRYPTED, marks=pytest.mark.slow),
    ],
)
def test_nothing_of_the_erased_is_in_any_row_of_postgresql(
    make_api: Any, vector: Any, location: Location, what: str, settings: dict[str, Any]
) -> None:
    """The files of the server are searched in test_postgresql.py."""
    api = make_api(**settings, housekeeping_seconds=0.2)
    person = api.person("Ada Lovelace the First")
    face = api.enrol(person, vector(1))["id"]
    headers = {"Idempotency-Key": "rename"}
    assert api.patch(f"{PEOPLE}/{person}", json={"name": "Ada King the Second"}, headers=headers).status_code == 200
    of_person, of_face = stored(api.service.store, person), stored(api.service.store, person, face)
    assert all(secret in held_in(location) for secret in of_person["faces"] + of_person["person"])
    erase(api, what, person, face)
    within_a_minute(lambda: of_face["faces"][0] not in held_in(location))
    within_a_minute(lambda: not api.service.writer.unforgotten)
    held = held_in(location)
    gone = [*of_face["faces"], *forms(vector(1))] if what == "face" else of_person["faces"] + of_person["person"]
    assert not [secret for secret in gone if secret in held]
    assert b"Ada Lovelace the First" not in held
    assert (b"Ada King the Second" in held) is (what == "face")


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_name_that_was_changed_and_crops_no_longer_kept_are_in_no_file(
    make_api: Any, crop: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    api = make_api(**settings)
    api.put("/v1/collections/staff", json={"keep_crops": True})
    person = api.person("Ada Lovelace the First")
    image = {"image": ("a.png", crop(3), "image/png")}
    assert api.post(f"{PEOPLE}/{person}/faces", files=image, data={"aligned": "true"}).status_code == 201
    template, shot = stored(api.service.store, person)["faces"]
    assert api.patch(f"{PEOPLE}/{person}", json={"name": "Countess"}).status_code == 200
    assert b"Lovelace the First" not in files(tmp_path)
    assert api.put("/v1/collections/staff", json={"keep_crops": False}).status_code == 200
    assert_gone(tmp_path, [shot])
    assert template in files(tmp_path)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_reader_of_the_old_state_delays_it_no_longer_than_it_reads(
    make_api: Any, vector: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    api = make_api(**settings, housekeeping_seconds=0.2)
    person = api.person("Ada Lovelace the First")
    api.enrol(person, vector(1))
    secrets = stored(api.service.store, person)
    reader = sqlite3.connect(tmp_path / "store" / DATABASE)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM people").fetchone()
    erase(api, "person", person, "")
    assert secrets["person"][0] in files(tmp_path)
    reader.close()
    within_a_minute(lambda: secrets["person"][0] not in files(tmp_path))
    assert_gone(tmp_path, secrets["faces"] + secrets["person"] + forms(vector(1)))


_SERVE_AND_ERASE = """
import os, signal, sys
from pathlib import Path
from service.store import Store
from service.store.audit import Erased, Event, append
from service.store.people import collection, delete_person, person
store = Store(Path(sys.argv[1]), create=False)
store.unlock(bytes.fromhex(sys.argv[3]) or None)
with store.write() as session:
    delete_person(session, person(session, collection(session, "staff"), sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_service_killed_right_after_a_deletion_forgets_when_it_starts_again(
    make_api: Any, vector: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    api = make_api(**settings)
    person = api.person("Ada Lovelace the First")
    api.enrol(person, vector(1))
    secrets = stored(api.service.store, person)
    api.close()
    api.service.close()
    key = MASTER.hex() if settings else ""
    command = [sys.executable, "-c", _SERVE_AND_ERASE, str(tmp_path / "store"), person, key]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert os.path.getsize(tmp_path / "store" / f"{DATABASE}-wal") > 0
    again = make_api(**settings)
    assert again.get(f"{PEOPLE}/{person}").status_code == 404
    within_a_minute(lambda: secrets["person"][0] not in files(tmp_path))
    assert_gone(tmp_path, secrets["faces"] + secrets["person"] + forms(vector(1)))


def test_sqlite_cannot_move_what_stands_behind_the_filler(tmp_path: Path) -> None:
    """By SQLite's file format at most U - 35 bytes of a row of a table lie in its B-tree; these it copies about."""
    with Store(tmp_path) as store, store.read() as session:
        connection = session.connection()
        assert connection.exec_driver_sql("PRAGMA page_size").scalar() == PAGE_BYTES
        assert len(FILLER) >= PAGE_BYTES - 35
        for table, behind in (("people", {"name", "wrapped_key"}), ("faces", {"crop"}), ("templates", {"sealed"})):
            columns = [row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")]
            assert set(columns[columns.index("filler") + 1 :]) == behind
            for _, index, *_ in connection.exec_driver_sql(f"PRAGMA index_list({table})").all():
                indexed = {row[2] for row in connection.exec_driver_sql(f"PRAGMA index_info({index})")}
                assert not indexed & behind


@pytest.mark.parametrize("seed", [2, 11, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(12, 30))])
def test_pages_that_were_merged_hold_no_copies(tmp_path: Path, seed: int) -> None:
    """Deletions that without fillers, with SQLite 3.40 and its usual pages, leave a copy of somebody behind."""
    rng = random.Random(seed)
    with Store(tmp_path) as store:
        with store.write() as session:
            gallery = add_collection(session, "staff", model="m", dim=32).id
            keys = [rng.randbytes(rng.randrange(100, 900)) for _ in range(400)]
            people = [PersonRow(collection_id=gallery, name="", wrapped_key=key) for key in keys]
            session.add_all(people)
            session.flush()
            secrets = {person.id: key for person, key in zip(people, keys, strict=True)}
        ids = list(secrets)
        rng.shuffle(ids)
        for row in ids[:360]:
            with store.write() as session:
                session.execute(delete(PersonRow).where(PersonRow.id == row))
        assert store.forget()
    held = files(tmp_path)
    left = [row for row in ids if any(piece in held for piece in list(windows(secrets[row]))[::8])]
    assert set(left) == set(ids[360:])


@pytest.mark.both_databases
def test_a_large_collection_is_erased_with_a_record_for_everybody(location: Location, vector: Any) -> None:
    with Store(location) as store:
        store.unlock(MASTER)
        with store.write() as session:
            gallery = add_collection(session, "staff", model="m", dim=32)
            for number in range(300):
                add_face(session, gallery, add_person(session, gallery, str(number)), NewFace(vector(number), "image"))
        with store.write() as session:
            record = erase_collection(session, [], collection(session, "staff"), actor="key")
        with store.read() as session:
            assert check_log(session).faults == ()
            log = list(records(session))
    assert (record.seq, record.faces, record.event) == (301, 300, Event.COLLECTION)
    assert len({one.person for one in log[:-1]}) == 300


@pytest.mark.both_databases
@pytest.mark.parametrize("templates", ["best", "mean"])
@pytest.mark.parametrize("what", ["face", "person"])
def test_what_can_no_longer_be_decrypted_can_be_erased(make_api: Any, vector: Any, what: str, templates: str) -> None:
    api = make_api(master_key=base64.b64encode(MASTER).decode(), templates=templates, housekeeping_seconds=30)
    person = api.person()
    damaged, kept = api.enrol(person, vector(1))["id"], api.person("Bob")
    api.enrol(person, vector(2))
    api.enrol(kept, vector(3))
    with api.service.store.write() as session:
        row = session.scalars(select(TemplateRow).join(FaceRow).where(FaceRow.public_id == damaged)).one()
        row.sealed = row.sealed[:-1] + bytes([row.sealed[-1] ^ 1])
    url = f"{PEOPLE}/{person}" + ("" if what == "person" else f"/faces/{damaged}")
    assert api.delete(url).status_code == 204
    left = {"face": [vector(2), vector(3)], "person": [vector(3)]}[what]
    assert api.service.gallery.total == len(left)
    assert api.find(vector(1), threshold=0.9)["candidates"] == []
    for one in left:
        assert len(api.find(one, threshold=0.999)["candidates"]) == 1
