"""Restores over what is there: nobody's erasure is forgotten, and nothing is left by a kill, a reader or an old log."""

import base64
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, select

from service.backup import back_up, opened_backup
from service.errors import StoreError
from service.ledger import export_ledger
from service.restore import restore
from service.security import Scope, create_key
from service.store import CollectionRow, FaceRow, Location, PersonRow, Store, TemplateRow
from service.store.audit import Event, check_log, records
from service.store.faces import NewFace, add_face, add_template
from service.store.keys import revoke_key
from service.store.location import described
from service.store.people import add_collection, add_person, collections
from service.store.snapshot_keys import collections_with_snapshot_key, keep_snapshot_key
from service.store.sqlite import DATABASE

from .raw_store import execute, is_empty

KEY, OTHER = bytes(range(32)), bytes(range(32, 64))
pytestmark = pytest.mark.both_databases

PEOPLE = "/v1/collections/staff/people"
CROP = b"\x89PNG as good as" + bytes(range(200))


def stop(api: Any) -> None:
    api.close()
    api.service.close()


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.fixture
def exported_early(make_api: Any, tmp_path: Path, make_location: Any) -> None:
    """A backup, a ledger exported after Bob was erased, and a store in which then Cleo was erased and a key revoked."""
    api = make_api()
    people = {name: api.person(name) for name in ("Ada", "Bob", "Cleo")}
    store = api.service.store
    with store.write() as session:
        admin = create_key(session, label="", scopes=[Scope.ADMIN])
        key = create_key(session, label="", scopes=[Scope.READ]).split("_")[1]
    api.headers["authorization"] = f"Bearer {admin}"
    while api.get("/v1/collections").status_code == 401:  # on PostgreSQL a key counts within a second
        time.sleep(0.25)
    back_up(make_location("store"), tmp_path / "backup")
    assert api.delete(f"{PEOPLE}/{people['Bob']}").status_code == 204
    export_ledger(store, tmp_path / "ledger")
    assert api.delete(f"{PEOPLE}/{people['Cleo']}").status_code == 204
    with store.write() as session:
        revoke_key(session, key)
    stop(api)


@pytest.mark.usefixtures("exported_early")
def test_who_was_erased_after_the_ledger_was_exported_stays_erased(tmp_path: Path, make_location: Any) -> None:
    store = make_location("store")
    done = restore(tmp_path / "backup", store, master=None, erasures=tmp_path / "ledger", replace=True)
    assert (done.erased, done.revoked) == (2, 1)
    with Store(store, create=False) as opened, opened.read() as session:
        assert session.scalars(select(PersonRow.name)).all() == ["Ada"]


