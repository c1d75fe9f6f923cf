"""A service whose indexes outlive it: in the store's PostgreSQL, and in Milvus."""

import time
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from facemargin.bundle import Bundle
from facemargin.errors import ConfigError
from service import durable_gallery, following_gallery
from service.alignment import apart
from service.backup import back_up
from service.durable_gallery import DurableGallery
from service.restore import restore
from service.store import CollectionRow
from service.store.change_log import drop_old_changes
from service.store.followed import indexes_in_clear, serve_index
from service.store.snapshot_keys import collections_with_snapshot_key

PEOPLE = "/v1/collections/staff/people"
UPGRADE = "/v1/collections/staff/upgrade"

ENGINES = [("postgresql", "pgvector:"), ("sqlite", "milvus:"), ("postgresql", "milvus:")]
everywhere = pytest.mark.parametrize(("database", "engine"), ENGINES, indirect=["database"])
often = pytest.mark.parametrize(
    ("database", "engine"), [*ENGINES[:2], pytest.param(*ENGINES[2], marks=pytest.mark.slow)], indirect=["database"]
)
pgvector = pytest.mark.parametrize(("database", "engine"), [("postgresql", "pgvector:")], indirect=["database"])
milvus = pytest.mark.parametrize(("database", "engine"), [("sqlite", "milvus:")], indirect=["database"])


@pytest.fixture
def start(make_api: Any, engine: str, tmp_path: Path) -> Callable[..., Any]:
    """Starts a service with the engine; a second one goes on where the first one ended."""
    url = f"milvus:{tmp_path / 'milvus.db'}" if engine == "milvus:" else engine

    def make(**settings: Any) -> Any:
        return make_api(**{"index": url, "housekeeping_seconds": 0.5, **settings})

    return make


def ended(api: Any) -> None:
    api.close()
    api.service.close()


def names(api: Any, vector: Any, collection: str = "staff", **more: Any) -> list[str]:
    return [found["person"]["name"] for found in api.find(vector, collection, threshold=0.9, **more)["candidates"]]


def check_aligned(api: Any, collections: int = 1) -> None:
    """The engine holds exactly what the store says, and nothing else."""
    gallery: DurableGallery = api.service.gallery
    with api.service.store.read() as session:
        rows = session.scalars(select(CollectionRow)).all()
        for row in rows:
            found = apart(
                session, gallery._entries, row, gallery._index(gallery._names.of_row(row), row.dim), vectors=True
            )
            assert not len(found.ids), found
        assert len(rows) == collections
        assert gallery._engine.names() <= {gallery._names.of_row(row) for row in rows}


@everywhere
def test_a_service_from_the_first_face_to_the_last(start: Any, vector: Any, problem: Any) -> None:
    api = start()
    ada, bob = api.person("Ada"), api.person("Bob")
    faces = [api.enrol(ada, vector(number))["id"] for number in (1, 2)]
    assert api.enrol(bob, vector(3))["resemblance_checked"]
    assert api.find(vector(1), threshold=0.9)["templates"] == 3
    assert [names(api, vector(number)) for number in (1, 2, 3, 4)] == [["Ada"], ["Ada"], ["Bob"], []]
    (warning,) = api.enrol(bob, vector(1))["warnings"]
    assert warning["person"]["name"] == "Ada"
    eve = api.person("Eve", "guests")
    api.enrol(eve, vector(1), "guests")
    assert names(api, vector(1), "guests") == ["Eve"]
    assert sorted(names(api, vector(1))) == ["Ada", "Bob"]
    check_aligned(api, 2)

    assert api.delete(f"{PEOPLE}/{ada}/faces/{faces[1]}").status_code == 204
    assert names(api, vector(2)) == []
    assert api.delete(f"{PEOPLE}/{bob}").status_code == 204
    assert names(api, vector(3)) == []
    check_aligned(api, 2)
    ended(api)

    again = start()
    assert [names(again, vector(1)), names(again, vector(3)), names(again, vector(1), "guests")] == [
        ["Ada"],
        [],
        ["Eve"],
    ]
    check_aligned(again, 2)
    with again.service.store.read() as session:
        assert indexes_in_clear(session) == [again.service.gallery._engine.place]
    assert again.delete("/v1/collections/guests").status_code == 204
    check_aligned(again)
    problem(
        again.post("/v1/collections/guests/search", json={"embedding": vector(1).tolist(), "model": again.model}),
        "not-found",
        404,
    )
    assert again.get("/health/ready").status_code == 200
    assert again.service.gallery.total == 1


