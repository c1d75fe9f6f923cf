"""Backups of a running service, and restores in which the erased stay erased."""

import base64
import contextlib
import io
import json
import resource
import shutil
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.backup import MANIFEST, Manifest, back_up, opened_backup
from service.errors import StoreError
from service.ledger import Ledger, export_ledger, read_ledger
from service.restore import restore
from service.security import Scope, create_key
from service.store import Location, Store
from service.store.audit import Event, Receipt, check_log, records
from service.store.keys import revoke_key
from service.store.sqlite import DATABASE

from .raw_store import held_in, is_empty

KEY, OTHER = bytes(range(32)), bytes(range(32, 64))
pytestmark = pytest.mark.both_databases

PEOPLE = "/v1/collections/staff/people"
MASTER = [pytest.param(None, id="clear"), pytest.param(KEY, id="encrypted")]


def settings_of(master: bytes | None) -> dict[str, Any]:
    return {} if master is None else {"master_key": base64.b64encode(master).decode()}


def stop(api: Any) -> None:
    api.close()
    api.service.close()


def names_found(api: Any, query: Any) -> list[str]:
    return [hit["person"]["name"] for hit in api.find(query, threshold=0.99)["candidates"]]


def log_of(folder: Location) -> list[Any]:
    with Store(folder, create=False) as store, store.read() as session:
        assert check_log(session).faults == ()
        return list(records(session))


@pytest.mark.parametrize("master", MASTER)
def test_a_backup_under_load_holds_every_write_acknowledged_before_it(
    make_api: Any, vector: Any, tmp_path: Path, master: bytes | None, make_location: Any
) -> None:
    api = make_api(**settings_of(master))
    person = api.person("Ada")
    enrolled = [api.enrol(person, vector(number))["id"] for number in range(10)]
    ended = threading.Event()
    more: list[str] = []

    def write() -> None:
        number = 1000
        while not ended.is_set():
            number += 1
            more.append(api.enrol(person, vector(number))["id"])
            api.delete(f"{PEOPLE}/{api.person(f'guest {number}')}")

    writer = threading.Thread(target=write)
    writer.start()
    manifests = []
    try:
        for number in range(2):
            before = len(more)
            manifests.append((before, back_up(make_location("store"), tmp_path / f"{number}.backup"), len(more)))
    finally:
        ended.set()
        writer.join()
    stop(api)
    assert more
    for number, (before, manifest, after) in enumerate(manifests):
        folder = make_location(f"restored {number}")
        restore(tmp_path / f"{number}.backup", folder, master=master, erasures=make_location("store"))
        assert 10 + before <= manifest.counts["faces"] <= 10 + after + 1
        again = make_api(store=folder, **settings_of(master))
        faces = [face["id"] for face in again.get(f"{PEOPLE}/{person}/faces").json()["faces"]]
        assert faces == [*enrolled, *more][: manifest.counts["faces"]]
        assert names_found(again, vector(7)) == ["Ada"]
        assert {who["name"] for who in again.get(PEOPLE).json()["people"]} == {"Ada"}
        stop(again)
        assert log_of(folder)[:-1] == log_of(make_location("store"))
        assert log_of(folder)[-1].event == Event.RESTORE