@pytest.mark.sqlite
@pytest.mark.usefixtures("exported_early")
def test_the_longer_of_two_logs_counts_whichever_it_is(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Store(store, create=False) as opened:
        export_ledger(opened, tmp_path / "longer")
    restore(tmp_path / "backup", tmp_path / "old", master=None, erasures=tmp_path / "ledger")
    with Store(tmp_path / "old", create=False) as opened, opened.read() as session:
        assert [record.event for record in records(session)] == [Event.PERSON, Event.RESTORE]
    with pytest.raises(StoreError, match="not of one history"):
        restore(tmp_path / "backup", tmp_path / "old", master=None, erasures=tmp_path / "longer", replace=True)
    shutil.rmtree(tmp_path / "old")
    (tmp_path / "old").mkdir()
    shutil.copy(tmp_path / "store" / DATABASE, tmp_path / "old")
    done = restore(tmp_path / "backup", tmp_path / "old", master=None, erasures=store, replace=True)
    assert (done.erased, done.unread) == (2, None)


@pytest.mark.usefixtures("exported_early")
def test_keys_stay_revoked_though_nothing_is_known_of_erasures(tmp_path: Path, make_location: Any) -> None:
    done = restore(tmp_path / "backup", make_location("store"), master=None, without_ledger=True, replace=True)
    assert (done.erased, done.revoked) == (0, 1)
    with pytest.raises(StoreError, match="contradict each other"):
        restore(tmp_path / "backup", make_location("n"), master=None, without_ledger=True, erasures=tmp_path / "ledger")


@pytest.mark.usefixtures("exported_early")
def test_a_store_with_a_broken_log_is_no_source_of_erasures(tmp_path: Path, make_location: Any) -> None:
    store = make_location("store")
    on_table = " ON audit" if isinstance(store, URL) else ""
    execute(store, f"DROP TRIGGER audit_keeps{on_table}", "UPDATE audit SET faces = 7 WHERE seq = 1")
    with pytest.raises(StoreError, match=r"log of the store in \S+ is broken: record 1"):
        restore(tmp_path / "backup", make_location("new"), master=None, erasures=make_location("store"))
    done = restore(tmp_path / "backup", make_location("store"), master=None, erasures=tmp_path / "ledger", replace=True)
    assert done.unread is not None
    assert "record 1" in done.unread


def test_a_store_that_is_served_is_no_source_of_erasures(api: Any, tmp_path: Path, make_location: Any) -> None:
    api.person("Ada")
    back_up(make_location("store"), tmp_path / "backup")
    with pytest.raises(StoreError, match=r"store is being served by another process|services are on it"):
        restore(tmp_path / "backup", make_location("new"), master=None, erasures=make_location("store"))
    assert is_empty(make_location("new"))


def test_the_source_of_erasures_cannot_be_served_before_the_restore_is_done(
    make_api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_location: Any
) -> None:
    api = make_api()
    api.person("Ada")
    back_up(make_location("store"), tmp_path / "backup")
    stop(api)

    def try_to_serve(*_: Any, **__: Any) -> None:
        with pytest.raises(StoreError, match=r"served by another process|needs it alone is at work"):
            make_api()
        raise KeyboardInterrupt

    monkeypatch.setattr("service.restore._prepared", try_to_serve)
    with pytest.raises(KeyboardInterrupt):
        restore(tmp_path / "backup", make_location("new"), master=None, erasures=make_location("store"))


_KILLED = """
import os, signal, sys
from pathlib import Path
import service.backup, service.places, service.restore
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
if sys.argv[2] == "backup":
    service.backup._pack = die
    service.backup.back_up(folder / "store", folder / "second")
service.places._Folder.take = die
service.restore.restore(folder / "backup", folder / "new", master=None, erasures=folder / "store")
"""


def killed(folder: Path, doing: str) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(folder), doing], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.sqlite
@pytest.mark.parametrize("then", ["serve", "restore", "backup"])
def test_what_a_kill_leaves_is_gone_with_the_next_start(make_api: Any, vector: Any, tmp_path: Path, then: str) -> None:
    api = make_api()
    person, data = api.person("Ada"), vector(1).tobytes()
    api.enrol(person, vector(1))
    back_up(tmp_path / "store", tmp_path / "backup")
    if then == "backup":
        stop(api)
        killed(tmp_path, "backup")
        assert data in files(tmp_path / "second.part")
        back_up(tmp_path / "store", tmp_path / "second")
        assert {path.name for path in tmp_path.glob("*second*")} == {"second"}
        return
    stop(api)
    killed(tmp_path, "restore")
    assert data in files(tmp_path / "new")
    again = make_api(store=tmp_path / "new" if then == "serve" else tmp_path / "store")
    assert again.delete(f"{PEOPLE}/{person}").status_code == (404 if then == "serve" else 204)
    stop(again)
    if then == "restore":
        restore(tmp_path / "backup", tmp_path / "new", master=None, erasures=tmp_path / "store")
    assert data not in files(tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} <= {DATABASE, "serve.lock", "snapshots"}


@pytest.mark.sqlite
def test_a_folder_that_no_backup_left_is_not_emptied(api: Any, tmp_path: Path) -> None:
    (tmp_path / "two.part").mkdir()
    (tmp_path / "two.part" / "mine").write_text("x")
    with pytest.raises(StoreError, match="holds mine"):
        back_up(tmp_path / "store", tmp_path / "two")
    assert (tmp_path / "two.part" / "mine").read_text() == "x"


