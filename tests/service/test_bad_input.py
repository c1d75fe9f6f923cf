"""Whatever comes in, the answer is a specific problem, nothing is half-written, and the service goes on."""

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facemargin.preprocessing import encode_jpeg, encode_png

FIELD = b'--x\r\nContent-Disposition: form-data; name="images"\r\n\r\na!\r\n--x--\r\n'


def huge_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and has almost no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


NOISE = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
IMAGES = {
    "text": (b"this is no picture\n" * 10, "unsupported-image", 415),
    "gif": (b"GIF89a" + bytes(50), "unsupported-image", 415),
    "html": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported-image", 415),
    "truncated": (encode_jpeg(NOISE)[:2000], "truncated-image", 422),
    "header only": (encode_jpeg(NOISE)[:4], "truncated-image", 422),
    "20000x20000": (huge_header(20_000, 20_000), "image-too-large", 413),
    "one long side": (huge_header(9_000, 10), "image-too-large", 413),
    "many pixels": (huge_header(8_000, 8_000), "image-too-large", 413),
    "empty": (b"", "empty-image", 422),
}


@pytest.fixture(scope="module")
def before(shared_api: Any) -> list[Any]:
    """A service with one person and one face: what it says of them."""
    shared_api.enrol(shared_api.person(), np.arange(1, 33))
    return state(shared_api)


@pytest.fixture
def unharmed(shared_api: Any, before: list[Any]) -> Iterator[Any]:
    """After the test the service answers, and its store and index are as they were."""
    yield shared_api
    assert state(shared_api) == before
    assert shared_api.get("/health/ready").status_code == 200


def state(api: Any) -> list[Any]:
    people = api.get("/v1/collections/staff/people").json()
    faces = [api.get(f"/v1/collections/staff/people/{person['id']}/faces").json() for person in people["people"]]
    return [api.get("/v1/collections").json(), people, faces, api.find(np.arange(1, 33), threshold=-1)]


def person_of(api: Any) -> str:
    return str(api.get("/v1/collections/staff/people").json()["people"][0]["id"])


@pytest.mark.parametrize("kind", sorted(IMAGES))
@pytest.mark.parametrize("form", ["multipart", "json"])
def test_bad_images_everywhere(unharmed: Any, problem: Any, kind: str, form: str) -> None:
    image, slug, status = IMAGES[kind]
    faces = f"/v1/collections/staff/people/{person_of(unharmed)}/faces"
    for url, field in (("/v1/embeddings", "images"), (faces, "image"), ("/v1/collections/staff/search", "image")):
        if form == "multipart":
            answer = unharmed.post(url, files={field: ("x.jpg", image)}, data={"aligned": "true"})
        else:
            text = base64.b64encode(image).decode()
            answer = unharmed.post(url, json={field: [text] if field == "images" else text, "aligned": True})
        body = problem(answer, slug, status)
        assert body["image"] == ("images[0]" if field == "images" else "image")


def test_the_image_that_is_wrong_is_named(unharmed: Any, problem: Any, crop: Any) -> None:
    files = {"image_a": crop(1), "image_b": b"text"}
    body = problem(unharmed.post("/v1/verify", files=files, data={"aligned": "true"}), "unsupported-image", 415)
    assert body["image"] == "image_b"
    many = [("images", crop(1)), ("images", crop(1)), ("images", crop(1)[:300])]
    body = problem(unharmed.post("/v1/embeddings", files=many, data={"aligned": "true"}), "truncated-image", 422)
    assert body["image"] == "images[2]"


@pytest.mark.parametrize(
    "text",
    ["not base64!", "AAA", "http://example.com/face.jpg", "/etc/passwd", "file:///etc/passwd", "äöü", "QUJD\x00"],
)
def test_bad_base64(unharmed: Any, problem: Any, text: str) -> None:
    body = problem(unharmed.post("/v1/embeddings", json={"images": [text], "aligned": True}), "invalid-base64", 422)
    assert body["field"] == "images"
    assert "URLs" in body["detail"]
    assert text not in json.dumps(body)


