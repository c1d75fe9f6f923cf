"""Keys by CompreFace's header: which collection is a key's, what its scopes open, and how a refusal looks."""

from typing import Any

import pytest

from service.security import Scope, create_key
from service.store.keys import KeyLimits

ROOT = "/api/v1/recognition"
CROP = {"detect_faces": "false"}


@pytest.fixture
def key(api: Any) -> Any:
    """Makes keys; the headers that send one."""

    def make(*scopes: Scope, **limits: Any) -> dict[str, str]:
        with api.service.store.write() as session:
            return {"x-api-key": create_key(session, label="k", scopes=scopes, limits=KeyLimits(**limits))}

    return make


def test_a_missing_and_a_wrong_key(api: Any, key: Any, refused: Any) -> None:
    right = key(Scope.READ)["x-api-key"]
    assert "Missing header: x-api-key" in refused(api.get(f"{ROOT}/subjects"), 20, 400)
    assert "Missing header: x-api-key" in refused(api.get(f"{ROOT}/subjects", headers={"x-api-key": ""}), 20, 400)
    for wrong in ("x", right[:-1] + "~", "00000000-0000-0000-0000-000000000002"):
        assert wrong not in refused(api.get(f"{ROOT}/subjects", headers={"x-api-key": wrong}), 10, 404).split()
    assert api.get(f"{ROOT}/subjects", headers={"X-API-KEY": right}).status_code == 200


def test_a_key_of_one_collection_works_on_that_one(api: Any, key: Any, add: Any, recognize: Any) -> None:
    staff, guests = (key(*Scope, collections=(name,)) for name in ("staff", "guests"))
    everything, admin = key(Scope.READ, Scope.WRITE), key(Scope.ADMIN)
    add(api, "Ada", 1, headers=staff)
    add(api, "Bob", 2, headers=guests)
    add(api, "Cyd", 3, headers=everything)
    found = api.get("/v1/collections", headers=admin).json()["collections"]
    assert {item["name"]: item["people"] for item in found} == {"staff": 1, "guests": 1, "compreface": 1}
    assert [f["subject"] for f in recognize(api, 2, headers=staff, prediction_count=9)] == ["Ada"]
    image_id = api.get(f"{ROOT}/faces", headers=staff).json()["faces"][0]["image_id"]
    assert api.delete(f"{ROOT}/faces/{image_id}", headers=guests).status_code == 404
    assert api.post(f"{ROOT}/faces/delete", json=[image_id], headers=guests).json() == []
    assert api.delete(f"{ROOT}/subjects", headers=guests).json() == {"deleted": 1}
    assert api.get(f"{ROOT}/subjects", headers=staff).json() == {"subjects": ["Ada"]}


def test_a_key_of_several_other_collections_has_none(api: Any, key: Any, refused: Any) -> None:
    other = key(*Scope, collections=("staff", "guests"))
    refused(api.get(f"{ROOT}/subjects", headers=other), 10, 404)
    refused(api.post(f"{ROOT}/subjects", json={"subject": "Ada"}, headers=other), 10, 404)
    including = key(*Scope, collections=("staff", "compreface"))
    assert api.post(f"{ROOT}/subjects", json={"subject": "Ada"}, headers=including).status_code == 201


def test_the_setting_names_the_collection(make_api: Any) -> None:
    api = make_api(compreface_collection="doors")
    api.post(f"{ROOT}/subjects", json={"subject": "Ada"})
    assert api.get("/v1/collections/doors").json()["people"] == 1


def test_scopes(api: Any, key: Any, add: Any, crop: Any, refused: Any) -> None:
    writer = key(Scope.WRITE)
    image_id = add(api, "Ada", 1, headers=writer)
    file = {"file": ("i.jpg", crop(1))}
    calls: list[tuple[Scope, str, str, dict[str, Any]]] = [
        (Scope.READ, "GET", f"{ROOT}/subjects", {}),
        (Scope.READ, "GET", f"{ROOT}/faces", {}),
        (Scope.READ, "POST", f"{ROOT}/recognize", {"files": file, "params": CROP}),
        (Scope.VERIFY, "POST", f"{ROOT}/faces/{image_id}/verify", {"files": file, "params": CROP}),
        (Scope.EMBED, "POST", "/api/v1/detection/detect", {"files": file, "params": CROP}),
        (Scope.WRITE, "PUT", f"{ROOT}/subjects/Ada", {"json": {"subject": "Bob"}}),
        (Scope.WRITE, "DELETE", f"{ROOT}/faces/{image_id}", {}),
    ]
    headers = {scope: key(scope) for scope in Scope}
    for needed, method, path, more in calls:
        for scope in set(Scope) - {needed, Scope.ADMIN}:
            refused(api.request(method, path, headers=headers[scope], **more), 10, 403)
        assert api.request(method, path, headers=headers[needed], **more).status_code == 200, path


def test_embeddings_and_crops_need_more_than_reading(api: Any, key: Any, add: Any, crop: Any, refused: Any) -> None:
    """By no other way does a key that may only read or verify get a vector or a picture."""
    image_id = add(api, "Ada", 1, headers=key(Scope.WRITE))
    wanted = {"files": {"file": ("i.jpg", crop(1))}, "params": CROP | {"face_plugins": "landmarks,calculator"}}
    pair = {"files": {"source_image": crop(1), "target_image": crop(1)}, "params": wanted["params"]}
    urls = {f"{ROOT}/recognize": wanted, f"{ROOT}/faces/{image_id}/verify": wanted, "/api/v1/verification/verify": pair}
    for url, sent in urls.items():
        refused(api.post(url, headers=key(Scope.READ, Scope.VERIFY), **sent), 10, 403)
        assert api.post(url, headers=key(Scope.READ, Scope.VERIFY, Scope.EMBED), **sent).status_code == 200
    refused(api.get(f"{ROOT}/faces/{image_id}/img", headers=key(Scope.READ)), 10, 403)
    refused(api.get(f"{ROOT}/faces/{image_id}/img", headers=key(Scope.ADMIN)), 11, 404)


def test_a_rate_limit_is_told_with_its_header(api: Any, key: Any, refused: Any) -> None:
    headers = key(Scope.READ, requests_per_minute=1)
    answers = [api.get(f"{ROOT}/subjects", headers=headers) for _ in range(3)]
    refused(answers[-1], 0, 429)
    assert int(answers[-1].headers["Retry-After"]) > 0


def test_names_of_subjects_are_not_logged(api: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    api.post(f"{ROOT}/subjects", json={"subject": "Ada Lovelace"})
    api.put(f"{ROOT}/subjects/Ada Lovelace", json={"subject": "Ada King"})
    api.delete(f"{ROOT}/faces", params={"subject": "Ada King"})
    api.delete(f"{ROOT}/subjects/Ada King")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("facemargin")]
    assert any("/subjects/{subject}" in line for line in said)
    assert not any("Ada" in line for line in said)