@pytest.mark.parametrize(
    ("by", "master"),
    [("replaced store", KEY), ("folder", None), ("export", KEY), ("ledger", None)],
    ids=["replaced", "folder", "export", "ledger"],
)
def test_who_was_erased_after_the_backup_stays_erased(
    make_api: Any, vector: Any, tmp_path: Path, master: bytes | None, by: str, make_location: Any
) -> None:
    store, kept = make_location("store"), tmp_path / "elsewhere.ledger"
    api = make_api(erasure_ledger=kept, **settings_of(master))
    people = {name: api.person(name) for name in ("Ada", "Bob", "Cleo")}
    faces = {name: api.enrol(person, vector(number))["id"] for number, (name, person) in enumerate(people.items())}
    second = api.enrol(people["Cleo"], vector(50))["id"]
    api.enrol(api.person("Dan", "guests"), vector(60), "guests")
    earlier = api.delete(f"{PEOPLE}/{api.person('Eve')}").headers["facemargin-receipt"]
    back_up(store, tmp_path / "backup")
    later = [
        api.delete(url).headers["facemargin-receipt"]
        for url in (f"{PEOPLE}/{people['Bob']}", f"{PEOPLE}/{people['Cleo']}/faces/{second}", "/v1/collections/guests")
    ]
    api.enrol(api.person("lost"), vector(70))
    stop(api)
    if by == "export":
        with Store(store, create=False) as opened:
            export_ledger(opened, tmp_path / "exported")
    folder = store if by == "replaced store" else make_location("restored")
    erasures = {"replaced store": None, "folder": store, "export": tmp_path / "exported", "ledger": kept}[by]
    done = restore(tmp_path / "backup", folder, master=master, erasures=erasures, replace=by == "replaced store")
    assert done.erased == 3
    held = held_in(folder)
    for number in (1, 50, 60):
        assert vector(number).tobytes() not in held
    again = make_api(store=folder, erasure_ledger=kept, **settings_of(master))
    assert {who["name"] for who in again.get(PEOPLE).json()["people"]} == {"Ada", "Cleo"}
    assert [collection["name"] for collection in again.get("/v1/collections").json()["collections"]] == ["staff"]
    assert again.get(f"{PEOPLE}/{people['Cleo']}/faces").json()["faces"][0]["id"] == faces["Cleo"]
    assert [names_found(again, vector(number)) for number in (0, 1, 2, 50)] == [["Ada"], [], ["Cleo"], []]
    receipt = again.delete(f"{PEOPLE}/{people['Ada']}").headers["facemargin-receipt"]
    stop(again)
    with Store(folder, create=False) as opened, opened.read() as session:
        receipts = [Receipt.parse(text) for text in (earlier, *later, done.audit_head, receipt)]
        assert check_log(session, receipts).faults == ()
    assert [record.seq for record in read_ledger(kept)] == list(range(1, len(log_of(folder)) + 1))


def test_without_a_ledger_it_says_what_that_means(
    make_api: Any, vector: Any, tmp_path: Path, make_location: Any
) -> None:
    api = make_api()
    person = api.person("Ada")
    back_up(make_location("store"), tmp_path / "backup")
    api.delete(f"{PEOPLE}/{person}")
    stop(api)
    folder = make_location("restored")
    with pytest.raises(StoreError, match="who was erased after the backup would come back"):
        restore(tmp_path / "backup", folder, master=None)
    assert is_empty(folder)
    restore(tmp_path / "backup", folder, master=None, without_ledger=True)
    assert [record.event for record in log_of(folder)] == [Event.RESTORE_WITHOUT_LEDGER]
    assert make_api(store=folder).get(f"{PEOPLE}/{person}").status_code == 200


def test_a_ledger_of_another_store_or_older_than_the_backup_is_refused(
    make_api: Any, tmp_path: Path, make_location: Any
) -> None:
    api, other = make_api(), make_api(store=make_location("other"))
    for name, one in (("store", api), ("other", other)):
        one.delete(f"{PEOPLE}/{one.person()}")
        export_ledger(one.service.store, tmp_path / f"{name}.ledger")
    api.delete(f"{PEOPLE}/{api.person()}")
    back_up(make_location("store"), tmp_path / "backup")
    for ledger in ("store.ledger", "other.ledger"):
        with pytest.raises(StoreError, match="older than the backup, or of another store"):
            restore(tmp_path / "backup", make_location("restored"), master=None, erasures=tmp_path / ledger)
    changed = tmp_path / "changed.ledger"
    changed.write_bytes((tmp_path / "store.ledger").read_bytes().replace(b"loopback", b"somebody"))
    with pytest.raises(StoreError, match="was changed: record 1"):
        restore(tmp_path / "backup", make_location("restored"), master=None, erasures=changed)
    changed.write_text("no record\n")
    with pytest.raises(StoreError, match="holds a line that is no record"):
        restore(tmp_path / "backup", make_location("restored"), master=None, erasures=changed)
    assert is_empty(make_location("restored"))


def test_keys_revoked_after_the_backup_stay_revoked(api: Any, tmp_path: Path, make_location: Any) -> None:
    store = api.service.store
    with store.write() as session:
        first, second = (create_key(session, label="", scopes=[Scope.READ]).split("_")[1] for _ in range(2))
    back_up(make_location("store"), tmp_path / "backup")
    with store.write() as session:
        revoke_key(session, first)
    stop(api)
    assert restore(tmp_path / "backup", make_location("store"), master=None, replace=True).revoked == 1
    with Store(make_location("store")) as opened, opened.read() as session:
        state = dict(session.connection().exec_driver_sql("SELECT id, revoked_at IS NOT NULL FROM api_keys").all())
    assert state == {first: 1, second: 0}