def test_an_image_beyond_the_bytes_limit(make_api: Any, problem: Any) -> None:
    api = make_api(max_image_bytes=2000)
    image = encode_png(NOISE)
    body = problem(
        api.post("/v1/embeddings", files={"images": image}, data={"aligned": "true"}), "image-too-large", 413
    )
    assert "2,000" in body["detail"]


def test_too_many_images(make_api: Any, problem: Any, crop: Any) -> None:
    api = make_api(max_images=2)
    files = [("images", crop(number)) for number in range(3)]
    body = problem(api.post("/v1/embeddings", files=files, data={"aligned": "true"}), "too-many-images", 422)
    assert (body["images"], body["limit"]) == (3, 2)
    body = problem(api.post("/v1/embeddings", json={"images": ["not base64!"] * 3}), "too-many-images", 422)
    assert (body["images"], body["limit"]) == (3, 2)
    assert api.post("/v1/embeddings", files=files[:2], data={"aligned": "true"}).status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "slug", "status"),
    [
        (b"", {}, "bad-body", 400),
        (b"", {"Content-Type": "application/json"}, "bad-body", 400),
        (b"{}", {}, "unsupported-media-type", 415),
        (b"\xff\xd8\xff\xe0", {"Content-Type": "image/jpeg"}, "unsupported-media-type", 415),
        (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, "unsupported-media-type", 415),
        (b"{", {"Content-Type": "application/json"}, "invalid-json", 400),
        (b'{"images": "\xff"}', {"Content-Type": "application/json"}, "invalid-json", 400),
        (b"[" * 100_000, {"Content-Type": "application/json"}, "invalid-json", 400),
        (b"null", {"Content-Type": "application/json"}, "invalid-request", 422),
        (b"[]", {"Content-Type": "application/json"}, "invalid-request", 422),
        (b'{"images": []}', {"Content-Type": "application/json"}, "invalid-request", 422),
        (b'{"images": [5]}', {"Content-Type": "application/json"}, "invalid-request", 422),
        (b'{"images": ["QUJD"], "url": "x"}', {"Content-Type": "application/json"}, "invalid-request", 422),
        (b"x", {"Content-Type": "multipart/form-data"}, "bad-body", 400),
        (b"no parts", {"Content-Type": "multipart/form-data; boundary=x"}, "bad-body", 400),
        (b"--x\r\n\r\nhello\r\n--x--", {"Content-Type": "multipart/form-data; boundary=x"}, "bad-body", 400),
        (b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, "invalid-request", 422),
        (FIELD, {"Content-Type": "multipart/form-data; boundary=x; charset=undefined"}, "invalid-base64", 422),
        (FIELD.replace(b"a!", b"\xff"), {"Content-Type": "multipart/form-data; boundary=x"}, "bad-body", 400),
        (FIELD[:-4], {"Content-Type": "multipart/form-data; boundary=x"}, "bad-body", 400),
        (FIELD, {"Content-Type": "multipart/form-data; boundary="}, "bad-body", 400),
        (FIELD, {"Content-Type": 'multipart/form-data; boundary="' + "\\\\" * 18 + "x"}, "bad-body", 400),
        (FIELD.replace(b'; name="images"', b""), {"Content-Type": "multipart/form-data; boundary=x"}, "bad-body", 400),
        (FIELD[:-7] * 1001 + FIELD[-7:], {"Content-Type": "multipart/form-data; boundary=x"}, "bad-body", 400),
    ],
)
def test_bad_bodies(
    unharmed: Any, problem: Any, content: bytes, headers: dict[str, str], slug: str, status: int
) -> None:
    problem(unharmed.post("/v1/embeddings", content=content, headers=headers), slug, status)


def test_deep_json_in_a_form(unharmed: Any, problem: Any, crop: Any) -> None:
    url = f"/v1/collections/staff/people/{person_of(unharmed)}/faces"
    answer = unharmed.post(url, files={"image": crop(1)}, data={"min_quality": "[" * 100_000, "aligned": "true"})
    assert "nested too deeply" in problem(answer, "invalid-request", 422)["detail"]


