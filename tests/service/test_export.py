"""The export of all that is held about a person."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from sqlalchemy import inspect

from facemargin.preprocessing import ImageLimits, decode

pytestmark = pytest.mark.both_databases

URL = "/v1/collections/staff/people/{}/export"


@pytest.mark.parametrize("encrypted", [False, True])
def test_everything_about_a_person_and_nothing_of_others(
    make_api: Any, vector: Any, crop: Any, encrypted: bool
) -> None:
    master = base64.b64encode(bytes(range(32))).decode()
    api = make_api(**({"master_key": master} if encrypted else {}))
    assert api.put("/v1/collections/staff", json={"keep_crops": True}).status_code == 201
    person, other = api.person("Ada"), api.person("Grace")
    made = api.enrol(person, vector(1))
    api.enrol(other, vector(2))
    faces = f"/v1/collections/staff/people/{person}/faces"
    headers = {"Idempotency-Key": "0f3c"}
    second = api.post(faces, files={"image": crop(3)}, data={"aligned": "true"}, headers=headers).json()
    third = api.enrol(person, vector(4))
    assert api.delete(f"{faces}/{third['id']}").status_code == 204

    answer = api.get(URL.format(person))
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == f'attachment; filename="{person}.json"'
    told = answer.json()
    assert told["person"] == api.get(f"/v1/collections/staff/people/{person}").json()
    listed = api.get(faces).json()["faces"]
    assert [{key: face[key] for key in listed[0]} for face in told["faces"]] == listed
    assert [face["id"] for face in told["faces"]] == [made["id"], second["id"]]
    first_template, second_template = (face["templates"] for face in told["faces"])
    assert first_template[0]["model"] == api.model
    np.testing.assert_allclose(
        np.frombuffer(base64.b64decode(first_template[0]["float32"]), "<f4"), vector(1), atol=1e-6
    )
    (embedded,) = api.post("/v1/embeddings", files={"images": crop(3)}, data={"aligned": "true"}).json()["images"]
    values = np.frombuffer(base64.b64decode(second_template[0]["float32"]), "<f4")
    np.testing.assert_allclose(values, embedded["faces"][0]["embedding"], atol=1e-6)
    assert values.size == second_template[0]["dim"]

    assert told["faces"][0]["crop"] is None
    limits = ImageLimits(max_bytes=10**7, max_side=1000, max_pixels=10**6)
    kept = decode(base64.b64decode(told["faces"][1]["crop"]), limits)
    assert kept.shape == (112, 112, 3)
    assert np.array_equal(kept, decode(crop(3), limits))
    assert told["stored_replies"] == 1
    assert [record["event"] for record in told["audit"]] == ["erase-face"]
    text = json.dumps(told)
    assert other not in text
    assert "Grace" not in text


def test_every_table_with_something_about_a_person_is_in_the_export(api: Any, vector: Any) -> None:
    """A table or column that is added must be thought of here: is it about a person, and is it in the export?"""
    api.enrol(api.person(), vector(1))
    known = {
        "collections": {"id", "public_id", "name", "model", "dim", "keep_crops", "sequence", "created_at"}
        | {"upgrade_model", "previous_model"},  # about no person
        "people": {"id", "public_id", "collection_id", "name", "wrapped_key", "expires_at", "created_at"},
        "faces": {"id", "public_id", "person_id", "source", "quality", "crop", "crop_template", "created_at"},
        "templates": {"face_id", "model", "sealed"},
        "replies": {"key", "fingerprint", "status", "sealed", "collection", "created_at"},  # counted
        "reply_mentions": {"pseudonym", "key"},  # by them
        "audit": {"seq", "at", "event", "collection", "person", "face", "faces", "actor", "previous", "digest"},
        "api_keys": {"id", "digest", "label", "scopes", "collections", "requests_per_minute"}
        | {"created_at", "expires_at", "revoked_at"},  # about no person
        "meta": {"name", "value"},  # about no person
        "changes": {"seq", "collection", "removed", "added", "rebuild", "at"},  # row numbers of a minute or two
        "taken": {"who", "taken", "at"},  # pseudonyms of keys and addresses
        "replicas": {"id", "described", "started_at", "seen_at"},  # about no person
        "alembic_version": {"version_num"},  # about no person
    }
    with api.service.store.read() as session:
        seen = inspect(session.connection())
        found = {
            table: {column["name"] for column in seen.get_columns(table)} - {"filler"}  # zeros
            for table in seen.get_table_names()
        }
    assert found == known


def test_who_is_not_there_has_no_export(api: Any, problem: Any) -> None:
    problem(api.get(URL.format("p_x")), "not-found", 404)
    person = api.person()
    problem(api.get(f"/v1/collections/guests/people/{person}/export"), "not-found", 404)
    api.patch(f"/v1/collections/staff/people/{person}", json={"expires_at": "2020-01-01T00:00:00Z"})
    problem(api.get(URL.format(person)), "not-found", 404)
