"""Moving a collection to another model: in the background, by clients, switched at once, rolled back, never mixed."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from facemargin.bundle import Bundle
from facemargin.embedder import Embedder
from facemargin.preprocessing import ImageLimits, Preprocessing, decode
from service import upgrader, upgrades
from service.store import FaceRow, TemplateRow, faces

pytestmark = pytest.mark.both_databases

UPGRADE = "/v1/collections/staff/upgrade"
PEOPLE = "/v1/collections/staff/people"


@pytest.fixture(scope="module")
def other(make_tiny_bundle: Any) -> Bundle:
    """A second model, with shorter vectors."""
    return make_tiny_bundle(seed=1, embedding_dim=24)  # type: ignore[no-any-return]


@pytest.fixture
def two(make_api: Any, other: Bundle) -> Any:
    return make_api(more_bundles=[other.path])


def photo(api: Any, person: str, image: bytes) -> str:
    answer = api.post(f"{PEOPLE}/{person}/faces", files={"image": image}, data={"aligned": "true"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def who(api: Any, image: bytes) -> list[str]:
    answer = api.post(
        "/v1/collections/staff/search", files={"image": image}, data={"aligned": "true", "threshold": "0.999"}
    )
    assert answer.status_code == 200, answer.text
    return [candidate["person"]["name"] for candidate in answer.json()["candidates"]]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def templates(api: Any, model: str) -> int:
    with api.service.store.read() as session:
        return session.scalar(select(func.count()).where(TemplateRow.model == model)) or 0


def enrol_five(api: Any, crop: Any, *, keep_crops: bool) -> dict[str, str]:
    assert api.put("/v1/collections/staff", json={"keep_crops": keep_crops}).status_code == 201
    people = {}
    for number in range(5):
        people[f"person {number}"] = api.person(f"person {number}")
        photo(api, people[f"person {number}"], crop(number))
    return people


@pytest.mark.sqlite
def test_both_models_are_told_and_embed(two: Any, crop: Any, other: Bundle, problem: Any) -> None:
    said = two.get("/v1/models").json()
    assert [model["id"] for model in said["models"]] == [said["model"], other.model_id] == list(two.service.models)
    sent = {"files": {"images": crop(1)}, "data": {"aligned": "true", "model": other.model_id}}
    found = two.post("/v1/embeddings", **sent).json()
    expected = Embedder(other).embed(decode(crop(1), ImageLimits())[None])[0]
    assert found["model"] == other.model_id
    np.testing.assert_allclose(found["images"][0]["faces"][0]["embedding"], expected, atol=1e-6)
    sent["data"]["model"] = "nobody"
    problem(two.post("/v1/embeddings", **sent), "model-mismatch", 409)


def test_from_stored_crops_to_the_switch_and_back(two: Any, crop: Any, other: Bundle, problem: Any) -> None:
    enrol_five(two, crop, keep_crops=True)
    assert two.get(UPGRADE).json()["state"] == "none"
    begun = two.put(UPGRADE, json={"model": other.model_id}).json()
    assert (begun["state"], begun["other_model"], begun["model"]) == ("moving", other.model_id, two.model)
    wait_for(lambda: two.get(UPGRADE).json()["embedded"] == 5)
    assert who(two, crop(3)) == ["person 3"]  # searched by the old model meanwhile
    switched = two.post(f"{UPGRADE}/switch")
    assert (switched.status_code, switched.json()["state"], switched.json()["model"]) == (
        200,
        "switched",
        other.model_id,
    )
    assert two.get("/v1/collections/staff").json() | {"created_at": None} == {
        "name": "staff",
        "model": other.model_id,
        "embedding_dim": 24,
        "keep_crops": True,
        "people": 5,
        "faces": 5,
        "created_at": None,
    }
    assert [who(two, crop(number)) for number in range(5)] == [[f"person {number}"] for number in range(5)]
    body = {"embedding": [1.0] + [0.0] * 31, "model": two.model}
    problem(two.post("/v1/collections/staff/search", json=body), "model-mismatch", 409)
    photo(two, two.get(PEOPLE).json()["people"][0]["id"], crop(7))  # both models learn a face that comes now
    assert two.post(f"{UPGRADE}/rollback").json()["model"] == two.model
    assert who(two, crop(7)) == ["person 0"]
    assert who(two, crop(4)) == ["person 4"]
    assert two.delete(UPGRADE).status_code == 204
    assert (templates(two, two.model), templates(two, other.model_id)) == (6, 0)
    problem(two.delete(UPGRADE), "upgrade-state", 409)


def test_the_vectors_in_use_are_the_new_models_own(two: Any, crop: Any, other: Bundle) -> None:
    enrol_five(two, crop, keep_crops=True)
    two.put(UPGRADE, json={"model": other.model_id})
    wait_for(lambda: two.get(UPGRADE).json()["embedded"] == 5)
    two.post(f"{UPGRADE}/switch")
    expected = Embedder(other).embed(decode(crop(2), ImageLimits())[None])[0]
    body = {"embedding": expected.tolist(), "model": other.model_id, "threshold": 0.5}
    best = two.post("/v1/collections/staff/search", json=body).json()["candidates"][0]
    assert (best["person"]["name"], best["similarity"]) == ("person 2", pytest.approx(1, abs=1e-5))


def test_without_crops_the_clients_send_faces_again(two: Any, crop: Any, other: Bundle, problem: Any) -> None:
    people = enrol_five(two, crop, keep_crops=False)
    two.put(UPGRADE, json={"model": other.model_id})
    standing = two.get(UPGRADE).json()
    assert (standing["faces"], standing["embedded"], standing["waiting"], standing["unreachable"]) == (5, 0, 0, 5)
    problem(two.post(f"{UPGRADE}/switch"), "upgrade-state", 409)
    for number, person in enumerate(people.values()):
        (face,) = two.get(f"{PEOPLE}/{person}/faces").json()["faces"]
        url = f"{PEOPLE}/{person}/faces/{face['id']}/template"
        sent = {"files": {"image": crop(number)}, "data": {"aligned": "true", "model": other.model_id}}
        assert two.put(url, **sent).status_code == 200
        problem(two.put(url, **sent), "upgrade-state", 409)  # it has one now
    photo(two, people["person 0"], crop(9))  # enrolled meanwhile: by both at once
    assert two.get(UPGRADE).json()["embedded"] == 6
    assert two.post(f"{UPGRADE}/switch").status_code == 200
    assert who(two, crop(3)) == ["person 3"]
    assert who(two, crop(9)) == ["person 0"]


@pytest.mark.sqlite
def test_leaving_faces_behind_is_said_aloud(two: Any, crop: Any, other: Bundle) -> None:
    people = enrol_five(two, crop, keep_crops=False)
    two.put(UPGRADE, json={"model": other.model_id})
    assert two.post(f"{UPGRADE}/switch", json={"leave_behind": True}).json()["model"] == other.model_id
    assert who(two, crop(3)) == []
    (face,) = two.get(f"{PEOPLE}/{people['person 3']}/faces").json()["faces"]
    sent = {"files": {"image": crop(3)}, "data": {"aligned": "true", "model": other.model_id}}
    assert two.put(f"{PEOPLE}/{people['person 3']}/faces/{face['id']}/template", **sent).status_code == 200
    assert who(two, crop(3)) == ["person 3"]


@pytest.mark.sqlite
def test_what_does_not_fit(two: Any, crop: Any, other: Bundle, problem: Any) -> None:
    people = enrol_five(two, crop, keep_crops=False)
    problem(two.put(UPGRADE, json={"model": two.model}), "upgrade-state", 409)
    problem(two.put(UPGRADE, json={"model": "nobody"}), "model-mismatch", 409)
    problem(two.put(UPGRADE, json={}), "invalid-request", 422)
    problem(two.post(f"{UPGRADE}/switch"), "upgrade-state", 409)
    problem(two.post(f"{UPGRADE}/rollback"), "upgrade-state", 409)
    problem(two.put("/v1/collections/none/upgrade", json={"model": other.model_id}), "not-found", 404)
    (face,) = two.get(f"{PEOPLE}/{people['person 1']}/faces").json()["faces"]
    url = f"{PEOPLE}/{people['person 1']}/faces/{face['id']}/template"
    sent = {"files": {"image": crop(1)}, "data": {"aligned": "true", "model": other.model_id}}
    problem(two.put(url, **sent), "upgrade-state", 409)
    del sent["data"]["model"]  # type: ignore[attr-defined]
    problem(two.put(url, **sent), "invalid-request", 422)


@pytest.mark.sqlite
def test_the_comparison_is_the_one_counted_by_hand(two: Any, crop: Any, other: Bundle) -> None:
    people = enrol_five(two, crop, keep_crops=True)
    for number, person in enumerate(people.values()):
        photo(two, person, crop(number, 1))
    two.put(UPGRADE, json={"model": other.model_id})
    wait_for(lambda: two.get(UPGRADE).json()["embedded"] == 10)
    assert two.get(UPGRADE).json()["comparison"] is None
    found = two.get(UPGRADE, params={"comparison": True}).json()["comparison"]
    assert (found["faces"], found["genuine_pairs"], found["impostor_pairs"]) == (10, 5, 40)
    for figures, bundle in ((found["present"], two.service.models.default.bundle), (found["other"], other)):
        vectors = Embedder(bundle).embed(
            np.stack([decode(crop(number, picture), ImageLimits()) for number in range(5) for picture in range(2)])
        )
        matches = {True: 0, False: 0}
        for one in range(10):
            for two_ in range(one):
                matches[one // 2 == two_ // 2] += bool(vectors[one] @ vectors[two_] >= figures["threshold"])
        assert figures["model"] == bundle.model_id
        assert figures["genuine_match_rate"] == pytest.approx(matches[True] / 5)
        assert figures["impostor_match_rate"] == pytest.approx(matches[False] / 40)


def test_a_restart_goes_on_with_the_upgrade(make_api: Any, crop: Any, other: Bundle) -> None:
    api = make_api()
    enrol_five(api, crop, keep_crops=True)
    api.close()
    api.service.close()
    api = make_api(more_bundles=[other.path])
    with api.service.store.write() as session:
        from service.store.people import collection

        collection(session, "staff").upgrade_model = other.model_id  # as if killed right after the request
    api.service.upgrader.wake()
    wait_for(lambda: api.get(UPGRADE).json()["embedded"] == 5)


@pytest.mark.sqlite
def test_a_collection_of_a_model_that_is_not_loaded(make_api: Any, crop: Any, other: Bundle, problem: Any) -> None:
    api = make_api(more_bundles=[other.path])
    enrol_five(api, crop, keep_crops=True)
    api.put(UPGRADE, json={"model": other.model_id})
    wait_for(lambda: api.get(UPGRADE).json()["embedded"] == 5)
    api.post(f"{UPGRADE}/switch")
    api.close()
    api.service.close()
    api = make_api()  # the second model is not named any more
    sent = {"files": {"image": crop(1)}, "data": {"aligned": "true"}}
    problem(api.post("/v1/collections/staff/search", **sent), "model-mismatch", 409)
    assert api.post(f"{UPGRADE}/rollback").status_code == 200
    assert who(api, crop(1)) == ["person 1"]


def test_no_search_meets_two_models_while_they_switch(two: Any, crop: Any, other: Bundle) -> None:
    enrol_five(two, crop, keep_crops=True)
    begin_and_wait(two, other)
    sent = [{"files": {"image": crop(number)}, "data": {"aligned": "true", "threshold": "0.99"}} for number in range(5)]

    def searches(number: int) -> list[tuple[int, Any]]:
        answers = [two.post("/v1/collections/staff/search", **sent[number]) for _ in range(25)]
        return [(answer.status_code, answer.json()) for answer in answers]

    def switches() -> None:
        for _ in range(6):
            assert two.post(f"{UPGRADE}/switch").status_code == 200
            assert two.post(f"{UPGRADE}/rollback").status_code == 200

    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(searches, number) for number in range(4)]
        pool.submit(switches).result()
        for number, done in enumerate(running):
            for status, body in done.result():
                assert status == 200, body
                assert [c["person"]["name"] for c in body["candidates"]] == [f"person {number}"]


def test_searches_and_writes_go_on_while_the_new_index_is_built(
    two: Any, crop: Any, other: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = enrol_five(two, crop, keep_crops=True)
    begin_and_wait(two, other)
    maker, found = two.service.gallery._maker, []
    building, go_on, built = threading.Event(), threading.Event(), maker.built

    def slowly(*arguments: Any) -> Any:
        shelf = built(*arguments)
        building.set()
        assert go_on.wait(20)
        return shelf

    monkeypatch.setattr(maker, "built", slowly)
    monkeypatch.setattr("service.writes._LONGEST_TURN_S", 1.0)
    with ThreadPoolExecutor(1) as pool:
        for way, known in (("switch", 8), ("rollback", 9)):
            building.clear()
            go_on.clear()
            moving = pool.submit(two.post, f"{UPGRADE}/{way}")
            assert building.wait(20)
            found.append(who(two, crop(1)))
            photo(two, people["person 0"], crop(known))
            go_on.set()
            assert moving.result(20).status_code == 200
            found.append(who(two, crop(known)))
    assert found == [["person 1"], ["person 0"]] * 2


@pytest.mark.parametrize("mode", ["best", "mean"])
def test_what_is_written_while_the_new_index_is_built_is_in_it(
    make_api: Any, crop: Any, other: Bundle, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    api = make_api(more_bundles=[other.path], templates=mode)
    people = enrol_five(api, crop, keep_crops=True)
    second = photo(api, people["person 2"], crop(12))
    begin_and_wait(api, other, 6)

    def writes() -> None:
        photo(api, people["person 1"], crop(11))
        assert api.delete(f"{PEOPLE}/{people['person 2']}/faces/{second}").status_code == 204
        assert api.delete(f"{PEOPLE}/{people['person 3']}").status_code == 204

    while_built(api, monkeypatch, writes)
    assert api.post(f"{UPGRADE}/switch").status_code == 200
    gallery = api.service.gallery
    (held,) = gallery._shelves.items()
    with api.service.store.read() as session:
        from service.store.people import collection

        expected = gallery._maker.built(session, collection(session, "staff"))
    assert held[1].people == expected.people
    ids = np.array(sorted(expected.people))
    np.testing.assert_array_equal(held[1].index.vectors(ids), expected.index.vectors(ids))
    assert held[1].sequence == expected.sequence
    assert who(api, crop(3)) == []


def test_vectors_that_were_dropped_and_made_anew_while_an_index_is_built(
    two: Any, crop: Any, other: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same faces, same model, other vectors: what was built from the first ones must not be searched."""
    people = enrol_five(two, crop, keep_crops=False)
    two.put(UPGRADE, json={"model": other.model_id})
    for number, person in enumerate(people.values()):
        send_again(two, person, crop(number), other)

    def anew() -> None:
        assert two.delete(UPGRADE).status_code == 204
        assert two.put(UPGRADE, json={"model": other.model_id}).status_code == 200
        for number, person in enumerate(people.values()):
            send_again(two, person, crop(20 + number), other)

    while_built(two, monkeypatch, anew)
    assert two.post(f"{UPGRADE}/switch").status_code == 200
    assert who(two, crop(23)) == ["person 3"]


