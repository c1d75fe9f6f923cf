"""Stores and backups as the release with tables of version 2 wrote them: opened, searched, restored."""

import hashlib
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facemargin.bundle import Bundle
from service.backup import back_up
from service.restore import restore
from service.store import Location, Store
from service.store.audit import check_log
from service.store.faces import template_blocks
from service.store.keys import keys
from service.store.people import collections
from service.store.sqlite import DATABASE
from service.store.tables import SCHEMA_VERSION, PersonRow

from .raw_store import execute

MASTER = bytes(range(32))
BACKED_UP = {"clear": None, "encrypted": MASTER}

pytestmark = pytest.mark.both_databases


@pytest.fixture
def old_store(tmp_path: Path, tiny_bundle: Bundle) -> Callable[[str], Path]:
    """Makes a folder as it was left; its model is the one of the tests, its reply to a write of a moment ago."""

    def make(kind: str) -> Path:
        folder = tmp_path / kind
        folder.mkdir()
        script = (Path(__file__).parent / f"version_2_{kind}.sql").read_text("utf-8")
        with closing(sqlite3.connect(folder / DATABASE)) as connection:
            connection.executescript(script.replace("the-model", tiny_bundle.model_id))
            moment = datetime.now(UTC).replace(tzinfo=None).isoformat(" ")
            connection.execute("UPDATE replies SET created_at = ?", (moment,))
            connection.commit()
        return folder

    return make


def old_backup(folder: Path, target: Path) -> Path:
    """A backup of a store of version 2, as the program of then made it: of the file as it is."""
    made = folder.with_name("made")
    (made / "copy").mkdir(parents=True)
    (made / "copy" / DATABASE).write_bytes((folder / DATABASE).read_bytes())
    manifest = back_up(made / "copy", made / "backup")
    content = (folder / DATABASE).read_bytes()
    of_then = {"schema_version": 2, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (made / "manifest.json").write_text(manifest.model_copy(update=of_then).model_dump_json())
    with tarfile.open(target, "w") as archive:
        archive.add(made / "manifest.json", "manifest.json")
        archive.add(folder / DATABASE, DATABASE)
    return target


def vectors_in(store: Store) -> Any:
    with store.read() as session:
        gallery = collections(session)[0]
        blocks = list(template_blocks(session, gallery, gallery.model))
    return np.concatenate([block.vectors for block in blocks])


@pytest.mark.sqlite
def test_a_service_goes_on_with_a_store_of_then(old_store: Any, make_api: Any, vector: Any) -> None:
    folder = old_store("clear")
    (folder / "snapshots").mkdir()
    left = folder / "snapshots" / "1.snapshot"
    left.write_bytes(b"of then")
    execute(folder, "DELETE FROM api_keys")  # whose answer is repeated depends on who asks
    api = make_api(store=folder, snapshot_faces=1)
    people = {one["name"]: one["id"] for one in api.get("/v1/collections/staff/people").json()["people"]}
    assert set(people) == {"Ada", "Bób ☂", "Sent twice"}
    for number, name in enumerate(("Ada", "Ada", "Bób ☂")):
        (hit,) = api.find(vector(number), threshold=0.99)["candidates"]
        assert hit["person"]["name"] == name
    assert api.find(vector(3), threshold=0.9)["candidates"] == []
    body, once = {"name": "Sent twice"}, {"Idempotency-Key": "once"}
    again = api.post("/v1/collections/staff/people", json=body, headers=once)
    assert (again.status_code, again.json()["id"]) == (201, people["Sent twice"])
    assert api.delete(f"/v1/collections/staff/people/{people['Ada']}").headers["Facemargin-Receipt"][:2] == "2-"
    api.service.gallery.save(api.service.store, 1)
    assert left.read_bytes() != b"of then"
    api.close()
    api.service.close()
    with Store(folder, create=False) as store, store.read() as session:
        verdict = check_log(session)
        assert (verdict.faults, verdict.count) == ((), 2)
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    api = make_api(store=folder)
    assert [hit["person"]["name"] for hit in api.find(vector(2), threshold=0.99)["candidates"]] == ["Bób ☂"]


@pytest.mark.sqlite
def test_what_was_encrypted_then_is_opened_now(old_store: Any, vector: Any) -> None:
    with Store(old_store("encrypted"), create=False) as store:
        store.unlock(MASTER)
        np.testing.assert_array_equal(vectors_in(store), [vector(number) for number in range(3)])


@pytest.mark.parametrize("kind", BACKED_UP)
def test_a_backup_of_then_is_restored(
    old_store: Any, tmp_path: Path, location: Location, vector: Any, kind: str
) -> None:
    backup = old_backup(old_store(kind), tmp_path / "old.backup")
    done = restore(backup, location, master=BACKED_UP[kind], without_ledger=True)
    assert done.manifest.schema_version == 2
    with Store(location, create=False) as store:
        store.unlock(BACKED_UP[kind])
        np.testing.assert_array_equal(vectors_in(store), [vector(number) for number in range(3)])
        with store.read() as session:
            assert check_log(session).faults == ()
            assert {row.name for row in session.query(PersonRow)} == {"Ada", "Bób ☂", "Sent twice", "Zoë"}
            assert {row.label: row.revoked_at is not None for row in keys(session)} == {"door": False, "lost": True}