def test_many_mistakes_are_counted_and_not_all_told(unharmed: Any, problem: Any) -> None:
    body = {"embedding": ["x"] * 1000, "model": "m"}
    told = problem(unharmed.post("/v1/collections/staff/search", json=body), "invalid-request", 422)
    assert (len(told["errors"]), told["error_count"]) == (20, 1000)
    assert told["detail"].endswith("and 980 more")
    told = problem(unharmed.post("/v1/embeddings", json={"x" * 10_000: 1}), "invalid-request", 422)
    assert max(len(error["field"]) for error in told["errors"]) == 200


def test_an_object_of_many_fields_is_not_looked_into(unharmed: Any, problem: Any) -> None:
    body = problem(unharmed.post("/v1/embeddings", json={f"x{n}": n for n in range(101)}), "invalid-request", 422)
    assert [error["field"] for error in body["errors"]] == ["body"]
    assert "101 fields; at most 100" in body["detail"]


def test_a_part_that_comes_twice(unharmed: Any, problem: Any, crop: Any) -> None:
    files = [("image_a", crop(1)), ("image_a", crop(2)), ("image_b", crop(1))]
    body = problem(unharmed.post("/v1/verify", files=files, data={"aligned": "true"}), "bad-body", 400)
    assert body["field"] == "image_a"


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_beyond_the_limit(make_api: Any, problem: Any, announced: bool) -> None:
    api = make_api(max_body_bytes=100_000)

    def chunks() -> Iterator[bytes]:
        for _ in range(1000):
            yield bytes(10_000)

    headers = {"Content-Type": "application/json"} | ({"Content-Length": "10000000"} if announced else {})
    body = problem(api.post("/v1/embeddings", content=chunks(), headers=headers), "body-too-large", 413)
    assert body["limit"] == 100_000
    assert _chunks_read(api, headers) == (0 if announced else 11)
    fits = api.post("/v1/embeddings", content=b" " * 100_000, headers={"Content-Type": "application/json"})
    problem(fits, "invalid-json", 400)


def _chunks_read(api: Any, headers: dict[str, str]) -> int:
    """How many chunks of 10,000 bytes the service takes of an endless body (the test client reads ahead)."""
    read, statuses = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        assert read < 100
        return {"type": "http.request", "body": bytes(10_000), "more_body": True}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/embeddings",
        "query_string": b"",
        "headers": [
            (name.lower().encode(), value.encode()) for name, value in {"Host": "127.0.0.1", **headers}.items()
        ],
        "client": ("127.0.0.1", 50000),
    }
    asyncio.run(api.app(scope, receive, send))
    assert statuses[0] == 413
    return read


@pytest.mark.parametrize(("photo", "faces"), [("bbt1.jpg", 2), ("t1.jpg", 2)])
def test_several_faces(photo_api: Any, problem: Any, shared_data: Path, photo: str, faces: int) -> None:
    image = (shared_data / "photos" / photo).read_bytes()
    person = photo_api.person()
    url = f"/v1/collections/staff/people/{person}/faces"
    body = problem(photo_api.post(url, files={"image": image}), "several-faces", 422)
    assert body["faces"] >= faces
    assert str(body["faces"]) in body["detail"]
    assert photo_api.get(url).json()["faces"] == []
    assert photo_api.post(url, files={"image": image}, data={"face": "largest"}).status_code == 201


def test_no_face(photo_api: Any, problem: Any) -> None:
    slope = np.tile(np.linspace(0, 255, 320, dtype=np.uint8)[None, :, None], (240, 1, 3))
    image = encode_png(slope)
    body = problem(photo_api.post("/v1/verify", files={"image_a": image, "image_b": image}), "no-face", 422)
    assert (body["faces"], body["image"]) == (0, "image_a")
    assert photo_api.post("/v1/embeddings", files={"images": image}).json()["images"][0]["faces"] == []