@pytest.mark.sqlite
def test_an_index_that_nobody_searches_any_more_is_zeroed(two: Any, crop: Any, other: Bundle, problem: Any) -> None:
    people = enrol_five(two, crop, keep_crops=True)
    begin_and_wait(two, other)
    left = held(two)[1]
    assert two.post(f"{UPGRADE}/switch").status_code == 200
    assert not left._vectors.any()
    left = held(two)[1]
    assert left._vectors.any()
    assert two.delete("/v1/collections/staff").status_code == 204
    assert not left._vectors.any()
    assert two.service.gallery.total == 0
    assert people


def held(api: Any) -> tuple[int, Any]:
    """Number of the only collection, and what its index holds the vectors in."""
    ((number, shelf),) = api.service.gallery._shelves.items()
    return number, shelf.index._contents.delta


def while_built(api: Any, monkeypatch: pytest.MonkeyPatch, writes: Callable[[], None]) -> None:
    """Have the next index built, then these writes done by others, and then go on."""
    maker = api.service.gallery._maker
    built = maker.built
    monkeypatch.setattr("service.writes._LONGEST_TURN_S", 1.0)

    def building(*arguments: Any) -> Any:
        monkeypatch.setattr(maker, "built", built)
        shelf = built(*arguments)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(writes).result()
        return shelf

    monkeypatch.setattr(maker, "built", building)


