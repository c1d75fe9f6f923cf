"""What is wrong is told in CompreFace's form, whatever part of the service finds it; and nothing breaks the service."""

import base64
import json
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.compreface.errors import KINDS, ErrorForm
from service.problems import ALL_PROBLEMS

FACES = "/api/v1/recognition/faces"
RECOGNIZE = "/api/v1/recognition/recognize"
DETECT = "/api/v1/detection/detect"
VERIFY = "/api/v1/verification/verify"
CROP = {"detect_faces": "false"}


def test_the_table_names_problems_that_exist() -> None:
    assert KINDS.keys() <= ALL_PROBLEMS.keys()


@pytest.mark.parametrize("url", [RECOGNIZE, DETECT, f"{FACES}/f_x/verify", f"{FACES}?subject=Ada"])
def test_a_body_that_is_none(shared_api: Any, refused: Any, url: str, crop: Any) -> None:
    post = shared_api.post
    refused(post(url), 34, 400)
    refused(post(url, files={"image": b"x"}), 34, 400)
    refused(post(url, json={}), 34, 400)
    refused(post(url, json={"file": 7}), 26, 400)
    refused(post(url, json=[]), 26, 400)
    refused(post(url, content=b"{", headers={"Content-Type": "application/json"}), 0, 400)
    refused(post(url, content=b"x", headers={"Content-Type": "text/plain"}), 0, 415)
    refused(post(url, content=b"x", headers={"Content-Type": "multipart/form-data"}), 34, 400)
    refused(post(url, json={"file": "https://example.org/face.jpg"}), 36, 400)  # never fetched


@pytest.mark.parametrize(
    ("data", "code", "status"),
    [(b"", 36, 400), (b"no picture", 21, 400), (b"\x89PNG\r\n\x1a\n", 36, 400), (b"GIF89a" + bytes(20), 21, 400)],
)
def test_a_file_that_is_no_picture(shared_api: Any, refused: Any, data: bytes, code: int, status: int) -> None:
    for url in (RECOGNIZE, DETECT):
        refused(shared_api.post(url, params=CROP, files={"file": ("image.jpg", data)}), code, status)
    encoded = base64.b64encode(data).decode()
    refused(shared_api.post(RECOGNIZE, params=CROP, json={"file": encoded}), code, status)


def test_a_picture_that_is_no_crop_or_too_large(shared_api: Any, refused: Any, crop: Any) -> None:
    refused(shared_api.post(DETECT, params=CROP, files={"file": crop(1, size=(56, 112))}), 36, 400)
    refused(shared_api.post(DETECT, params=CROP, files={"file": bytes(11 * 2**20)}), 36, 413)
    large = shared_api.post(DETECT, params=CROP, content=b"x", headers={"Content-Length": str(2**40)})
    refused(large, 0, 413)


def test_without_a_detector(shared_api: Any, refused: Any, crop: Any) -> None:
    assert "detector" in refused(shared_api.post(DETECT, files={"file": crop(1)}), 41, 503)


@pytest.mark.parametrize(
    "params",
    [
        {"limit": -1},
        {"limit": "x"},
        {"limit": 10**30},
        {"det_prob_threshold": 1.1},
        {"det_prob_threshold": "nan"},
        {"prediction_count": -2},
        {"prediction_count": 10**6},
        {"status": "perhaps"},
        {"face_plugins": "x" * 300},
    ],
)
def test_wrong_parameters(shared_api: Any, refused: Any, params: dict[str, Any], crop: Any) -> None:
    if params == {"limit": 10**30}:  # a large limit is no limit
        assert shared_api.post(RECOGNIZE, params=CROP | params, files={"file": crop(1)}).status_code == 200
        return
    refused(shared_api.post(RECOGNIZE, params=CROP | params, files={"file": crop(1)}), 26, 400)


