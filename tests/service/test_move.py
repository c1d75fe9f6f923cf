"""A store moved between SQLite and PostgreSQL is the same store: every row, every number, the chain of its log."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, text

from facemargin.cli import main
from service.errors import StoreError
from service.move import move
from service.security import Scope, create_key
from service.store import Location, PersonRow, Store
from service.store.audit import Receipt, check_log
from service.store.faces import NewFace, add_face, stored_crop, templates_of_collection
from service.store.people import add_collection, add_person, collection
from service.store.sqlite import DATABASE
from service.store.tables import FaceRow

from .raw_store import as_option, execute, held_in, is_empty

PEOPLE = "/v1/collections/staff/people"
KEY = bytes(range(32))
CROP = b"\x89PNG as good as" + bytes(range(200))
BOTH_WAYS = pytest.mark.parametrize("ways", [("sqlite", "postgresql"), ("postgresql", "sqlite")], ids="-".join)
EVERY_TABLE = (
    "collections",
    "people",
    "faces",
    "templates",
    "api_keys",
    "replies",
    "reply_mentions",
    "audit",
    "changes",
)


@pytest.fixture
def ends(ways: tuple[str, str], tmp_path: Path, make_postgres_store: Any) -> tuple[Location, Location]:
    """Where the store is, and where it is to go."""
    place = {"sqlite": lambda: tmp_path / "store", "postgresql": make_postgres_store}
    return place[ways[0]](), place[ways[1]]()


def rows(location: Location) -> dict[str, list[Any]]:
    """Everything about people, keys and erasures, without fillers."""
    found = {}
    with Store(location, create=False) as store, store.read() as session:
        for table in EVERY_TABLE:
            result = session.execute(text(f"SELECT * FROM {table}"))
            kept = [place for place, name in enumerate(result.keys()) if name != "filler"]
            found[table] = sorted(repr([_plain(row[place]) for place in kept]) for row in result)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in "[{":
        return json.loads(value)
    if value == "null":
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat(" ", "microseconds")
    return int(value) if isinstance(value, bool) else value


@BOTH_WAYS
@pytest.mark.parametrize("master", [None, KEY], ids=["clear", "encrypted"])
def test_a_service_goes_on_where_the_other_stopped(
    ends: tuple[Location, Location], make_api: Any, vector: Any, crop: Any, master: bytes | None
) -> None:
    settings = {} if master is None else {"master_key": base64.b64encode(master).decode()}
    source, target = ends
    with Store(source) as store, store.write() as session:
        key = create_key(session, label="door", scopes=[Scope.ADMIN])
    api = make_api(store=source, **settings)
    api.headers["authorization"] = f"Bearer {key}"
    assert api.put("/v1/collections/staff", json={"keep_crops": True}).status_code == 201
    ada, bob, cleo = api.person("Ada"), api.person("Bob"), api.person("Cleo Ω \U0001f600")
    api.enrol(ada, vector(1))
    image = api.post(f"{PEOPLE}/{cleo}/faces", files={"image": crop(3)}, data={"aligned": "true"}).json()["id"]
    receipt = api.delete(f"{PEOPLE}/{bob}", headers={"Idempotency-Key": "gone"}).headers["facemargin-receipt"]
    last = api.person("last")
    api.delete(f"{PEOPLE}/{last}")
    api.close()
    api.service.close()
    before, bytes_before = rows(source), held_in(source)
    done = move(source, target)
    assert rows(target) == before
    assert rows(source) == before
    assert isinstance(source, URL) or held_in(source) == bytes_before
    assert (done.counts["people"], done.counts["faces"], done.counts["audit"]) == (2, 2, 2)
    with Store(target, create=False) as store, store.read() as session:
        assert check_log(session, [Receipt.parse(receipt)]).faults == ()
        highest = session.scalar(text("SELECT max(id) FROM people"))
    again = make_api(store=target, **settings)
    again.headers["authorization"] = f"Bearer {key}"
    assert again.delete(f"{PEOPLE}/{bob}", headers={"Idempotency-Key": "gone"}).headers["facemargin-receipt"] == receipt
    assert [hit["person"]["id"] for hit in again.find(vector(1), threshold=0.99)["candidates"]] == [ada]
    assert again.get(f"{PEOPLE}/{cleo}/faces/{image}/crop").status_code in (200, 404)
    again.person("new")
    assert again.delete(f"{PEOPLE}/{cleo}").status_code == 204
    with again.service.store.read() as session:
        assert check_log(session).faults == ()
        newest = session.scalar(text("SELECT max(id) FROM people"))
    assert newest == highest + 2  # the number of who was last and is gone is not given again


@BOTH_WAYS
def test_what_is_encrypted_is_moved_unread(ends: tuple[Location, Location], vector: Any) -> None:
    source, target = ends
    with Store(source) as store:
        store.unlock(KEY)
        with store.write() as session:
            gallery = add_collection(session, "staff", model="m", dim=32, keep_crops=True)
            person = add_person(session, gallery, "Ada")
            add_face(session, gallery, person, NewFace(vector(1), "aligned", {"score": 0.1 + 0.2}, CROP, "arcface-112"))
    move(source, target)
    with Store(target) as store:
        with pytest.raises(StoreError, match="is encrypted"):
            store.unlock(None)
        store.unlock(KEY)
        with store.read() as session:
            gallery = collection(session, "staff")
            (template,) = templates_of_collection(session, gallery)
            (person,), (face,) = session.query(PersonRow).all(), session.query(FaceRow).all()
            assert template.vector.tobytes() == vector(1).tobytes()
            assert stored_crop(session, gallery, person, face) == CROP
            assert face.quality == {"score": 0.1 + 0.2}
            fillers = {len(value or b"") for (value,) in session.execute(text("SELECT filler FROM faces"))}
    assert fillers == ({0} if isinstance(target, URL) else {477})
    assert CROP not in held_in(target)


def filled(location: Location, people: int = 1) -> None:
    with Store(location) as store:
        store.unlock(None)
        with store.write() as session:
            gallery = add_collection(session, "staff", model="m", dim=4)
            for number in range(people):
                add_person(session, gallery, f"person {number}")


@BOTH_WAYS
def test_what_is_in_the_way_is_refused(ends: tuple[Location, Location], make_location: Any) -> None:
    source, target = ends
    filled(source)
    with pytest.raises(StoreError, match="both where the store is and where"):
        move(source, source)
    with Store(source) as store:
        store.claim()
        with pytest.raises(StoreError, match=r"served by another process|services are on it"):
            move(source, target)
    assert is_empty(target)
    filled(target)
    before = rows(target)
    with pytest.raises(StoreError, match="there is a store in"):
        move(source, target)
    assert rows(target) == before
    with pytest.raises(StoreError, match=r"there is no store|cannot be used"):
        move(make_location("nowhere"), target)


@BOTH_WAYS
def test_a_log_that_was_forged_is_not_moved(ends: tuple[Location, Location]) -> None:
    source, target = ends
    filled(source)
    forged = "INSERT INTO audit (seq, at, event, collection, faces, actor, previous, digest) VALUES "
    digest = "'\\x00'" if isinstance(source, URL) else "x'00'"
    execute(source, f"{forged} (1, '2026-01-01 00:00:00', 'erase-person', 'c', 0, 'me', {digest}, {digest})")
    with pytest.raises(StoreError, match=r"audit log of the store in .* is broken: record 1"):
        move(source, target)
    assert is_empty(target)


@BOTH_WAYS
def test_a_target_that_keeps_something_else_gets_nothing(
    ends: tuple[Location, Location], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = ends
    filled(source, people=3)
    from service.store import copying

    insert = copying._insert

    def lossy(connection: Any, table: Any, found: list[dict[str, Any]]) -> None:
        insert(connection, table, found[:-1] if table.name == "people" else found)

    monkeypatch.setattr(copying, "_insert", lossy)
    with pytest.raises(StoreError, match="what arrived of the table people is not what was sent"):
        move(source, target)
    assert is_empty(target)


def test_a_text_that_postgresql_cannot_hold_is_named(tmp_path: Path, make_postgres_store: Any) -> None:
    source, target = tmp_path / "store", make_postgres_store()
    filled(source)
    execute(source, "UPDATE people SET name = 'A' || char(0) || 'b'")
    with pytest.raises(StoreError, match="the column name of the table people holds a text with a NUL"):
        move(source, target)
    assert is_empty(target)


_MOVE = """
import sys, time
from service.move import move
from service.store import parse_location
print("go", flush=True)
move(parse_location(sys.argv[1]), parse_location(sys.argv[2]), lambda table, rows: time.sleep(0.02))
"""


@BOTH_WAYS
@pytest.mark.parametrize("kills", [2, pytest.param(15, marks=pytest.mark.slow)])
def test_a_move_killed_at_any_moment_leaves_nothing_or_all(ends: tuple[Location, Location], kills: int) -> None:
    source, target = ends
    filled(source, people=300)
    for number in range(kills):
        command = [sys.executable, "-c", _MOVE, as_option(source), as_option(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05 + 0.4 * number / kills)
            process.send_signal(signal.SIGKILL)
        whole = isinstance(target, URL) and not is_empty(target)
        whole = whole or (isinstance(target, Path) and (target / DATABASE).exists())
        if whole:
            break
    if not whole:
        until = time.monotonic() + 20
        while True:  # the server lets go of the locks of a process that is gone within a moment
            try:
                move(source, target)
                break
            except StoreError:
                assert time.monotonic() < until
                time.sleep(0.1)
    assert rows(target) == rows(source)
    with Store(target) as moved:
        moved.claim()  # which removes what a kill right after the rename left
    assert isinstance(target, URL) or sorted(os.listdir(target)) == [DATABASE, "serve.lock"]


def test_the_command_says_what_it_did_and_what_is_left(
    tmp_path: Path, make_postgres_store: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "store", make_postgres_store()
    filled(source)
    where = ("--from", str(source), "--to", as_option(target.set(password="s3cret")))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["facemargin", "store", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    code, out, err = run("move", *where)
    assert (code, "1 collections, 1 people" in out, "is as it was: delete it" in err) == (0, True, True)
    assert "s3cret" not in out + err
    code, out, err = run("move", *where)
    assert (code, out, "there is a store in" in err, len(err.splitlines())) == (2, "", True, 1)
    assert "s3cret" not in err
    for store in (str(source), as_option(target)):
        code, out, err = run("compact", "--store", store)
        assert (code, "nothing of deleted rows is left" in out) == (0, True)
    assert run("compact", "--store", str(tmp_path / "nowhere"))[0] == 2