def begin_and_wait(api: Any, bundle: Bundle, faces: int = 5) -> None:
    assert api.put(UPGRADE, json={"model": bundle.model_id}).status_code == 200
    wait_for(lambda: api.get(UPGRADE).json()["embedded"] == faces)


def send_again(api: Any, person: str, image: bytes, bundle: Bundle) -> None:
    (face,) = api.get(f"{PEOPLE}/{person}/faces").json()["faces"]
    sent = {"files": {"image": image}, "data": {"aligned": "true", "model": bundle.model_id}}
    assert api.put(f"{PEOPLE}/{person}/faces/{face['id']}/template", **sent).status_code == 200


@pytest.mark.sqlite
def test_a_crop_that_cannot_be_read_keeps_no_other_waiting(two: Any, crop: Any, other: Bundle, caplog: Any) -> None:
    enrol_five(two, crop, keep_crops=True)
    with two.service.store.write() as session:
        first, second, *_ = session.scalars(select(FaceRow).order_by(FaceRow.id))
        first.crop, second.crop = b"rot", crop(1, size=(56, 56))  # no image, and not of the template's size
    begin_and_wait(two, other, 3)
    two.service.upgrader.wake()
    standing = two.get(UPGRADE).json()
    assert [standing[name] for name in ("faces", "embedded", "waiting", "unreachable")] == [5, 3, 0, 2]
    assert [two.service.upgrader.step() for _ in range(3)] == [False] * 3
    assert sum("cannot be embedded again" in record.message for record in caplog.records) == 2
    assert two.get("/health/ready").status_code == 200


