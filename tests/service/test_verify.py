"""POST /v1/verify: pairs of images, an image and somebody enrolled, thresholds and rates."""

import base64
from typing import Any

import numpy as np
import pytest


def verify(api: Any, image_a: bytes, image_b: bytes | None = None, **fields: Any) -> Any:
    files = {"image_a": image_a} | ({"image_b": image_b} if image_b is not None else {})
    return api.post("/v1/verify", files=files, data={"aligned": "true", **fields})


def test_same_and_different(api: Any, crop: Any, synthetic_calibration: Any) -> None:
    same = verify(api, crop(1, 0), crop(1, 1)).json()
    other = verify(api, crop(1, 0), crop(2, 0)).json()
    assert (same["match"], other["match"]) == (True, False)
    wanted = synthetic_calibration.threshold(1e-3, extrapolate=True)
    for reply in (same, other):
        assert reply["threshold"] == pytest.approx(wanted.value)
        assert reply["threshold_fmr"] == pytest.approx(wanted.fmr)
        assert reply["extrapolated"] is False
        assert reply["probability"] == pytest.approx(synthetic_calibration.probability(reply["similarity"]))
        assert reply["fmr"] == pytest.approx(synthetic_calibration.fmr(reply["similarity"]))
        assert reply["model"] == api.model
        assert reply["person"] is None


def test_the_similarity_is_the_cosine_of_the_embeddings(api: Any, crop: Any) -> None:
    pair = [base64.b64encode(crop(n)).decode() for n in (1, 2)]
    images = api.post("/v1/embeddings", json={"images": pair, "aligned": True}).json()["images"]
    first, second = (image["faces"][0]["embedding"] for image in images)
    reply = api.post("/v1/verify", json={"image_a": pair[0], "image_b": pair[1], "aligned": True}).json()
    assert reply["similarity"] == pytest.approx(float(np.dot(first, second)), abs=1e-6)


def test_a_stricter_rate_is_a_higher_threshold(api: Any, crop: Any) -> None:
    thresholds = [verify(api, crop(1), crop(2), max_fmr=rate).json()["threshold"] for rate in (0.1, 0.01, 0.001)]
    assert thresholds == sorted(thresholds)
    assert len(set(thresholds)) == 3


def test_beyond_the_data_is_marked_or_refused(make_api: Any, problem: Any, crop: Any, tmp_path: Any) -> None:
    reply = verify(make_api(), crop(1), crop(1, 1), max_fmr=1e-6).json()
    assert reply["extrapolated"] is True
    strict = make_api(extrapolate=False, store=tmp_path / "strict")
    body = problem(verify(strict, crop(1), crop(1, 1), max_fmr=1e-6), "unsupported-fmr", 422)
    smallest = body["smallest_supported"]
    assert 1e-6 < smallest < 1e-2
    assert f"{smallest:g}" in body["detail"]
    assert verify(strict, crop(1), crop(1, 1), max_fmr=smallest).status_code == 200


def test_an_explicit_threshold_decides(api: Any, crop: Any) -> None:
    similarity = verify(api, crop(1), crop(2)).json()["similarity"]
    below, above = similarity - 1e-3, similarity + 1e-3
    assert verify(api, crop(1), crop(2), threshold=below).json()["match"] is True
    reply = verify(api, crop(1), crop(2), threshold=above).json()
    assert (reply["match"], reply["threshold"]) == (False, pytest.approx(above))


def test_without_calibration_only_an_explicit_threshold_decides(
    make_api: Any, make_tiny_bundle: Any, problem: Any, crop: Any
) -> None:
    api = make_api(bundle=make_tiny_bundle(calibrated=False))
    body = problem(verify(api, crop(1), crop(1, 1)), "calibration-missing", 422)
    assert "facemargin calibrate" in body["detail"]
    reply = verify(api, crop(1), crop(1, 1), threshold=0.5).json()
    assert reply["match"] is True
    assert (reply["probability"], reply["fmr"], reply["threshold_fmr"]) == (None, None, None)


def test_against_a_person_and_a_face(api: Any, crop: Any) -> None:
    person = api.person("Ada")
    faces = []
    for picture in range(2):
        answer = api.post(
            f"/v1/collections/staff/people/{person}/faces",
            files={"image": crop(1, picture)},
            data={"aligned": "true"},
        )
        assert answer.status_code == 201, answer.text
        faces.append(answer.json()["id"])
    probe = crop(1, 5)
    single = [verify(api, probe, collection="staff", face_id=face).json()["similarity"] for face in faces]
    reply = verify(api, probe, collection="staff", person=person).json()
    assert reply["similarity"] == max(single)
    assert reply["match"] is True
    assert reply["person"] == {"id": person, "name": "Ada"}
    assert reply["face_b"] is None
    assert verify(api, crop(9), collection="staff", person=person).json()["match"] is False


def test_several_templates_are_several_chances(api: Any, crop: Any, vector: Any, synthetic_calibration: Any) -> None:
    person = api.person()
    face = api.enrol(person, vector(1))["id"]
    fields = {"collection": "staff", "max_fmr": 0.01}
    single = verify(api, crop(1), person=person, **fields).json()
    assert single == verify(api, crop(1), face_id=face, **fields).json()
    assert single["threshold"] == synthetic_calibration.threshold(0.01, extrapolate=True).value
    for number in (2, 3):
        api.enrol(person, vector(number))
    reply = verify(api, crop(1), person=person, **fields).json()
    wanted = synthetic_calibration.threshold(1 - (1 - 0.01) ** (1 / 3), extrapolate=True)
    assert reply["threshold"] == pytest.approx(wanted.value)
    assert reply["threshold"] > single["threshold"]
    assert reply["threshold_fmr"] == pytest.approx(1 - (1 - wanted.fmr) ** 3)
    assert reply["fmr"] == pytest.approx(1 - (1 - synthetic_calibration.fmr(reply["similarity"])) ** 3)
    assert verify(api, crop(1), person=person, collection="staff", max_fmr=1).status_code == 200