def test_more_faces_than_the_limit(make_api: Any, problem: Any, shared_data: Path) -> None:
    api = make_api(detector=shared_data / "models" / "yunet_n_dynamic.onnx", max_faces=2)
    image = (shared_data / "photos" / "t1.jpg").read_bytes()
    body = problem(api.post("/v1/embeddings", files={"images": image}), "too-many-faces", 422)
    assert (body["limit"], body["faces"] > 2) == (2, True)
    assert api.post("/v1/embeddings", files={"images": image}, data={"face": "largest"}).status_code == 200


def test_unknown_places(unharmed: Any, problem: Any) -> None:
    problem(unharmed.get("/v1/nothing"), "not-found", 404)
    answer = unharmed.delete("/v1/embeddings")
    problem(answer, "method-not-allowed", 405)
    assert answer.headers["allow"] == "POST"
    for method, url in (
        ("POST", "/v1/collections/nobody/people"),
        ("GET", "/v1/collections/nobody/people"),
        ("GET", "/v1/collections/staff/people/p_x/faces"),
        ("DELETE", f"/v1/collections/staff/people/{person_of(unharmed)}/faces/f_x"),
    ):
        problem(
            unharmed.request(method, url, **({"json": {"name": "a"}} if method == "POST" else {})), "not-found", 404
        )


def test_a_mistake_of_the_service_says_nothing_about_itself(
    api: Any, problem: Any, crop: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(type(api.service.gallery), "search", broken)
    person = api.person()
    body = {"embedding": [1.0] * 32, "model": api.model}
    answer = api.post(f"/v1/collections/staff/people/{person}/faces", json=body, headers={"X-Request-ID": "abc-1"})
    assert problem(answer, "internal-error", 500)["request_id"] == "abc-1"
    assert "secret" not in answer.text
    assert "abc-1" in caplog.text
    assert "secret detail" in caplog.text
    monkeypatch.undo()
    assert api.get(f"/v1/collections/staff/people/{person}").json()["faces"] == 0


def test_a_model_that_fails_does_not_name_its_file(
    api: Any, problem: Any, crop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facemargin.errors import BundleError

    def broken(*_: Any) -> None:
        raise BundleError("/secret/model.onnx gives nonsense")

    monkeypatch.setattr(api.service.engine.batchers.of(api.service.models.default.embedder), "_embed", broken)
    answer = api.post("/v1/embeddings", files={"images": crop(1)}, data={"aligned": "true"})
    problem(answer, "model-failure", 500)
    assert "/secret" not in answer.text


def test_a_store_that_does_not_answer(api: Any, problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import OperationalError

    def locked() -> None:
        raise OperationalError("SELECT secret", {}, Exception("database is locked"))

    monkeypatch.setattr(api.service.store, "check", locked)
    answer = api.get("/health/ready")
    problem(answer, "not-ready", 503)
    assert "secret" not in answer.text
    assert api.get("/health/live").status_code == 200


@pytest.mark.parametrize("wished", ["x" * 65, "a b", "a\tb", "<script>"])
def test_request_ids_are_not_repeated_blindly(api: Any, wished: str) -> None:
    answer = api.get("/health/live", headers={"X-Request-ID": wished})
    assert len(answer.headers["x-request-id"]) == 16
    assert wished not in answer.headers["x-request-id"]


def test_a_path_forges_no_log_line(api: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "facemargin.service")
    api.get("/v1/x%0AGET%20/forged%1B[31m")
    (said,) = [record.getMessage() for record in caplog.records if record.name == "facemargin.service"]
    assert said.startswith("GET unknown 404 ")


def test_logs_hold_no_names_and_no_vectors(api: Any, caplog: pytest.LogCaptureFixture, vector: Any) -> None:
    caplog.set_level("DEBUG")
    api.enrol(api.person("Ada Lovelace"), vector(1))
    api.get("/v1/collections/staff/people?name=Ada%20Lovelace")
    of_the_client = ("httpx2", "httpcore2")
    said = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith(of_the_client))
    assert "/v1/collections/{name}/people" in said
    assert "Ada" not in said
    assert str(vector(1).tolist()[0])[:8] not in said