@pytest.mark.sqlite
def test_two_backups_to_one_file_do_not_meet(api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import service.backup

    pack = service.backup._pack

    def meet(*arguments: Any) -> None:
        with pytest.raises(StoreError, match="another backup is being written"):
            back_up(tmp_path / "store", tmp_path / "two")
        pack(*arguments)

    monkeypatch.setattr("service.backup._pack", meet)
    back_up(tmp_path / "store", tmp_path / "two")
    assert (tmp_path / "two").is_file()


@pytest.mark.sqlite
def test_what_fails_beside_an_open_backup_is_not_called_its_fault(api: Any, tmp_path: Path) -> None:
    back_up(tmp_path / "store", tmp_path / "backup")
    with pytest.raises(OSError, match="of another file"), opened_backup(tmp_path / "backup"):
        raise OSError("of another file")
    (tmp_path / "there").touch()
    with opened_backup(tmp_path / "backup") as backup, pytest.raises(FileExistsError):
        backup.extract(tmp_path / "there")


@pytest.mark.parametrize(("master", "said"), [(None, "is encrypted"), (OTHER, "another master key")])
def test_a_wrong_key_is_told_of_the_store_that_was_named(
    make_api: Any, tmp_path: Path, master: bytes | None, said: str, make_location: Any
) -> None:
    api = make_api(master_key=base64.b64encode(KEY).decode())
    api.person()
    back_up(make_location("store"), tmp_path / "backup")
    stop(api)
    with pytest.raises(
        StoreError, match=f"the store {re.escape(described(make_location('new')))} is encrypted"
    ) as caught:
        restore(tmp_path / "backup", make_location("new"), master=master, without_ledger=True)
    assert said in str(caught.value)


def made_by_hand(folder: Location, vector: Callable[[int], Any]) -> None:
    with Store(folder) as store:
        store.unlock(KEY)
        with store.write() as session:
            gallery = add_collection(session, "staff", model="m", dim=32, keep_crops=True)
            person = add_person(session, gallery, "Ada")
            face = add_face(session, gallery, person, NewFace(vector(1), "aligned", None, CROP, "arcface-112"))
            add_template(session, gallery, person, face, "another model", vector(2))


@pytest.mark.parametrize("what", ["m", "another model", "crop"])
def test_a_template_or_crop_that_does_not_open_is_found_before_anything_is_replaced(
    tmp_path: Path, vector: Any, what: str, make_location: Any
) -> None:
    made_by_hand(make_location("store"), vector)
    with Store(make_location("store")) as store:
        store.unlock(KEY)
        with store.write() as session:
            if what == "crop":
                (face,) = session.query(FaceRow)
                face.crop = bytes(len(face.crop or b""))
            else:
                (template,) = session.query(TemplateRow).filter_by(model=what)
                template.sealed = bytes(len(template.sealed))
    back_up(make_location("store"), tmp_path / "backup")
    with pytest.raises(StoreError, match=f"{what}: what is stored cannot be decrypted"):
        restore(tmp_path / "backup", make_location("new"), master=KEY, without_ledger=True)
    assert is_empty(make_location("new"))


def test_keys_of_snapshots_are_not_restored(tmp_path: Path, vector: Any, make_location: Any) -> None:
    made_by_hand(make_location("store"), vector)
    with Store(make_location("store")) as store:
        store.unlock(KEY)
        with store.write() as session:
            keep_snapshot_key(session, 1, OTHER)
    back_up(make_location("store"), tmp_path / "backup")
    restore(tmp_path / "backup", make_location("new"), master=KEY, without_ledger=True)
    with Store(make_location("new")) as store, store.read() as session:
        assert collections_with_snapshot_key(session) == set()


@pytest.mark.sqlite
@pytest.mark.parametrize("lost", [False, True], ids=["ruined", "lost"])
def test_the_logs_of_a_store_that_is_no_more_are_not_taken_for_those_of_the_new_one(
    tmp_path: Path, vector: Any, lost: bool
) -> None:
    old = tmp_path / "store"
    made_by_hand(old, vector)
    back_up(old, tmp_path / "backup")
    with Store(old) as store:
        store.unlock(KEY)
        with store.write() as session:
            add_collection(session, "later", model="m", dim=32)
        shutil.copytree(old, tmp_path / "killed")
    ruined = tmp_path / "killed"
    assert (ruined / f"{DATABASE}-wal").stat().st_size > 0
    (ruined / DATABASE).write_bytes(b"ruined" * 1000)
    if lost:
        (ruined / DATABASE).unlink()
    done = restore(tmp_path / "backup", ruined, master=KEY, without_ledger=True, replace=not lost)
    assert (done.unread is None) == lost
    assert {path.name for path in ruined.iterdir()} == {DATABASE, "serve.lock"}
    with Store(ruined) as store, store.read() as session:
        assert [gallery.name for gallery in collections(session)] == ["staff"]
        assert check_log(session).faults == ()


@pytest.mark.sqlite
def test_a_store_that_somebody_reads_is_not_replaced(tmp_path: Path, vector: Any) -> None:
    folder = tmp_path / "store"
    made_by_hand(folder, vector)
    back_up(folder, tmp_path / "backup")
    with Store(folder) as store, store.read() as session:
        assert session.query(CollectionRow).count() == 1
        store.unlock(KEY)
        with store.write() as writing:
            add_collection(writing, "later", model="m", dim=32)
        with pytest.raises(StoreError, match="being read or written by another process"):
            restore(tmp_path / "backup", folder, master=KEY, replace=True)
    with Store(folder) as store, store.read() as session:
        assert [gallery.name for gallery in collections(session)] == ["later", "staff"]


def test_a_collection_is_not_erased_for_another_one_that_had_its_row_number(
    make_api: Any, tmp_path: Path, make_location: Any
) -> None:
    store = make_location("store")
    api = make_api()
    api.person("Ada")
    back_up(store, tmp_path / "before")
    api.person("Xaver", "second")
    back_up(store, tmp_path / "other branch")
    stop(api)
    restore(tmp_path / "before", store, master=None, replace=True)
    api = make_api()
    api.person("Yvonne", "unrelated")
    assert api.delete("/v1/collections/unrelated").status_code == 204
    stop(api)
    restore(tmp_path / "other branch", store, master=None, replace=True)
    found = make_api().get("/v1/collections").json()["collections"]
    assert [gallery["name"] for gallery in found] == ["second", "staff"]
