"""Enrolling, listing and deleting faces."""

import json
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.both_databases


def enrol_image(api: Any, person: str, image: bytes, **fields: Any) -> Any:
    url = f"/v1/collections/staff/people/{person}/faces"
    return api.post(url, files={"image": image}, data={"aligned": "true", **fields})


def test_enrol_by_image(api: Any, crop: Any) -> None:
    person = api.person()
    answer = enrol_image(api, person, crop(1))
    assert answer.status_code == 201
    face = answer.json()
    assert (face["person"], face["collection"], face["source"]) == (person, "staff", "aligned")
    assert face["model"] == api.model
    assert face["quality"]["sharpness"] > 0
    listed = api.get(f"/v1/collections/staff/people/{person}/faces").json()
    assert face.pop("resemblance_checked") is True
    assert face.pop("warnings") == []
    assert listed["faces"] == [face]
    assert "embedding" not in json.dumps(listed).replace('"source": "embedding"', "")
    reply = api.post("/v1/collections/staff/search", files={"image": crop(1, 1)}, data={"aligned": "true"}).json()
    assert [candidate["person"]["id"] for candidate in reply["candidates"]] == [person]


def test_enrol_by_embedding_scales_to_unit_length(api: Any, vector: Any) -> None:
    person = api.person()
    face = api.enrol(person, vector(1) * 40)
    assert (face["source"], face["quality"]) == ("embedding", None)
    assert api.find(vector(1))["candidates"][0]["similarity"] == pytest.approx(1, abs=1e-5)


def test_delete_a_face(api: Any, problem: Any, vector: Any) -> None:
    person = api.person()
    first, second = api.enrol(person, vector(1))["id"], api.enrol(person, vector(2))["id"]
    url = f"/v1/collections/staff/people/{person}/faces"
    assert api.delete(f"{url}/{first}").status_code == 204
    problem(api.delete(f"{url}/{first}"), "not-found", 404)
    assert [face["id"] for face in api.get(url).json()["faces"]] == [second]
    assert api.find(vector(1))["candidates"] == []
    assert len(api.find(vector(2))["candidates"]) == 1


def test_deleting_a_person_takes_the_faces_out_of_search(api: Any, vector: Any) -> None:
    person = api.person()
    api.enrol(person, vector(1))
    api.delete(f"/v1/collections/staff/people/{person}")
    assert api.find(vector(1)) | {"model": ""} == {
        "collection": "staff",
        "model": "",
        "candidates": [],
        "templates": 0,
        "threshold": None,
        "threshold_fmr": None,
        "threshold_fpir": None,
        "extrapolated": False,
        "face": None,
    }


def test_a_face_that_is_also_somebody_else_is_a_warning(api: Any, vector: Any) -> None:
    ada, bob = api.person("Ada"), api.person("Bob")
    assert api.enrol(ada, vector(1))["warnings"] == []
    assert api.enrol(ada, vector(1))["warnings"] == []  # oneself is no warning
    assert api.enrol(bob, vector(2))["warnings"] == []
    (warning,) = api.enrol(bob, vector(1))["warnings"]
    assert warning["person"] == {"id": ada, "name": "Ada"}
    assert warning["similarity"] == pytest.approx(1, abs=1e-5)
    assert warning["fmr"] < 1e-3
    assert "'Ada'" in warning["detail"]


@pytest.mark.parametrize(
    ("embedding", "slug"),
    [
        ([0.0] * 32, "invalid-embedding"),
        ([1e-9] * 32, "invalid-embedding"),
        ([1e300] * 32, "invalid-embedding"),
        ([1.0] * 31, "invalid-embedding"),
        ([1.0] * 512, "invalid-embedding"),
        ([], "invalid-request"),
        ([1.0] * 20000, "invalid-request"),
        (["x"] * 32, "invalid-request"),
        ("AAAA", "invalid-request"),
        ([None] * 32, "invalid-request"),
        ([[1.0] * 32], "invalid-request"),
    ],
)
def test_embeddings_are_checked(shared_api: Any, problem: Any, embedding: Any, slug: str) -> None:
    person = shared_api.person()
    body = {"embedding": embedding, "model": shared_api.model}
    problem(shared_api.post(f"/v1/collections/staff/people/{person}/faces", json=body), slug, 422)
    problem(shared_api.post("/v1/collections/staff/search", json=body), slug, 422)
    assert shared_api.get(f"/v1/collections/staff/people/{person}").json()["faces"] == 0


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(shared_api: Any, problem: Any, number: str) -> None:
    person = shared_api.person()
    text = json.dumps({"embedding": [1.0] * 32, "model": shared_api.model}).replace("1.0", number, 1)
    url, headers = f"/v1/collections/staff/people/{person}/faces", {"Content-Type": "application/json"}
    problem(shared_api.post(url, content=text, headers=headers), "invalid-request", 422)
    assert shared_api.get(f"/v1/collections/staff/people/{person}").json()["faces"] == 0