def test_a_person_by_their_mean(make_api: Any, crop: Any, vector: Any) -> None:
    api = make_api(templates="mean")
    person = api.person()
    vectors = [vector(1), vector(2)]
    for template in vectors:
        api.enrol(person, template)
    image = base64.b64encode(crop(1)).decode()
    probe = api.post("/v1/embeddings", json={"images": [image], "aligned": True}).json()["images"][0]["faces"][0]
    mean = (vectors[0] + vectors[1]) / np.linalg.norm(vectors[0] + vectors[1])
    reply = verify(api, crop(1), collection="staff", person=person).json()
    assert reply["similarity"] == pytest.approx(float(mean @ np.array(probe["embedding"])), abs=1e-5)


def test_somebody_without_faces(api: Any, problem: Any, crop: Any) -> None:
    problem(verify(api, crop(1), collection="staff", person=api.person()), "no-template", 409)


def test_unknown_ids(api: Any, problem: Any, crop: Any) -> None:
    person = api.person()
    for fields, missing in (
        ({"collection": "nobody", "person": person}, "collection 'nobody'"),
        ({"collection": "staff", "person": "p_0"}, "person 'p_0'"),
        ({"collection": "staff", "face_id": "f_0"}, "face 'f_0'"),
    ):
        assert missing in problem(verify(api, crop(1), **fields), "not-found", 404)["detail"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"person": "p_1"},
        {"collection": "staff"},
        {"collection": "staff", "person": "p_1", "face_id": "f_1"},
        {"collection": "staff", "person": "p_1", "max_fmr": "0.1", "threshold": "0.5"},
        {"collection": "staff", "person": "p_1", "max_fmr": "0"},
        {"collection": "staff", "person": "p_1", "max_fmr": "2"},
        {"collection": "staff", "person": "p_1", "max_fmr": "nan"},
        {"collection": "staff", "person": "p_1", "threshold": "1.5"},
        {"collection": "staff", "person": "p_1", "face": "all"},
        {"collection": "staff", "person": "p_1", "aligned": "perhaps"},
        {"collection": "staff", "person": "p_1", "max_fnr": "0.1"},
    ],
)
def test_wrong_fields(shared_api: Any, problem: Any, crop: Any, fields: dict[str, str]) -> None:
    answer = shared_api.post("/v1/verify", files={"image_a": crop(1)}, data=fields)
    problem(answer, "invalid-request", 422)


def test_the_same_photograph_is_the_same_person(photo_api: Any, shared_data: Any) -> None:
    names = ["George_W_Bush_0003", "George_W_Bush_0003", "Ariel_Sharon_0005"]
    photos = [(shared_data / "lfw/images" / name[:-5] / f"{name}.jpg").read_bytes() for name in names]
    data = {"face": "largest"}
    same = photo_api.post("/v1/verify", files={"image_a": photos[0], "image_b": photos[1]}, data=data).json()
    assert same["similarity"] == pytest.approx(1, abs=1e-5)
    assert same["match"] is True
    other = photo_api.post("/v1/verify", files={"image_a": photos[0], "image_b": photos[2]}, data=data).json()
    assert other["similarity"] < 1
    assert other["face_a"]["box"] != other["face_b"]["box"]


def test_a_face_that_was_left_behind_has_no_template(
    make_api: Any, make_tiny_bundle: Any, problem: Any, crop: Any, vector: Any
) -> None:
    other = make_tiny_bundle(seed=1, embedding_dim=24)
    api = make_api(more_bundles=[other.path])
    person = api.person()
    face = api.enrol(person, vector(1))["id"]
    upgrade = "/v1/collections/staff/upgrade"
    assert api.put(upgrade, json={"model": other.model_id}).status_code == 200
    assert api.post(f"{upgrade}/switch", json={"leave_behind": True}).status_code == 200
    for other_side in ({"face_id": face}, {"person": person}):
        problem(verify(api, crop(1), collection="staff", **other_side), "no-template", 409)


def test_nobody_is_verified_after_the_end_that_was_set(make_api: Any, problem: Any, crop: Any, vector: Any) -> None:
    api = make_api(housekeeping_seconds=30)
    person = api.person()
    face = api.enrol(person, vector(1))["id"]
    past = "2020-01-01T00:00:00Z"
    assert api.patch(f"/v1/collections/staff/people/{person}", json={"expires_at": past}).status_code == 200
    assert api.service.gallery.total == 1  # the housekeeping has not come by yet
    for other_side in ({"face_id": face}, {"person": person}):
        problem(verify(api, crop(1), collection="staff", **other_side), "not-found", 404)


def test_nobody_is_found_after_the_end_that_was_set(make_api: Any, vector: Any) -> None:
    api = make_api(housekeeping_seconds=30)
    person, kept = api.person(), api.person("Bob")
    api.enrol(person, vector(1))
    past = "2020-01-01T00:00:00Z"
    assert api.patch(f"/v1/collections/staff/people/{person}", json={"expires_at": past}).status_code == 200
    assert api.service.gallery.total == 1
    assert api.find(vector(1), threshold=0.999)["candidates"] == []
    assert api.enrol(kept, vector(1))["warnings"] == []
