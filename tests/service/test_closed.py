"""Closed by default: every route of the app, by every method, refuses whoever may not, before it reads the body."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import anyio
import fastapi.routing
import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from service.app import create_app
from service.security import Scope, create_key
from service.settings import Settings
from service.store.keys import KeyLimits, revoke_key
from service.store.tables import now

Route = tuple[str, str]

ANY = set(Scope) - {Scope.METRICS}
OPEN: dict[Route, str] = {
    ("GET", "/health/live"): "a container's health check has no key to keep; says nothing of anybody",
    ("GET", "/health/ready"): "the same",
    ("GET", "/openapi.json"): "describes the routes, the same for every installation of this version",
    ("HEAD", "/openapi.json"): "the same",
    ("GET", "/"): "the console's page: no data; its calls need a key",
    ("GET", "/console/{name}"): "the console's scripts and style: no data",
}
CLOSED: dict[Route, set[Scope]] = {
    ("POST", "/v1/embeddings"): {Scope.EMBED},
    ("POST", "/v1/verify"): {Scope.VERIFY},
    ("GET", "/v1/collections"): {Scope.READ},
    ("PUT", "/v1/collections/{name}"): {Scope.ADMIN},
    ("GET", "/v1/collections/{name}"): {Scope.READ},
    ("DELETE", "/v1/collections/{name}"): {Scope.ADMIN},
    ("POST", "/v1/collections/{name}/people"): {Scope.WRITE},
    ("GET", "/v1/collections/{name}/people"): {Scope.READ},
    ("GET", "/v1/collections/{name}/people/{person_id}"): {Scope.READ},
    ("PATCH", "/v1/collections/{name}/people/{person_id}"): {Scope.WRITE},
    ("DELETE", "/v1/collections/{name}/people/{person_id}"): {Scope.WRITE},
    ("GET", "/v1/collections/{name}/people/{person_id}/export"): {Scope.ADMIN},
    ("POST", "/v1/collections/{name}/people/{person_id}/faces"): {Scope.WRITE, Scope.ENROL_EMBEDDING},
    ("GET", "/v1/collections/{name}/people/{person_id}/faces"): {Scope.READ},
    ("DELETE", "/v1/collections/{name}/people/{person_id}/faces/{face_id}"): {Scope.WRITE},
    ("PUT", "/v1/collections/{name}/people/{person_id}/faces/{face_id}/template"): {Scope.WRITE, Scope.ENROL_EMBEDDING},
    ("POST", "/v1/collections/{name}/search"): {Scope.READ},
    ("GET", "/v1/collections/{name}/upgrade"): {Scope.READ},
    ("PUT", "/v1/collections/{name}/upgrade"): {Scope.ADMIN},
    ("DELETE", "/v1/collections/{name}/upgrade"): {Scope.ADMIN},
    ("POST", "/v1/collections/{name}/upgrade/switch"): {Scope.ADMIN},
    ("POST", "/v1/collections/{name}/upgrade/rollback"): {Scope.ADMIN},
    ("GET", "/v1/models"): ANY,
    ("GET", "/metrics"): {Scope.METRICS},
}
COMPREFACE: dict[Route, set[Scope]] = {
    ("GET", "/api/v1/recognition/subjects"): {Scope.READ},
    ("GET", "/api/v1/recognition/subjects/"): {Scope.READ},
    ("POST", "/api/v1/recognition/subjects"): {Scope.WRITE},
    ("DELETE", "/api/v1/recognition/subjects"): {Scope.WRITE},
    ("PUT", "/api/v1/recognition/subjects/{subject}"): {Scope.WRITE},
    ("DELETE", "/api/v1/recognition/subjects/{subject}"): {Scope.WRITE},
    ("POST", "/api/v1/recognition/faces"): {Scope.WRITE},
    ("GET", "/api/v1/recognition/faces"): {Scope.READ},
    ("DELETE", "/api/v1/recognition/faces"): {Scope.WRITE},
    ("POST", "/api/v1/recognition/faces/delete"): {Scope.WRITE},
    ("DELETE", "/api/v1/recognition/faces/{image_id}"): {Scope.WRITE},
    ("GET", "/api/v1/recognition/faces/{image_id}/img"): {Scope.ADMIN},
    ("POST", "/api/v1/recognition/faces/{image_id}/verify"): {Scope.VERIFY},
    ("POST", "/api/v1/recognition/recognize"): {Scope.READ},
    ("POST", "/api/v1/detection/detect"): {Scope.EMBED},
    ("POST", "/api/v1/verification/verify"): {Scope.VERIFY},
}
CLOSED |= COMPREFACE
MAKES = {("PUT", "/v1/collections/{name}")}
"""Routes that make the collection they name: 403 and not 404 for a key that is limited to others."""
WITHOUT_COLLECTION: dict[Route, str] = {
    ("POST", "/v1/embeddings"): "keeps and compares nothing",
    ("POST", "/v1/verify"): "names it in its body; test_verify_against_another_collection",
    ("GET", "/v1/collections"): "lists only those the key may touch; test_a_limited_key_lists_what_it_may_touch",
    ("GET", "/v1/models"): "no person is in it",
    ("GET", "/metrics"): "totals of the whole service; refused to limited keys, tests/service/test_metrics.py",
}
WITHOUT_COLLECTION |= dict.fromkeys(
    COMPREFACE, "the one that belongs to the key; tests/service/compreface/test_keys.py"
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "QUERY")


def routes_of(app: Any, prefix: str = "") -> Iterator[Route]:
    """Every method and path, also of mounted apps; newer FastAPI keeps included routers apart and lists them itself."""
    listed = getattr(fastapi.routing, "iter_route_contexts", list)
    for context in listed(app.routes):
        route = getattr(context, "original_route", context)
        if getattr(route, "app", None) is not None and getattr(route, "routes", None):
            yield from routes_of(route.app, prefix + route.path)
        else:
            methods = getattr(context, "methods", None)
            assert methods, f"{prefix}{getattr(route, 'path', route)}: WebSockets and bare mounts are not served"
            yield from ((method, prefix + context.path) for method in methods)


class Answer(NamedTuple):
    status: int
    headers: httpx2.Headers
    json: dict[str, Any]


def ask(app: FastAPI, method: str, path: str, headers: dict[str, str]) -> Answer:
    """Send a request whose body must not be read."""
    sent = list[Any]()

    async def receive() -> Any:
        pytest.fail(f"{method} {path} reads the body before it refuses")

    async def send(message: Any) -> None:
        sent.append(message)

    said = {"host": "127.0.0.1", "content-type": "application/json", "content-length": "7"} | headers
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "headers": [(name.lower().encode(), value.encode()) for name, value in said.items()],
    }
    anyio.run(app, scope, receive, send)
    raw = httpx2.Headers(sent[0]["headers"])
    answer = httpx2.Response(sent[0]["status"], headers=raw, content=b"".join(m.get("body", b"") for m in sent[1:]))
    return Answer(answer.status_code, raw, answer.json() if answer.content else {})


COMPREFACE_REFUSALS = {
    (20, 400): ("unauthenticated", 401),
    (10, 404): ("unauthenticated", 401),
    (10, 403): ("forbidden", 403),
}
"""What its code and status say in the native form."""


def slug(answer: Answer) -> tuple[str, int]:
    if answer.json.keys() == {"message", "code"}:
        return COMPREFACE_REFUSALS[answer.json["code"], answer.status]
    return answer.json["type"].rsplit(":", 1)[1], answer.status


def url(path: str, collection: str = "staff") -> str:
    return path.format(name=collection, person_id="p_x", face_id="f_x", subject="nobody", image_id="f_x")


class Closed(NamedTuple):
    api: Any
    keys: dict[str, dict[str, str]]

    @property
    def app(self) -> FastAPI:
        return self.api.app


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Any) -> Iterator[Closed]:
    """A service with collections `staff` and `guests`, and keys of every kind."""
    store = tmp_path_factory.mktemp("closed") / "store"
    settings = Settings(bundle=tiny_bundle.path, store=store, refusals_per_minute=0, requests_per_minute=0)
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 1)) as api:
        keys: dict[str, dict[str, str]] = {}
        with api.app.state.service.store.write() as session:

            def make(name: str, *scopes: Scope, **limits: Any) -> str:
                token = create_key(session, label=name, scopes=scopes, limits=KeyLimits(**limits))
                keys[name] = {"Authorization": f"Bearer {token}"}
                return token

            for scope in Scope:
                make(scope.value, scope)
            make("limited", *Scope, collections=("guests", "later"))
            make("expired", *Scope, expires_at=now() - timedelta(seconds=1))
            revoke_key(session, make("revoked", *Scope).split("_")[1])
            wrong = make("wrong", *Scope)
            keys["wrong"] = {"X-API-Key": wrong[:-1] + ("a" if wrong[-1] != "a" else "b")}
        keys |= {
            "none": {},
            "unknown": {"X-API-Key": "fm_00000000_" + "x" * 43},
            "basic": {"Authorization": "Basic eA=="},
        }
        for name in ("staff", "guests"):
            assert api.put(f"/v1/collections/{name}", headers=keys["admin"]).status_code == 201
        yield Closed(api, keys)


def test_every_route_is_classified(closed: Closed) -> None:
    """A new route fails here until it is named in OPEN with its reason, or in CLOSED with its scopes."""
    found = set(routes_of(closed.app))
    assert found == OPEN.keys() | CLOSED.keys()
    assert not OPEN.keys() & CLOSED.keys()
    assert {route for route in CLOSED if "{name}" not in route[1]} == WITHOUT_COLLECTION.keys()


@pytest.mark.parametrize("name", ["none", "unknown", "wrong", "basic", "revoked", "expired"])
def test_without_a_valid_key_every_route_is_closed(closed: Closed, name: str) -> None:
    for method, path in CLOSED:
        answer = ask(closed.app, method, url(path), closed.keys[name])
        assert slug(answer) == ("unauthenticated", 401), (method, path)
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("scope", list(Scope))
def test_every_route_refuses_every_other_scope(closed: Closed, scope: Scope) -> None:
    for (method, path), needed in CLOSED.items():
        if scope in needed or scope is Scope.ADMIN:
            answer = closed.api.request(method, url(path), headers=closed.keys[scope.value])
            assert answer.status_code not in (401, 403), (method, path, scope)
        else:
            refused = ask(closed.app, method, url(path), closed.keys[scope.value])
            assert slug(refused) == ("forbidden", 403), (method, path, scope)
            if (method, path) not in COMPREFACE:
                assert set(refused.json["required_scopes"]) == {wanted.value for wanted in needed}
    closed.api.put("/v1/collections/staff", headers=closed.keys["admin"])  # the walk by `admin` deleted it


def test_across_collections_every_route_is_closed_and_tells_nothing(closed: Closed) -> None:
    """Another collection is answered like one that does not exist: the replies differ in nothing but the name."""
    for method, path in CLOSED.keys() - WITHOUT_COLLECTION.keys():
        told = []
        for name in ("staff", "no-such"):
            answer = ask(closed.app, method, url(path, name), closed.keys["limited"])
            expected = ("forbidden", 403) if (method, path) in MAKES else ("not-found", 404)
            assert slug(answer) == expected, (method, path)
            told.append(re.sub(name, "NAME", str(answer.json | {"request_id": ""})))
            assert name in answer.json["detail"] or (method, path) in MAKES
        assert told[0] == told[1]


def test_across_collections_an_unlimited_key_gets_the_same_words_for_what_is_not_there(closed: Closed) -> None:
    mine = closed.api.get("/v1/collections/no-such", headers=closed.keys["admin"]).json()
    limited = closed.api.get("/v1/collections/no-such", headers=closed.keys["limited"]).json()
    assert mine | {"request_id": ""} == limited | {"request_id": ""}


def test_a_limited_key_lists_what_it_may_touch(closed: Closed) -> None:
    api, headers = closed.api, closed.keys["limited"]
    listed = api.get("/v1/collections", headers=headers).json()["collections"]
    assert [item["name"] for item in listed] == ["guests"]
    everything = api.get("/v1/collections", headers=closed.keys["admin"]).json()["collections"]
    assert [item["name"] for item in everything] == ["guests", "staff"]
    assert api.put("/v1/collections/later", headers=headers).status_code == 201
    assert api.delete("/v1/collections/later", headers=headers).status_code == 204
    assert api.post("/v1/collections/guests/people", json={"name": "Ada"}, headers=headers).status_code == 201


def test_verify_against_another_collection(closed: Closed, crop: Any, problem: Any) -> None:
    api, admin = closed.api, closed.keys["admin"]
    person = api.post("/v1/collections/staff/people", json={"name": "Ada"}, headers=admin).json()["id"]
    faces = f"/v1/collections/staff/people/{person}/faces"
    image = {"files": {"image": crop(1)}, "data": {"aligned": "true"}}
    face = api.post(faces, **image, headers=admin).json()["id"]
    for who in ({"person": person}, {"face_id": face}):
        sent = {"files": {"image_a": crop(1)}, "data": {"aligned": "true", "collection": "staff"} | who}
        assert api.post("/v1/verify", **sent, headers=admin).status_code == 200
        mine = problem(api.post("/v1/verify", **sent, headers=closed.keys["limited"]), "not-found", 404)
        sent["data"] |= {"collection": "no-such"}
        other = problem(api.post("/v1/verify", **sent, headers=closed.keys["limited"]), "not-found", 404)
        assert mine["detail"].replace("staff", "no-such") == other["detail"]


def test_a_person_of_another_collection_is_not_reached_through_ones_own(closed: Closed, problem: Any) -> None:
    api, admin, limited = closed.api, closed.keys["admin"], closed.keys["limited"]
    person = api.post("/v1/collections/staff/people", json={"name": "Ada"}, headers=admin).json()["id"]
    for method, path in CLOSED:
        if "{person_id}" in path and "{face_id}" not in path and method in ("GET", "DELETE"):
            inside = path.format(name="guests", person_id=person)
            problem(api.request(method, inside, headers=limited), "not-found", 404)
    assert api.get(f"/v1/collections/staff/people/{person}", headers=admin).status_code == 200


def test_what_is_open_is_open_and_other_methods_are_refused(closed: Closed) -> None:
    routes = OPEN.keys() | CLOSED.keys()
    for path in {path for _, path in routes}:
        allowed = {method for method, known in routes if known == path}
        if path == "/api/v1/recognition/faces/delete":
            allowed |= {"DELETE"}  # there it is the id of an image, and that route is closed
        for method in set(METHODS) - allowed:
            answer = ask(closed.app, method, url(path), {"Origin": "https://elsewhere.example"})
            assert answer.status == 405, (method, path)
            assert set(answer.headers["allow"].split(", ")) <= allowed  # of one route of the path


def test_no_other_site_may_ask_from_a_browser(closed: Closed) -> None:
    """CORS is off: no preflight is granted, and no reply lets another site read it."""
    preflight = {
        "Origin": "https://elsewhere.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    for method, path in OPEN.keys() | CLOSED.keys():
        granted = closed.api.options(url(path), headers=preflight)
        assert granted.status_code == 405
        plain = closed.api.request(method, url(path), headers=preflight)
        for answer in (granted, plain):
            assert not [name for name in answer.headers if name.lower().startswith("access-control")], (method, path)


def test_no_websocket_is_served(closed: Closed) -> None:
    for _, path in OPEN.keys() | CLOSED.keys():
        with pytest.raises(WebSocketDisconnect), closed.api.websocket_connect(url(path), headers=closed.keys["admin"]):
            pytest.fail(f"{path} takes WebSockets")


def test_every_reply_has_the_security_headers(closed: Closed) -> None:
    for method, path in OPEN.keys() | CLOSED.keys():
        for headers in ({}, closed.keys["read"]):
            said = closed.api.request(method, url(path), headers=headers).headers
            assert said["x-content-type-options"] == "nosniff"
            assert said["cache-control"] == "no-store", (method, path)
            assert said["x-frame-options"] == "DENY"
            assert "default-src 'none'" in said["content-security-policy"]
            assert "frame-ancestors 'none'" in said["content-security-policy"]
            assert said["referrer-policy"] == "no-referrer"
            assert said["cross-origin-resource-policy"] == "same-origin"
            assert "microphone=()" in said["permissions-policy"]
            assert "strict-transport-security" not in said
            assert "server" not in said
            assert len(said) == len({name for name, _ in said.multi_items()}), "a header comes twice"


def test_a_new_route_that_forgets_its_key_is_noticed(closed: Closed) -> None:
    """The walk can fail: an app with one more route has one more in the list."""
    app = FastAPI()
    app.mount("/api", FastAPI(openapi_url=None, docs_url=None, redoc_url=None))
    app.add_api_route("/v1/secrets", lambda: {})
    sub = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    sub.add_api_route("/v1/subjects", lambda: {}, methods=["POST"])
    app.mount("/other", sub)
    with pytest.raises(AssertionError, match="/api"):
        list(routes_of(app))
    app.routes[:] = [route for route in app.routes if getattr(route, "path", "") != "/api"]
    assert {("GET", "/v1/secrets"), ("POST", "/other/v1/subjects")} <= set(routes_of(app))