def test_an_embedding_needs_its_model(shared_api: Any, problem: Any, vector: Any) -> None:
    url = f"/v1/collections/staff/people/{shared_api.person()}/faces"
    embedding = vector(1).tolist()
    problem(shared_api.post(url, json={"embedding": embedding}), "invalid-request", 422)
    body = problem(shared_api.post(url, json={"embedding": embedding, "model": "0" * 16}), "model-mismatch", 409)
    assert shared_api.model in body["detail"]


@pytest.mark.parametrize("fields", [{}, {"image": "AAAA", "embedding": [1.0], "model": "x"}])
def test_exactly_one_source(shared_api: Any, problem: Any, fields: dict[str, Any]) -> None:
    url = f"/v1/collections/staff/people/{shared_api.person()}/faces"
    problem(shared_api.post(url, json=fields), "invalid-request", 422)
    problem(shared_api.post("/v1/collections/staff/search", json=fields), "invalid-request", 422)


def test_min_quality_of_a_crop(api: Any, problem: Any, crop: Any) -> None:
    person = api.person()
    sharp = enrol_image(api, person, crop(1), min_quality='{"sharpness": 1}')
    assert sharp.status_code == 201
    body = problem(
        enrol_image(api, person, crop(1), min_quality='{"sharpness": 1e9, "score": 0.5}'), "quality-too-low", 422
    )
    assert {item["name"]: item["demanded"] for item in body["failures"]} == {"sharpness": 1e9, "score": 0.5}
    assert "cannot be measured on an aligned crop" in body["detail"]
    assert api.get(f"/v1/collections/staff/people/{person}").json()["faces"] == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"sharpnes": 1}', '{"score": 2}', '{"score": "NaN"}'])
def test_min_quality_is_checked(shared_api: Any, problem: Any, crop: Any, text: str) -> None:
    body = problem(enrol_image(shared_api, shared_api.person(), crop(1), min_quality=text), "invalid-request", 422)
    assert "min_quality" in body["detail"]


def test_min_quality_of_a_photograph(photo_api: Any, problem: Any, shared_data: Any) -> None:
    photo = (shared_data / "lfw/images/George_W_Bush/George_W_Bush_0003.jpg").read_bytes()
    person = photo_api.person()
    url = f"/v1/collections/staff/people/{person}/faces"

    def enrol(**least: float) -> Any:
        return photo_api.post(url, files={"image": photo}, data={"face": "largest", "min_quality": json.dumps(least)})

    answer = enrol(score=0.5, eye_distance_px=10, max_yaw_rad=1.2, max_pitch_rad=1.2, max_roll_rad=1.2)
    assert answer.status_code == 201, answer.text
    measured = answer.json()["quality"]
    assert answer.json()["source"] == "image"
    too_much = {
        "score": 1.0,
        "eye_distance_px": measured["eye_distance_px"] + 1,
        "sharpness": measured["sharpness"] + 1,
        "max_yaw_rad": abs(measured["pose"]["yaw_rad"]) / 2,
    }
    body = problem(enrol(**too_much), "quality-too-low", 422)
    assert {item["name"] for item in body["failures"]} == set(too_much)
    for item in body["failures"]:
        assert item["demanded"] == pytest.approx(too_much[item["name"]])
    assert len(photo_api.get(url).json()["faces"]) == 1


def test_an_unknown_person_is_told_before_the_image_is_looked_at(api: Any, problem: Any) -> None:
    api.put("/v1/collections/staff")
    problem(enrol_image(api, "p_unknown", b"not an image"), "not-found", 404)


def test_vectors_come_back_from_the_store_bit_for_bit(api: Any, vector: Any) -> None:
    from service.store.faces import templates_of_collection
    from service.store.people import collection

    person = api.person()
    api.enrol(person, vector(3))
    with api.service.store.read() as session:
        ((_, _, stored),) = templates_of_collection(session, collection(session, "staff"))
    expected = vector(3).astype(np.float64)
    np.testing.assert_array_equal(stored, (expected / np.linalg.norm(expected)).astype(np.float32))