@pytest.fixture
def encrypted_backup(make_api: Any, vector: Any, tmp_path: Path, make_location: Any) -> Path:
    """A backup of an encrypted store that is stopped; its own folder holds nothing else."""
    api = make_api(**settings_of(KEY))
    for number in range(5):
        api.enrol(api.person(f"person {number}"), vector(number))
    api.delete(f"{PEOPLE}/{api.person('gone')}")
    (tmp_path / "backups").mkdir()
    back_up(make_location("store"), tmp_path / "backups" / "one")
    stop(api)
    return tmp_path / "backups" / "one"


def test_what_a_backup_says_and_what_is_not_in_it(encrypted_backup: Path, vector: Any) -> None:
    held = encrypted_backup.read_bytes()
    assert KEY not in held
    assert not any(vector(number).tobytes()[:16] in held for number in range(5))
    assert stat.S_IMODE(encrypted_backup.stat().st_mode) == 0o600
    assert list(encrypted_backup.parent.iterdir()) == [encrypted_backup]
    with opened_backup(encrypted_backup) as backup:
        backup.check()
        manifest = backup.manifest
    assert manifest.counts == {"collections": 1, "people": 5, "faces": 5, "templates": 5, "api_keys": 0}
    assert manifest.encrypted
    assert manifest.audit_head is not None
    assert manifest.audit_head.startswith("1-")


@pytest.mark.parametrize(("master", "said"), [(None, "is encrypted"), (OTHER, "another master key")])
def test_the_wrong_master_key_restores_nothing(
    encrypted_backup: Path, master: bytes | None, said: str, make_location: Any
) -> None:
    before = held_in(make_location("store"))
    with pytest.raises(StoreError, match=said):
        restore(encrypted_backup, make_location("store"), master=master, replace=True)
    assert held_in(make_location("store")) == before


