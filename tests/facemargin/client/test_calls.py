"""Every call of both clients, against the service itself."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from facemargin.client import (
    AsyncClient,
    BadImage,
    Client,
    Conflict,
    InvalidRequest,
    MinQuality,
    ModelMismatch,
    NoTemplate,
    NotFound,
    QualityTooLow,
    Retries,
)
from facemargin.client.operation import Listing
from facemargin.client.operations import Operations


class Awaited:
    """An `AsyncClient` with the face of a blocking one: each call is awaited, each listing drawn out."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client, self._runner = client, runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        async def drawn(*args: Any, **kwargs: Any) -> list[Any]:
            return [item async for item in method(*args, **kwargs)]

        call = drawn if isinstance(getattr(Operations, name), Listing) else method
        return lambda *args, **kwargs: self._runner.run(call(*args, **kwargs))


@pytest.fixture(params=["blocking", "awaited"])
def service(request: pytest.FixtureRequest, client: Client, app: FastAPI) -> Iterator[Any]:
    if request.param == "blocking":
        yield client
        return
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("127.0.0.1", 50000))
    with asyncio.Runner() as runner:
        made = AsyncClient("http://127.0.0.1", transport=transport, retries=Retries(deadline=5))
        yield Awaited(made, runner)
        runner.run(made.close())


def test_collections(service: Any) -> None:
    found = service.collection("staff")
    assert (found.name, found.people, found.faces, found.keep_crops) == ("staff", 0, 0, False)
    assert "staff" in [item.name for item in service.collections().collections]
    assert service.create_collection("staff", keep_crops=True).keep_crops
    assert service.create_collection("other", model=found.model).model == found.model
    assert service.delete_collection("other") is None
    with pytest.raises(NotFound) as raised:
        service.collection("other")
    assert raised.value.members["collection"] == "other"
    with pytest.raises(ModelMismatch):
        service.create_collection("staff", model="0123456789abcdef")


def test_people(service: Any) -> None:
    end = datetime(2099, 1, 31, 12, tzinfo=UTC)
    ids = [service.add_person("staff", f"Person {number % 2}").id for number in range(5)]
    assert [person.id for person in service.people("staff", page_size=2)] == ids
    assert [person.id for person in service.people("staff", name="Person 1")] == ids[1::2]
    page = service.people_page("staff", limit=3)
    assert [person.id for person in service.people_page("staff", cursor=page.next).people] == ids[3:]
    assert service.change_person("staff", ids[0], name="Ada", expires_at=end).expires_at == end
    assert service.person("staff", ids[0]).name == "Ada"
    changed = service.change_person("staff", ids[0], name="Ada King")
    assert (changed.name, changed.expires_at) == ("Ada King", end)
    assert service.change_person("staff", ids[0], expires_at=None).expires_at is None
    assert service.add_person("staff", "Guest", expires_at=end).expires_at == end
    assert service.export_person("staff", ids[0]).person == service.person("staff", ids[0])
    assert service.delete_person("staff", ids[0]) is None
    with pytest.raises(NotFound):
        service.person("staff", ids[0])
    with pytest.raises(ValueError, match="time zone"):
        service.change_person("staff", ids[1], expires_at=datetime(2099, 1, 1))
    with pytest.raises(InvalidRequest) as raised:
        service.change_person("staff", ids[1])
    assert raised.value.members["errors"]


