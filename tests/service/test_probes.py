"""Faces whose collection moves to another model between their embedding and what it is for."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select

from facemargin.bundle import Bundle
from service.routes import faces
from service.store import TemplateRow

UPGRADE = "/v1/collections/staff/upgrade"
SEARCH = "/v1/collections/staff/search"

Switches = Callable[[], int]


@pytest.fixture(scope="module")
def other(make_tiny_bundle: Any) -> Bundle:
    """A second model, with shorter vectors."""
    return make_tiny_bundle(seed=1, embedding_dim=24)  # type: ignore[no-any-return]


@pytest.fixture
def moving(make_api: Any, other: Bundle, crop: Any) -> Any:
    """A service whose collection, of one person, is about to be switched to the other model."""
    api = make_api(more_bundles=[other.path], compreface_collection="staff")
    api.ada = api.person("Ada")
    assert api.put(UPGRADE, json={"model": other.model_id}).status_code == 200
    assert enrol(api, crop(1)).status_code == 201
    return api


@pytest.fixture
def overtaken(moving: Any, monkeypatch: pytest.MonkeyPatch) -> Switches:
    """Switches, or goes back, after each of the first embeddings; gives how many embeddings there were."""
    embed, embedded = moving.service.engine.embed, list[str]()

    async def slow(*images: Any, **options: Any) -> Any:
        found = await embed(*images, **options)
        embedded.append(options["model"].id)
        if len(embedded) <= moving.switches:
            switch(moving)
        return found

    moving.switches = 1
    monkeypatch.setattr(moving.service.engine, "embed", slow)
    return lambda: len(embedded)


def enrol(api: Any, image: bytes) -> Any:
    return api.post(f"/v1/collections/staff/people/{api.ada}/faces", files={"image": image}, data={"aligned": "true"})


def switch(api: Any) -> None:
    from service.store.people import collection
    from service.upgrades import bind
    from service.writes import Once, Reply

    def work(session: Any, changes: Any) -> Reply:
        gallery = collection(session, "staff")
        model = api.service.models[gallery.upgrade_model or gallery.previous_model]
        moved = partial(api.service.gallery.moved, drafted=None)
        bind(session, changes, gallery, model=model, moved=moved)
        return Reply(200)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(api.service.writer.run, Once("test", None, b""), work).result().status == 200


def templates(api: Any) -> dict[str, int]:
    with api.service.store.read() as session:
        counted = select(TemplateRow.model, func.count().label("templates")).group_by(TemplateRow.model)
        return {row.model: row.templates for row in session.execute(counted)}


def test_a_face_is_enrolled_by_the_model_that_the_collection_has_then(
    moving: Any, crop: Any, other: Bundle, overtaken: Switches
) -> None:
    assert enrol(moving, crop(1, 1)).json()["model"] == other.model_id
    assert overtaken() == 2
    assert templates(moving) == {moving.model: 2, other.model_id: 2}


def test_a_search_is_answered_by_the_model_that_the_collection_has_then(
    moving: Any, crop: Any, other: Bundle, overtaken: Switches
) -> None:
    sent = {"files": {"image": crop(1)}, "data": {"aligned": "true", "threshold": "0.999"}}
    found = moving.post(SEARCH, **sent).json()
    assert (found["model"], [who["person"]["name"] for who in found["candidates"]]) == (other.model_id, ["Ada"])
    assert overtaken() == 2


@pytest.mark.parametrize(("route", "status"), [("faces?subject=Ada", 201), ("recognize", 200)])
def test_a_client_of_compreface_does_not_hear_of_a_switch(
    moving: Any, crop: Any, overtaken: Switches, route: str, status: int
) -> None:
    answer = moving.post(
        f"/api/v1/recognition/{route}",
        params={"detect_faces": "false"} | ({"subject": "Ada"} if "subject" in route else {}),
        files={"file": crop(1)},
    )
    assert answer.status_code == status, answer.text
    assert overtaken() == 2


def test_a_collection_that_keeps_moving_is_a_conflict_in_the_end(
    moving: Any, crop: Any, overtaken: Switches, problem: Any
) -> None:
    before = templates(moving)
    moving.switches = 100
    problem(enrol(moving, crop(1, 1)), "model-mismatch", 409)
    assert overtaken() == 4
    assert templates(moving) == before


def test_an_embedding_that_was_sent_is_not_enrolled_after_the_switch(
    moving: Any, other: Bundle, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe_of, before = faces.probe_of, templates(moving)

    async def slow(*arguments: Any) -> Any:
        probe = await probe_of(*arguments)
        switch(moving)
        return probe

    monkeypatch.setattr(faces, "probe_of", slow)
    body = {"embedding": [1.0] * moving.service.models.default.dim, "model": moving.model}
    problem(moving.post(f"/v1/collections/staff/people/{moving.ada}/faces", json=body), "model-mismatch", 409)
    assert templates(moving) == before