@pytest.mark.sqlite
def test_a_torn_or_edited_backup_restores_nothing(encrypted_backup: Path, tmp_path: Path) -> None:
    whole = encrypted_backup.read_bytes()
    broken = tmp_path / "broken"
    for length in (0, 1, 511, 512, 700, 2000, len(whole) // 2, len(whole) - 10240 - 4096):
        broken.write_bytes(whole[:length])
        with pytest.raises(StoreError):
            restore(broken, tmp_path / "new", master=KEY, without_ledger=True)
    for place in range(600, len(whole) - 10240, 1999):
        broken.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        with contextlib.suppress(StoreError):  # a byte of a tar's padding says nothing
            restore(broken, tmp_path / "new", master=KEY, without_ledger=True)
            assert place < 3 * 512 + 1024
            shutil.rmtree(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def rewritten(backup: Path, target: Path, change: Callable[[dict[str, Any]], None], *, more: bool = False) -> Path:
    """The backup with another manifest."""
    with tarfile.open(backup) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    manifest = json.loads(members[MANIFEST])
    change(manifest)
    members[MANIFEST] = json.dumps(manifest).encode()
    if more:
        members["../../escaped"] = b"x"
    with tarfile.open(target, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return target


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_version": 1}, "tables of version 1"),
        ({"format": 2}, "format 2"),
        ({"sha256": "0" * 64}, "changed or is torn"),
        ({"bytes": 1}, "changed or is torn"),
        ({"audit_head": None}, "do not agree"),
        ({"master_key_id": None}, "do not agree"),
        ({"counts": {}}, "do not agree"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    encrypted_backup: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    edited = rewritten(encrypted_backup, tmp_path / "edited", lambda manifest: manifest.update(changes))
    with pytest.raises(StoreError, match=said):
        restore(edited, tmp_path / "new", master=KEY, without_ledger=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.sqlite
def test_a_backup_with_something_more_in_it_is_refused(encrypted_backup: Path, tmp_path: Path) -> None:
    edited = rewritten(encrypted_backup, tmp_path / "edited", lambda manifest: None, more=True)
    with pytest.raises(StoreError, match="is no backup"):
        restore(edited, tmp_path / "deep" / "new", master=KEY, without_ledger=True)
    assert not (tmp_path / "escaped").exists()


def test_what_is_there_is_not_given_up_unasked(
    make_api: Any, encrypted_backup: Path, tmp_path: Path, make_location: Any
) -> None:
    with pytest.raises(StoreError, match="--replace"):
        restore(encrypted_backup, make_location("store"), master=KEY)
    with pytest.raises(StoreError, match="is there already"):
        back_up(make_location("store"), encrypted_backup)
    with pytest.raises(StoreError, match="does not exist"):
        back_up(make_location("store"), tmp_path / "nowhere" / "backup")
    with pytest.raises(StoreError, match="there is no store"):
        back_up(tmp_path / "nowhere", tmp_path / "backup")
    running = make_api(**settings_of(KEY))
    with pytest.raises(StoreError, match=r"served by another process|services are on it"):
        restore(encrypted_backup, make_location("store"), master=KEY, replace=True)
    stop(running)


@pytest.mark.sqlite
def test_a_damaged_store_can_be_replaced_with_a_ledger_only(encrypted_backup: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Store(store) as opened:
        export_ledger(opened, tmp_path / "ledger")
    (store / DATABASE).write_bytes(b"ruined" * 1000)
    with pytest.raises(StoreError, match=r"cannot be read .* --erasures"):
        restore(encrypted_backup, store, master=KEY, replace=True)
    assert (store / DATABASE).read_bytes() == b"ruined" * 1000
    restore(encrypted_backup, store, master=KEY, replace=True, erasures=tmp_path / "ledger")
    assert len(log_of(store)) == 2


@contextlib.contextmanager
def full_disk(most_bytes: int) -> Iterator[None]:
    """No file may grow beyond this: what a full disk does to writers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.sqlite
@pytest.mark.parametrize("most_bytes", [100, 12_000, 25_000])
def test_a_full_disk_leaves_nothing_half_written(encrypted_backup: Path, tmp_path: Path, most_bytes: int) -> None:
    assert encrypted_backup.stat().st_size > 25_000
    before = (tmp_path / "store" / DATABASE).read_bytes()
    with full_disk(most_bytes):
        with pytest.raises(StoreError, match="cannot be"):
            back_up(tmp_path / "store", tmp_path / "backups" / "two")
        if most_bytes < 25_000:  # the database is smaller than the backup
            with pytest.raises(StoreError, match="cannot be"):
                restore(encrypted_backup, tmp_path / "new", master=KEY, erasures=tmp_path / "store")
    assert list((tmp_path / "backups").iterdir()) == [encrypted_backup]
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "store" / DATABASE).read_bytes() == before


def test_a_backup_carries_nothing_of_what_was_deleted(
    make_api: Any, vector: Any, tmp_path: Path, make_location: Any
) -> None:
    api = make_api()
    people = [api.person(f"person {number}") for number in range(15)]
    for number, person in enumerate(people):
        api.enrol(person, vector(number))
    for person in people[5:]:
        api.delete(f"{PEOPLE}/{person}")
    manifest: Manifest = back_up(make_location("store"), tmp_path / "backup")
    held = (tmp_path / "backup").read_bytes()
    assert manifest.counts["faces"] == 5
    assert not any(vector(number).tobytes()[:16] in held for number in range(5, 15))
    assert b"person 7" not in held


def test_a_ledger_takes_up_where_it_was_torn_and_refuses_another_store(
    make_api: Any, tmp_path: Path, make_location: Any
) -> None:
    path = tmp_path / "ledger"
    api = make_api(erasure_ledger=path)
    for _ in range(3):
        api.delete(f"{PEOPLE}/{api.person()}")
    stop(api)
    whole = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with Store(make_location("store")) as store:
            Ledger(path).follow(store)
        assert path.read_bytes() == whole
    with Store(make_location("other")) as store, pytest.raises(StoreError, match="does not belong"):
        Ledger(path).follow(store)
    with pytest.raises(StoreError, match="cannot be written"):
        make_api(erasure_ledger=tmp_path / "nowhere" / "ledger")
    make_api()  # the refused one let go of the store


def test_a_deletion_is_answered_though_the_ledger_is_gone_and_catches_up(make_api: Any, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    api = make_api(erasure_ledger=folder / "ledger")
    shutil.rmtree(folder)
    assert api.delete(f"{PEOPLE}/{api.person()}").status_code == 204
    folder.mkdir()
    assert api.delete(f"{PEOPLE}/{api.person()}").status_code == 204
    assert [record.seq for record in read_ledger(folder / "ledger")] == [1, 2]