def test_faces_and_what_is_compared_with_them(service: Any, crop: Any) -> None:
    ada, grace = service.add_person("staff", "Ada").id, service.add_person("staff", "Grace").id
    with pytest.raises(NoTemplate):
        service.verify(crop(1), collection="staff", person=ada, aligned=True)
    face = service.enrol("staff", ada, crop(1), aligned=True)
    assert (face.person, face.source, face.warnings) == (ada, "aligned", [])
    again = service.enrol("staff", grace, crop(1, 1), aligned=True, min_quality=MinQuality(sharpness=1))
    assert [warning.person.name for warning in again.warnings] == ["Ada"]
    with pytest.raises(QualityTooLow) as raised:
        service.enrol("staff", grace, crop(1, 1), aligned=True, min_quality=MinQuality(sharpness=1e9))
    assert raised.value.members["failures"][0]["name"] == "sharpness"
    assert [item.id for item in service.faces("staff", ada).faces] == [face.id]
    found = service.search("staff", crop(1, 2), aligned=True, limit=1)
    assert len(found.candidates) == 1
    assert service.search("staff", crop(1, 2), aligned=True, threshold=1.0).candidates == []
    against = service.verify(crop(1, 3), collection="staff", person=ada, aligned=True, max_fmr=0.01)
    assert against.match
    assert against.person is not None
    assert against.person.name == "Ada"
    assert service.verify(crop(1, 3), collection="staff", face_id=face.id, aligned=True).match
    assert service.verify(crop(1), crop(1, 1), aligned=True).face_b is not None
    assert not service.verify(crop(1), crop(2), aligned=True, threshold=0.9, face="largest").match
    service.delete_face("staff", grace, again.id)
    assert service.collection("staff").faces == 1


def test_embeddings(service: Any, crop: Any) -> None:
    model = service.models().model
    found = service.embed(crop(1), crop(2), aligned=True, face="single", model=model)
    faces = [image.faces[0] for image in found.images]
    assert (found.model, len(faces[0].embedding)) == (model, 32)
    assert isinstance(faces[0].embedding, list)
    vector = faces[0].vector
    assert (vector.dtype, vector.shape) == (np.float32, (32,))
    person = service.add_person("staff", "Ada").id
    assert service.enrol_embedding("staff", person, vector, model).source == "embedding"
    [template] = service.export_person("staff", person).faces[0].templates
    np.testing.assert_array_equal(template.vector, vector)
    near = service.search_embedding("staff", faces[0].embedding, model, limit=3, max_fpir=0.01)
    assert [candidate.person.id for candidate in near.candidates] == [person]
    with pytest.raises(ModelMismatch):
        service.search_embedding("staff", vector, "0123456789abcdef")
    with pytest.raises(ValueError, match="at least one"):
        service.embed()
    with pytest.raises(BadImage) as raised:
        service.embed(crop(1), b"no picture", aligned=True)
    assert raised.value.members["image"] == "images[1]"


def test_pictures_go_without_the_names_of_their_files(client: Client, transport: Any, tmp_path: Any, crop: Any) -> None:
    path = tmp_path / "ada-lovelace.png"
    path.write_bytes(crop(1))
    client.embed(path, aligned=True)
    assert b"lovelace" not in transport.requests[-1].content
    assert crop(1) in transport.requests[-1].content


def test_the_service_itself(service: Any) -> None:
    assert service.live().status == "live"
    ready = service.ready()
    models = service.models()
    assert ready.model == models.model == models.models[0].id
    assert ready.calibrated
    assert models.models[0].calibration is not None
    assert models.models[0].calibration.thresholds


def test_upgrades(service: Any, crop: Any) -> None:
    person = service.add_person("staff", "Ada").id
    face = service.enrol("staff", person, crop(1), aligned=True)
    assert service.upgrade("staff", comparison=True).state == "none"
    model = service.models().model
    for refused in (
        lambda: service.begin_upgrade("staff", model),
        lambda: service.switch_model("staff"),
        lambda: service.roll_back_model("staff"),
        lambda: service.finish_upgrade("staff"),
        lambda: service.send_again("staff", person, face.id, crop(1), model, aligned=True),
        lambda: service.send_embedding_again("staff", person, face.id, [1.0] * 32, model),
    ):
        with pytest.raises(Conflict):
            refused()


def test_a_frozen_reply_cannot_be_changed(client: Client) -> None:
    with pytest.raises(ValueError, match="frozen"):
        client.live().status = "live"  # type: ignore[misc]
