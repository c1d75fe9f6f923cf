"""One line a request, for machines, with nothing in it that is somebody's; the model in the header of each reply."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from facemargin.bundle import Bundle
from service.logs import RequestIds, formatter
from service.security import Scope, create_key

ALIGNED = {"aligned": "true"}


class Lines(io.StringIO):
    """What was logged as JSON."""

    @property
    def parsed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def requests(self) -> list[dict[str, Any]]:
        return [line for line in self.parsed if "route" in line]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """All loggers, from INFO, into JSON, as `serve` has it where stderr is no terminal."""
    found = Lines()
    handler = logging.StreamHandler(found)
    handler.setFormatter(formatter("json"))
    handler.addFilter(RequestIds())
    root, before = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield found
    root.removeHandler(handler)
    root.setLevel(before)


def test_the_line_of_a_request(api: Any, lines: Lines) -> None:
    with api.service.store.write() as session:
        key = create_key(session, label="", scopes=[Scope.READ])
    answer = api.get("/v1/collections", headers={"X-API-Key": key, "X-Request-ID": "mine-1"})
    (line,) = lines.requests()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert 0 < line.pop("ms") < 10_000
    assert re.fullmatch(r"GET /v1/collections 200 [\d.]+ ms", line.pop("message"))
    assert line == {
        "level": "INFO",
        "logger": "facemargin.service",
        "request_id": "mine-1",
        "method": "GET",
        "route": "/v1/collections",
        "status": 200,
        "bytes": len(answer.content),
        "key": key.split("_")[1],
        "problem": None,
    }


def test_lines_hold_no_names_ids_queries_or_keys(api: Any, lines: Lines, vector: Any) -> None:
    with api.service.store.write() as session:
        key = create_key(session, label="label", scopes=[Scope.ADMIN])
    api.headers["X-API-Key"] = key
    person = api.person("Zebulon")
    api.enrol(person, vector(1))
    api.get("/v1/collections/staff/people?name=Zebulon")
    api.get("/Zebulon/%0A{forged}?x=Zebulon")
    api.request("ZEBULON", "/v1/models")
    api.get("/v1/models", headers={"X-API-Key": key[:-1]})
    said = lines.getvalue()
    mine = "\n".join(line for line in said.splitlines() if '"logger": "httpx2"' not in line)  # the test's own client
    for secret in ("Zebulon", "ZEBULON", person, "staff", key, key[12:], "forged", str(vector(1)[0])[:7]):
        assert secret not in mine, secret
    shown = {(line["method"], line["route"], line["problem"]) for line in lines.requests()}
    assert {("GET", "unknown", "not-found"), ("unknown", "/v1/models", "method-not-allowed")} <= shown
    assert ("GET", "/v1/models", "unauthenticated") in shown


def test_every_line_within_a_request_has_its_id_also_from_other_threads(
    api: Any, lines: Lines, crop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, inner = logging.getLogger("somewhere.deep"), api.service.engine._find

    def find(*arguments: Any, **more: Any) -> Any:
        log.info("in %s", threading.current_thread().name.partition("_")[0])
        return inner(*arguments, **more)

    monkeypatch.setattr(api.service.engine, "_find", find)
    monkeypatch.setattr("service.writes._count", lambda *_: log.info("in a write"))
    log.info("outside")
    api.post("/v1/embeddings", files={"images": crop(1)}, data=ALIGNED, headers={"X-Request-ID": "one"})
    api.put("/v1/collections/staff", headers={"X-Request-ID": "two"})
    ids = {line["message"]: line["request_id"] for line in lines.parsed if line["logger"] == log.name}
    assert ids == {"outside": "-", "in find": "one", "in a write": "two"}


def test_an_exception_is_one_line_with_its_request(api: Any, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.routes.collections._listed", lambda *_: 1 // 0)
    assert api.get("/v1/collections", headers={"X-Request-ID": "broken"}).status_code == 500
    failed, line = (line for line in lines.parsed if line["request_id"] == "broken")
    assert failed["level"] == "ERROR"
    assert "ZeroDivisionError" in failed["exc_info"]
    assert (line["status"], line["problem"]) == (500, "internal-error")


@pytest.mark.parametrize("form", ["auto", "text"])
def test_serve_logs_in_the_form_that_is_set(form: str, tmp_path: Any, tiny_bundle: Bundle) -> None:
    environment = os.environ | {"FACEMARGIN_LOG_FORMAT": form, "FACEMARGIN_MODELS": str(tmp_path / "none")}
    command = [sys.executable, "-m", "facemargin", "serve", "--port", "0"]
    command += ["--bundle", str(tiny_bundle.path), "--store", str(tmp_path / "store")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("facemargin: serving on")
        process.terminate()
        said = process.stderr.read().splitlines()
    assert any("uvicorn" in line for line in said)
    assert any("no face detector" in line for line in said)
    if form == "text":
        assert all(re.match(r"\d{4}-\d\d-\d\d \S+ (INFO|WARNING) \S+ \[-\] ", line) for line in said)
    else:
        assert all(json.loads(line).keys() == {"time", "level", "logger", "message", "request_id"} for line in said)


@pytest.fixture
def two_models(make_api: Any, make_tiny_bundle: Any) -> Any:
    """A service with a second model, its collection `other` bound to it, and `api.second`, its id."""
    second = make_tiny_bundle(seed=5)
    api = make_api(more_bundles=[second.path])
    api.second = second.model_id
    assert api.put("/v1/collections/other", json={"model": api.second}).status_code == 201
    return api


def test_the_header_names_the_model_that_the_reply_names(two_models: Any, crop: Any, vector: Any) -> None:
    api, second, image = two_models, two_models.second, {"image": crop(1)}
    assert second != api.model
    person = api.post("/v1/collections/other/people", json={"name": "Ada"}, headers={"Idempotency-Key": "a"})
    people = f"/v1/collections/other/people/{person.json()['id']}"
    replies = {
        "made": person,
        "replayed": api.post("/v1/collections/other/people", json={"name": "Ada"}, headers={"Idempotency-Key": "a"}),
        "enrolled": api.post(f"{people}/faces", files=image, data=ALIGNED),
        "listed": api.get(f"{people}/faces"),
        "searched": api.post("/v1/collections/other/search", files=image, data=ALIGNED),
        "by vector": api.post("/v1/collections/other/search", json={"embedding": vector(1).tolist(), "model": second}),
        "embedded": api.post("/v1/embeddings", files={"images": crop(1)}, data=ALIGNED | {"model": second}),
        "collection": api.get("/v1/collections/other"),
        "upgrade": api.get("/v1/collections/other/upgrade"),
    }
    for what, answer in replies.items():
        assert answer.status_code in (200, 201), f"{what}: {answer.text}"
        assert answer.headers["facemargin-model"] == answer.json()["model"] == second, what
    for path in ("/v1/collections", "/v1/models", "/health/ready", "/health/live", "/nowhere"):
        assert api.get(path).headers["facemargin-model"] == api.model, path