@pytest.mark.sqlite
def test_whatever_a_runtime_raises_the_upgrade_goes_on_and_readiness_tells(
    two: Any, crop: Any, other: Bundle, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrader, "_PAUSE_SECONDS", 0.01)
    enrol_five(two, crop, keep_crops=True)
    embedder = two.service.models[other.model_id].embedder

    def failing(_: Any) -> Any:
        raise RuntimeError("no memory for the network")

    with monkeypatch.context() as patch:
        patch.setattr(embedder, "embed", failing)
        two.put(UPGRADE, json={"model": other.model_id})
        wait_for(lambda: two.service.upgrader.failed["embedding again for upgrades"] > 3)
        told = {check["name"]: check["detail"] for check in two.get("/health/ready").json()["checks"]}
        assert "embedding again for upgrades has failed" in told["housekeeping"]
    wait_for(lambda: two.get(UPGRADE).json()["embedded"] == 5)
    wait_for(lambda: not two.service.upgrader.troubles())
    two.service.upgrader.stop()
    assert two.service.upgrader.troubles() == ["the thread of upgrades is not running"]


def test_no_reader_keeps_the_log_from_being_emptied_while_a_network_runs(
    two: Any, crop: Any, other: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = enrol_five(two, crop, keep_crops=True)
    embedder, forgotten = two.service.models[other.model_id].embedder, []

    def embedding(crops: Any) -> Any:
        two.service.writer.run(*_renaming(people["person 0"]))
        forgotten.append(two.service.store.forget())
        return Embedder.embed(embedder, crops)

    monkeypatch.setattr(embedder, "embed", embedding)
    two.service.upgrader.stop()
    two.put(UPGRADE, json={"model": other.model_id})
    assert two.service.upgrader.step()
    assert forgotten == [True]


def _renaming(person: str) -> Any:
    from service.store import PersonRow
    from service.writes import Once, Reply

    def work(session: Any, changes: Any) -> Reply:
        session.scalars(select(PersonRow).where(PersonRow.public_id == person)).one().name = "renamed"
        return Reply(200)

    return Once("test", None, b""), work


@pytest.mark.sqlite
def test_an_end_is_noticed_whenever_it_comes(two: Any) -> None:
    two.service.upgrader.stop()

    class StoppedJustBefore(threading.Event):
        def clear(self) -> None:
            again._ended.set()
            self.set()
            super().clear()

    again = upgrader.Upgrader(two.service.store, two.service.models, two.service.gallery, two.service.writer)
    again._wanted = StoppedJustBefore()
    again.wake()
    again.start()
    again._thread.join(2)
    assert not again._thread.is_alive()


@pytest.mark.sqlite
def test_a_comparison_reads_no_more_faces_than_it_compares(
    two: Any, crop: Any, other: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = enrol_five(two, crop, keep_crops=True)
    for number, person in enumerate(people.values()):
        photo(two, person, crop(number, 1))
    begin_and_wait(two, other, 10)
    opened, read = [], faces._opened

    def counted(vault: Any, rows: Any, *arguments: Any) -> Any:
        opened.extend(rows)
        return read(vault, rows, *arguments)

    monkeypatch.setattr(upgrades, "MOST_COMPARED", 4)
    monkeypatch.setattr(faces, "_opened", counted)
    found = two.get(UPGRADE, params={"comparison": True}).json()["comparison"]
    assert (found["faces"], found["genuine_pairs"], found["impostor_pairs"]) == (4, 2, 4)
    assert len(opened) == 8


@pytest.mark.sqlite
def test_a_model_of_another_template_gets_no_crop_of_this_one(make_api: Any, make_tiny_bundle: Any, crop: Any) -> None:
    narrow = make_tiny_bundle(seed=3, preprocessing=Preprocessing(size=(112, 96), template="sphereface-112x96"))
    api = make_api(more_bundles=[narrow.path])
    people = enrol_five(api, crop, keep_crops=True)
    api.put(UPGRADE, json={"model": narrow.model_id})
    photo(api, people["person 0"], crop(7))
    api.service.upgrader.stop()
    assert not api.service.upgrader.step()
    standing = api.get(UPGRADE).json()
    assert [standing[name] for name in ("faces", "embedded", "waiting", "unreachable")] == [6, 0, 0, 6]
    assert templates(api, narrow.model_id) == 0


@pytest.mark.parametrize("what", ["cancelled", "sent", "erased", "dropped"])
def test_what_happens_while_faces_are_embedded_again(
    two: Any, crop: Any, other: Bundle, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    people = enrol_five(two, crop, keep_crops=True)
    embedder = two.service.models[other.model_id].embedder
    embed = embedder.embed

    def meanwhile() -> None:
        if what == "cancelled":
            assert two.delete(UPGRADE).status_code == 204
        elif what == "sent":
            send_again(two, people["person 2"], crop(42), other)
        elif what == "erased":
            assert two.delete(f"{PEOPLE}/{people['person 2']}").status_code == 204
        else:
            assert two.delete("/v1/collections/staff").status_code == 204

    def embedding(crops: Any) -> Any:
        monkeypatch.setattr(embedder, "embed", embed)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(meanwhile).result()
        return embed(crops)

    two.service.upgrader.stop()
    two.put(UPGRADE, json={"model": other.model_id})
    with monkeypatch.context() as patch:
        patch.setattr(embedder, "embed", embedding)
        assert two.service.upgrader.step()
    assert templates(two, other.model_id) == {"cancelled": 0, "sent": 5, "erased": 4, "dropped": 0}[what]
    if what == "sent":  # the one that was sent stays
        assert two.post(f"{UPGRADE}/switch").status_code == 200
        assert who(two, crop(42)) == ["person 2"]


@pytest.mark.sqlite
def test_further_vectors_at_enrolment_come_through_the_queue_of_their_model(
    two: Any, crop: Any, other: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = enrol_five(two, crop, keep_crops=False)
    two.put(UPGRADE, json={"model": other.model_id})
    batcher = two.service.engine.batchers.of(two.service.models[other.model_id].embedder)
    queued, submit = [], batcher.submit

    def counted(crops: Any) -> Any:
        queued.extend(crops)
        return submit(crops)

    monkeypatch.setattr(batcher, "submit", counted)
    photo(two, people["person 0"], crop(9))
    assert len(queued) == 1
    assert templates(two, other.model_id) == 1