@pytest.fixture(scope="module")
def other(make_tiny_bundle: Any) -> Bundle:
    """A second model, with shorter vectors."""
    return make_tiny_bundle(seed=1, embedding_dim=24)  # type: ignore[no-any-return]


def photo(api: Any, person: str, image: bytes) -> str:
    answer = api.post(f"{PEOPLE}/{person}/faces", files={"image": image}, data={"aligned": "true"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def who(api: Any, image: bytes) -> list[str]:
    sent = {"aligned": "true", "threshold": "0.99"}
    answer = api.post("/v1/collections/staff/search", files={"image": image}, data=sent)
    assert answer.status_code == 200, answer.text
    return [candidate["person"]["name"] for candidate in answer.json()["candidates"]]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("database", "engine", "mode"),
    [
        ("postgresql", "pgvector:", "best"),
        ("sqlite", "milvus:", "mean"),
        pytest.param("postgresql", "pgvector:", "mean", marks=pytest.mark.slow),
        pytest.param("sqlite", "milvus:", "best", marks=pytest.mark.slow),
        pytest.param("postgresql", "milvus:", "mean", marks=pytest.mark.slow),
    ],
    indirect=["database"],
)
def test_a_collection_moves_to_another_model_and_back(
    start: Any, crop: Any, other: Bundle, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    api = start(more_bundles=[other.path], templates=mode)
    assert api.put("/v1/collections/staff", json={"keep_crops": True}).status_code == 201
    people = [api.person(f"person {number}") for number in range(4)]
    for number, person in enumerate(people):
        photo(api, person, crop(number))
    second = photo(api, people[2], crop(12))
    assert api.put(UPGRADE, json={"model": other.model_id}).status_code == 200
    api.service.upgrader.wake()
    wait_for(lambda: api.get(UPGRADE).json()["embedded"] == 5)
    filled = api.service.gallery._filled

    def meanwhile(*arguments: Any) -> Any:
        """What is written while the index of the other model is being filled, beside the switch."""
        drafted = filled(*arguments)
        photo(api, people[1], crop(11))
        assert api.delete(f"{PEOPLE}/{people[2]}/faces/{second}").status_code == 204
        assert api.delete(f"{PEOPLE}/{people[3]}").status_code == 204
        return drafted

    monkeypatch.setattr(api.service.gallery, "_filled", meanwhile)
    assert api.post(f"{UPGRADE}/switch").status_code == 200
    monkeypatch.undo()
    check_aligned(api)
    assert [who(api, crop(number)) for number in (0, 2, 3, 12)] == [["person 0"], ["person 2"], [], []]
    photo(api, people[0], crop(20))
    assert api.post(f"{UPGRADE}/rollback").status_code == 200
    check_aligned(api)
    assert who(api, crop(2)) == ["person 2"]
    assert api.delete(UPGRADE).status_code == 204
    check_aligned(api)


@pgvector
def test_an_index_that_is_being_filled_is_left_alone_by_others(
    start: Any, crop: Any, other: Bundle, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = start(more_bundles=[other.path])
    assert api.put("/v1/collections/staff", json={"keep_crops": True}).status_code == 201
    photo(api, api.person(), crop(1))
    assert api.put(UPGRADE, json={"model": other.model_id}).status_code == 200
    api.service.upgrader.wake()
    wait_for(lambda: api.get(UPGRADE).json()["embedded"] == 1)
    filled, gallery = api.service.gallery._filled, api.service.gallery
    beside = type(gallery)(api.service.store, gallery._engine, url="pgvector:", templates="best")

    def meanwhile(*arguments: Any) -> Any:
        drafted = filled(*arguments)
        beside._sweep(api.service.store)  # as another service of the store would
        problem(api.post(f"{UPGRADE}/switch"), "upgrade-state", 409)
        return drafted

    monkeypatch.setattr(gallery, "_filled", meanwhile)
    assert api.post(f"{UPGRADE}/switch").status_code == 200
    check_aligned(api)
    assert who(api, crop(1)) == ["Ada"]


@pgvector
def test_vectors_that_were_dropped_while_an_index_was_filled_are_not_searched(
    start: Any, vector: Any, other: Bundle, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = start(more_bundles=[other.path])
    face = api.enrol(person := api.person(), vector(1))["id"]

    def again(number: int) -> None:
        assert api.put(UPGRADE, json={"model": other.model_id}).status_code == 200
        sent = {"embedding": vector(number, 24).tolist(), "model": other.model_id}
        answer = api.put(f"{PEOPLE}/{person}/faces/{face}/template", json=sent)
        assert answer.status_code == 200, answer.text

    again(5)
    filled = api.service.gallery._filled

    def meanwhile(*arguments: Any) -> Any:
        drafted = filled(*arguments)
        assert api.delete(UPGRADE).status_code == 204
        again(6)
        return drafted

    monkeypatch.setattr(api.service.gallery, "_filled", meanwhile)
    problem(api.post(f"{UPGRADE}/switch"), "upgrade-state", 409)
    monkeypatch.undo()
    check_aligned(api)
    assert api.post(f"{UPGRADE}/switch").status_code == 200
    check_aligned(api)


@often
def test_subjects_of_compreface_are_kept_there_too(start: Any, crop: Any) -> None:
    api = start(templates="mean")
    for number in (1, 1, 2):
        sent = {
            "params": {"subject": f"subject {number}", "detect_faces": "false"},
            "files": {"file": ("i.jpg", crop(number))},
        }
        assert api.post("/api/v1/recognition/faces", **sent).status_code == 201
    asked = {"params": {"detect_faces": "false"}, "files": {"file": ("i.jpg", crop(2))}}
    (found,) = api.post("/api/v1/recognition/recognize", **asked).json()["result"]
    assert found["subjects"][0]["subject"] == "subject 2"
    assert api.delete("/api/v1/recognition/subjects/subject%202").status_code == 200
    check_aligned(api)


@milvus
def test_whoever_has_expired_leaves_the_index(start: Any, vector: Any) -> None:
    api = start()
    assert api.put("/v1/collections/staff").status_code == 201
    soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
    person = api.post(PEOPLE, json={"name": "Ada", "expires_at": soon}).json()["id"]
    api.enrol(person, vector(1))
    wait_for(lambda: api.find(vector(1), threshold=0.9)["templates"] == 0)
    check_aligned(api)


@pgvector
@pytest.mark.parametrize("when", ["before the commit", "by the database"])
def test_a_write_that_fails_after_the_index_has_changed_leaves_nothing_in_it(
    start: Any, vector: Any, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    api = start()
    person = api.person()
    face = api.enrol(person, vector(1))["id"]
    gallery, failing = api.service.gallery, OperationalError("COMMIT", {}, Exception("no room"))
    prepare = gallery.prepare

    def fails(session: Any, changes: Any) -> None:
        prepare(session, changes)
        if when == "before the commit":
            raise failing
        session.execute(text("SELECT 1 / 0"))

    monkeypatch.setattr(gallery, "prepare", fails)
    body = {"embedding": vector(2).tolist(), "model": api.model}
    assert api.post(f"{PEOPLE}/{person}/faces", json=body).status_code in (500, 503)
    assert api.delete(f"{PEOPLE}/{person}/faces/{face}").status_code in (500, 503)
    monkeypatch.undo()
    check_aligned(api)
    assert [names(api, vector(1)), names(api, vector(2))] == [["Ada"], []]


@milvus
def test_what_was_committed_before_a_service_died_is_taken_over_by_the_next(
    start: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = start(templates="mean")
    ada, bob = api.person("Ada"), api.person("Bob")
    api.enrol(ada, vector(1))
    api.enrol(bob, vector(3))
    monkeypatch.setattr(api.service.gallery, "follow", lambda *_: None)  # as if it had been killed after the commit
    monkeypatch.setattr(api.service.gallery, "repair", lambda *_: None)
    api.enrol(ada, vector(2))
    api.enrol(api.person("Eve"), vector(4))
    assert api.delete(f"{PEOPLE}/{bob}").status_code == 204
    assert names(api, vector(3)) == []  # the index has him still
    monkeypatch.setattr(api.service.gallery._position, "keep", lambda: None)
    ended(api)
    again = start(templates="mean")
    check_aligned(again)
    assert names(again, vector(4)) == ["Eve"]


@milvus
def test_a_write_whose_first_service_died_is_followed_when_it_is_sent_again(
    start: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = start(housekeeping_seconds=30)
    person = api.person()
    body, once = {"embedding": vector(1).tolist(), "model": api.model}, {"Idempotency-Key": "k-1"}
    monkeypatch.setattr(api.service.gallery, "follow", lambda *_: None)
    assert api.post(f"{PEOPLE}/{person}/faces", json=body, headers=once).status_code == 201
    monkeypatch.undo()
    assert names(api, vector(1)) == []
    assert api.post(f"{PEOPLE}/{person}/faces", json=body, headers=once).status_code == 201
    assert names(api, vector(1)) == ["Ada"]


@often
@pytest.mark.parametrize("vectors", [False, True])
def test_an_index_that_is_a_little_apart_is_mended_at_start(start: Any, vector: Any, vectors: bool) -> None:
    api = start()
    for number in range(4):
        api.enrol(api.person(f"person {number}"), vector(number))
    gallery = api.service.gallery
    with api.service.store.read() as session:
        row = session.scalars(select(CollectionRow)).one()
    index = gallery._index(gallery._names.of_row(row), row.dim)
    first, second, *_ = index.ids().tolist()
    index.remove(np.array([first, second]))
    index.add(np.array([second, 10**6]), np.stack([vector(9 if vectors else 1), vector(10)]))
    gallery._engine.index(gallery._names.of("c_" + "0" * 16, "gone"), 8)
    if vectors:
        serve_index(api.service.store, "faiss:")
    ended(api)
    again = start()
    check_aligned(again)
    assert names(again, vector(0)) == ["person 0"]


@often
def test_a_restored_store_is_compared_with_a_newer_index_vector_by_vector(
    start: Any, vector: Any, location: Any, tmp_path: Path
) -> None:
    api = start(templates="mean")
    api.enrol(ada := api.person(), vector(1))
    back_up(location, tmp_path / "backup")
    api.enrol(ada, vector(2))  # another vector of the same entry
    ended(api)
    restore(tmp_path / "backup", location, master=None, without_ledger=True, replace=True)
    again = start(templates="mean")
    check_aligned(again)
    assert again.find(vector(1), threshold=0.99)["candidates"]


@often
def test_an_index_may_be_filled_for_longer_than_the_log_is_kept(
    start: Any, vector: Any, other: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = start(more_bundles=[other.path])
    face = api.enrol(person := api.person(), vector(1))["id"]
    assert api.put(UPGRADE, json={"model": other.model_id}).status_code == 200
    sent = {"embedding": vector(5, 24).tolist(), "model": other.model_id}
    assert api.put(f"{PEOPLE}/{person}/faces/{face}/template", json=sent).status_code == 200
    filled = api.service.gallery._filled

    def meanwhile(*arguments: Any) -> Any:
        drafted = filled(*arguments)
        eve = api.person("Eve", "guests")
        api.enrol(eve, vector(2), "guests")
        api.enrol(eve, vector(3), "guests")
        with api.service.store.write() as session:
            drop_old_changes(session, before=datetime.now(UTC) + timedelta(seconds=1))
        return drafted

    monkeypatch.setattr(api.service.gallery, "_filled", meanwhile)
    assert api.post(f"{UPGRADE}/switch").status_code == 200
    check_aligned(api, 2)


@pgvector
def test_a_draft_is_tidied_only_when_it_is_searched(
    start: Any, vector: Any, other: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = start(more_bundles=[other.path], housekeeping_seconds=30)
    face = api.enrol(person := api.person(), vector(1))["id"]
    assert api.put(UPGRADE, json={"model": other.model_id}).status_code == 200
    sent = {"embedding": vector(5, 24).tolist(), "model": other.model_id}
    assert api.put(f"{PEOPLE}/{person}/faces/{face}/template", json=sent).status_code == 200
    gallery = api.service.gallery
    gallery._untidy.clear()
    filled = gallery._filled

    def watched(*arguments: Any) -> Any:
        drafted = filled(*arguments)
        assert not gallery._untidy
        return drafted

    monkeypatch.setattr(gallery, "_filled", watched)
    assert api.post(f"{UPGRADE}/switch").status_code == 200
    assert gallery._untidy == set(gallery._indexes)


@pytest.mark.parametrize(("database", "engine"), [("postgresql", "milvus:")], indirect=["database"])
def test_a_service_that_starts_keeps_no_other_one_from_writing(
    start: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = start()
    one.enrol(one.person("Ada"), vector(1))
    compare, come = durable_gallery.apart, ["Bob"]

    def meanwhile(*arguments: Any, **more: Any) -> Any:
        found = compare(*arguments, **more)
        if come:
            one.enrol(one.person(come.pop()), vector(2))
            assert names(one, vector(2)) == ["Bob"]
        return found

    monkeypatch.setattr(durable_gallery, "apart", meanwhile)
    two = start()
    assert not come
    assert [names(api, vector(number)) for api in (one, two) for number in (1, 2)] == [["Ada"], ["Bob"]] * 2
    check_aligned(two)


@pgvector
def test_an_index_that_is_being_vacuumed_is_dropped_later(start: Any, vector: Any) -> None:
    api = start()
    api.enrol(api.person(), vector(1))
    ((name, _),) = api.service.gallery._indexes.items()
    with api.service.store.engine.execution_options(takes_turns=False).begin() as connection:
        connection.execute(text(f'LOCK TABLE facemargin_vectors."{name}" IN SHARE UPDATE EXCLUSIVE MODE'))  # as VACUUM
        began = time.monotonic()
        assert api.delete("/v1/collections/staff").status_code == 204
        assert time.monotonic() - began < 10
        assert api.service.gallery._engine.names()
    wait_for(lambda: not api.service.gallery._engine.names())


@often
def test_an_index_that_is_far_apart_is_refused_at_start(
    start: Any, make_api: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = make_api()
    for number in range(3):
        api.enrol(api.person(f"person {number}"), vector(number))
    ended(api)
    monkeypatch.setattr(durable_gallery, "MOST_MENDED", 2)
    monkeypatch.setattr(following_gallery, "MOST_MENDED", 2)
    with pytest.raises(ConfigError, match=r"3 entries apart from the store \(3 missing.*gallery move"):
        start()


@pgvector
def test_an_index_that_somebody_dropped_is_made_anew(start: Any, vector: Any, problem: Any) -> None:
    api = start(housekeeping_seconds=0.2)
    api.enrol(api.person(), vector(1))
    gallery = api.service.gallery
    for name in gallery._engine.names():
        gallery._engine.drop(name)
    sent = {"embedding": vector(1).tolist(), "model": api.model, "threshold": 0.9}
    problem(api.post("/v1/collections/staff/search", json=sent), "index-unavailable", 503)
    problem(api.get("/health/ready"), "not-ready", 503)
    wait_for(lambda: api.get("/health/ready").status_code == 200)
    assert names(api, vector(1)) == ["Ada"]


def test_pgvector_needs_a_store_on_postgresql(make_api: Any) -> None:
    with pytest.raises(ConfigError, match="needs a store on PostgreSQL"):
        make_api(index="pgvector:")


@often
def test_an_encrypted_store_needs_leave_for_an_engine_that_holds_templates_in_the_clear(
    start: Any, vector: Any, engine: str
) -> None:
    key = SecretStr(b64encode(bytes(range(32))).decode())
    with pytest.raises(ConfigError, match="--allow-plaintext-index"):
        start(master_key=key)
    api = start(master_key=key, allow_plaintext_index=True)
    api.enrol(api.person(), vector(1))
    assert names(api, vector(1)) == ["Ada"]
    check_aligned(api)


@milvus
def test_snapshots_of_an_index_in_memory_do_not_outlive_it(start: Any, make_api: Any, vector: Any) -> None:
    api = make_api()
    api.enrol(api.person(), vector(1))
    for number in api.service.gallery.unsaved(1):
        assert api.service.gallery.save(api.service.store, number)
    folder = api.service.store.folder / "snapshots"
    assert list(folder.iterdir())
    ended(api)
    again = start()
    assert not list(folder.iterdir())
    with again.service.store.read() as session:
        assert not collections_with_snapshot_key(session)
    assert again.get("/metrics").status_code == 200


@often
def test_what_was_removed_is_tidied_by_the_housekeeping(
    start: Any, vector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable_gallery, "_TIDY_AGAIN_S", 0.0)
    monkeypatch.setattr(durable_gallery, "_IDLE_FACTOR", 0.0)
    api = start(housekeeping_seconds=0.1)
    person = api.person()
    face = api.enrol(person, vector(1))["id"]
    gallery = api.service.gallery
    wait_for(lambda: not gallery._untidy)
    ((name, index),) = gallery._indexes.items()
    tidied: list[str] = []
    monkeypatch.setattr(index, "tidy", lambda: tidied.append(name))
    api.enrol(person, vector(2))
    time.sleep(0.3)
    assert not tidied
    assert api.delete(f"{PEOPLE}/{person}/faces/{face}").status_code == 204
    wait_for(lambda: tidied == [name])


@pytest.mark.parametrize(
    ("database", "engine"), [("postgresql", "pgvector:"), ("postgresql", "milvus:")], indirect=["database"]
)
def test_two_services_search_what_each_of_them_wrote(
    start: Any, crop: Any, vector: Any, other: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (start(more_bundles=[other.path], templates="mean") for _ in range(2))
    assert one.put("/v1/collections/staff", json={"keep_crops": True}).status_code == 201
    ada, bob = one.person("Ada"), two.person("Bob")
    photo(one, ada, crop(1))
    photo(two, bob, crop(2))
    assert [who(api, crop(number)) for api in (one, two) for number in (1, 2)] == [["Ada"], ["Bob"]] * 2
    photo(two, ada, crop(1, 1))
    assert one.delete(f"{PEOPLE}/{bob}").status_code == 204
    assert [who(two, crop(1)), who(two, crop(2))] == [["Ada"], []]
    assert one.put(UPGRADE, json={"model": other.model_id}).status_code == 200
    one.service.upgrader.wake()
    wait_for(lambda: one.get(UPGRADE).json()["embedded"] == 2)
    assert one.post(f"{UPGRADE}/switch").status_code == 200
    assert who(two, crop(1)) == ["Ada"]
    photo(two, two.person("Eve"), crop(5))
    assert two.post(f"{UPGRADE}/rollback").status_code == 200
    assert [who(one, crop(1)), who(one, crop(5))] == [["Ada"], ["Eve"]]
    check_aligned(one)
    assert two.delete("/v1/collections/staff").status_code == 204
    check_aligned(one, 0)
    monkeypatch.setattr(one.service.gallery, "follow", lambda *_: None)  # as if it had been killed after the commit
    photo(one, one.person("Joe"), crop(6))
    wait_for(lambda: who(two, crop(6)) == ["Joe"])
    check_aligned(two)