def test_wrong_pages_and_subjects(shared_api: Any, refused: Any, crop: Any) -> None:
    for params in ({"page": -1}, {"page": 10**30}, {"size": 0}, {"size": 10**6}, {"page": "x"}):
        refused(shared_api.get(FACES, params=params), 26, 400)
    refused(shared_api.post(FACES, params=CROP, files={"file": crop(1)}), 33, 400)
    refused(shared_api.post(FACES, params=CROP | {"subject": " "}, files={"file": crop(1)}), 26, 400)
    for body in ({"image_ids": 1}, [1], [["x"]], ["x"] * 1001, "x", 7):
        refused(shared_api.post(f"{FACES}/delete", json=body), 26, 400)
    refused(shared_api.post("/api/v1/recognition/subjects", json={}), 34, 400)
    refused(shared_api.post(VERIFY, files={"source_image": crop(1)}), 34, 400)


def test_what_is_not_a_route(shared_api: Any, refused: Any) -> None:
    refused(shared_api.get("/api/v1/recognition/nothing"), 0, 404)
    refused(shared_api.get("/api/v1/static/fm_key/images/f_x"), 0, 404)  # a key in an address ends in logs
    answer = shared_api.patch("/api/v1/recognition/subjects")
    refused(answer, 0, 405)
    assert answer.headers["allow"]
    assert shared_api.head("/api/v1/recognition/nothing").status_code == 404


def test_other_paths_keep_their_form(shared_api: Any, problem: Any) -> None:
    problem(shared_api.get("/v1/nothing"), "not-found", 404)
    problem(shared_api.get("/api/v1"), "not-found", 404)


def test_a_collection_whose_model_is_not_loaded(
    make_api: Any, make_tiny_bundle: Any, add: Any, crop: Any, refused: Any
) -> None:
    api = make_api()
    add(api, "Ada", 1)
    api.close()
    api.service.close()
    other = make_api(bundle=make_tiny_bundle(seed=1))
    refused(other.post(RECOGNIZE, params=CROP, files={"file": crop(1)}), 41, 409)
    assert other.get("/api/v1/recognition/subjects").json() == {"subjects": ["Ada"]}


def test_a_problem_in_several_pieces_is_translated_whole() -> None:
    detail = json.dumps({"type": "urn:facemargin:problem:no-face", "detail": "x", "status": 422}).encode()
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        head = [(b"content-type", b"application/problem+json"), (b"content-length", b"3"), (b"x-kept", b"1")]
        await send({"type": "http.response.start", "status": 422, "headers": head})
        await send({"type": "http.response.body", "body": detail[:9], "more_body": True})
        await send({"type": "http.response.body", "body": detail[9:]})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/api/v1/x", "headers": []}
    anyio.run(ErrorForm(app), scope, None, send)
    assert json.loads(sent[1]["body"]) == {"message": "x", "code": 0}
    headers = dict(sent[0]["headers"])
    assert headers[b"content-length"] == str(len(sent[1]["body"])).encode()
    assert (headers[b"content-type"], headers[b"x-kept"]) == (b"application/json", b"1")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_FIELDS = st.sampled_from(["file", "source_image", "target_image", "subject", "api_endpoint", "image_ids"])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    url=st.sampled_from([RECOGNIZE, DETECT, VERIFY, FACES, f"{FACES}/delete", "/api/v1/recognition/subjects"]),
    body=st.dictionaries(_FIELDS, _VALUES, max_size=4) | _VALUES,
    params=st.dictionaries(
        st.sampled_from(["limit", "det_prob_threshold", "prediction_count", "face_plugins", "status", "subject"]),
        st.text(st.characters(codec="utf-8"), max_size=10),
        max_size=3,
    ),
)
def test_whatever_comes_is_answered_in_their_form(shared_api: Any, url: str, body: Any, params: dict[str, str]) -> None:
    answer = shared_api.post(
        url, params=CROP | params, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code < 500
    if answer.status_code >= 400:
        assert answer.json().keys() == {"message", "code"}
