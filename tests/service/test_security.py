"""Keys, scopes, and what a service without keys lets in."""

import hashlib
from typing import Any

import anyio
import pytest

from facemargin.errors import ConfigError
from service.errors import ForbiddenError, UnauthenticatedError
from service.security import Principal, Scope, authenticate, create_key, identify, is_loopback, parse_scope
from service.server import demand_key_beyond_loopback
from service.store import Store
from service.store.keys import key_state, keys, revoke_key


@pytest.fixture
def key(api: Any) -> Any:
    """Makes keys in the store of the running service."""

    def make(*scopes: Scope) -> str:
        with api.service.store.write() as session:
            return create_key(session, label="test", scopes=scopes)

    return make


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_key_is_stored_as_its_hash(tmp_path: Any) -> None:
    with Store(tmp_path) as store:
        with store.write() as session:
            made = create_key(session, label="door", scopes=[Scope.READ, Scope.VERIFY])
        prefix, key_id, secret = made.split("_", 2)
        assert (prefix, len(key_id)) == ("fm", 8)
        assert len(secret) >= 43
        with store.read() as session:
            (row,) = keys(session)
            assert (row.id, row.label, row.scopes) == (key_id, "door", ["read", "verify"])
            assert row.digest == hashlib.sha256(secret.encode()).digest()
            assert authenticate(session, made) == Principal(key_id, frozenset({Scope.READ, Scope.VERIFY}))
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in files


def test_keys_that_are_none(tmp_path: Any) -> None:
    with Store(tmp_path) as store:
        with store.write() as session:
            made = create_key(session, label="", scopes=[Scope.ADMIN])
        key_id = made.split("_")[1]
        wrong = [
            "",
            "fm",
            "fm__",
            made[:-1],
            made + "x",
            made.upper(),
            f"fm_{key_id}_",
            "fm_00000000_" + made[12:],
            "ä",
        ]
        with store.read() as session:
            for token in wrong:
                with pytest.raises(UnauthenticatedError, match="not valid"):
                    authenticate(session, token)
        with store.write() as session:
            revoke_key(session, key_id)
        with store.read() as session:
            with pytest.raises(UnauthenticatedError, match="not valid"):
                authenticate(session, made)
            assert key_state(session) == (1, 0)


def test_scopes() -> None:
    reader, admin = Principal("a", frozenset({Scope.READ})), Principal("b", frozenset({Scope.ADMIN}))
    reader.demand(Scope.WRITE, Scope.READ)
    admin.demand(Scope.ENROL_EMBEDDING)
    with pytest.raises(ForbiddenError, match="'write' or 'admin'"):
        reader.demand(Scope.WRITE, Scope.ADMIN)
    assert parse_scope("enrol-embedding") is Scope.ENROL_EMBEDDING
    with pytest.raises(ConfigError, match=r"'root'.*admin"):
        parse_scope("root")


@pytest.mark.parametrize(
    ("client", "host", "origin", "welcome"),
    [
        ("127.0.0.1", "127.0.0.1:8000", None, True),
        ("127.0.0.1", "localhost:8000", None, True),
        ("::1", "[::1]:8000", None, True),
        ("127.0.0.1", "localhost", "http://localhost:8000", True),
        ("127.0.0.1", "localhost", "https://evil.example", False),
        ("127.0.0.1", "localhost", "null", False),
        ("127.0.0.1", "evil.example", None, False),
        ("127.0.0.1", "localhost.evil.example:8000", None, False),
        ("127.0.0.1", "[::1", None, False),
        ("127.0.0.1", None, None, False),
        ("192.168.0.7", "localhost", None, False),
        (None, "localhost", None, False),
    ],
)
def test_without_keys_only_this_machine(
    tmp_path: Any, client: str | None, host: str | None, origin: str | None, welcome: bool
) -> None:
    with Store(tmp_path) as store, store.read() as session:
        if welcome:
            assert identify(session, None, client=client, host=host, origin=origin).may(Scope.ADMIN)
        else:
            with pytest.raises(UnauthenticatedError, match="facemargin keys add"):
                identify(session, None, client=client, host=host, origin=origin)


def test_with_keys_every_route_needs_one(api: Any, key: Any, problem: Any) -> None:
    assert api.get("/v1/models").status_code == 200
    admin = key(Scope.ADMIN)
    answer = api.get("/v1/models")
    problem(answer, "unauthenticated", 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert api.get("/v1/models", headers=bearer(admin)).status_code == 200
    assert api.get("/v1/models", headers={"X-API-Key": admin}).status_code == 200
    for wrong in (bearer(admin[:-1] + "!"), {"X-API-Key": "x"}, {"Authorization": f"Basic {admin}"}, bearer("")):
        problem(api.get("/v1/models", headers=wrong), "unauthenticated", 401)
    assert api.get("/health/live").status_code == api.get("/health/ready").status_code == 200


def test_a_revoked_key_does_not_open_the_service(api: Any, key: Any, problem: Any) -> None:
    admin = key(Scope.ADMIN)
    with api.service.store.write() as session:
        revoke_key(session, admin.split("_")[1])
    problem(api.get("/v1/models", headers=bearer(admin)), "unauthenticated", 401)
    problem(api.get("/v1/models"), "unauthenticated", 401)


NEEDS = {
    ("post", "/v1/embeddings"): {Scope.EMBED},
    ("post", "/v1/verify"): {Scope.VERIFY},
    ("get", "/v1/collections"): {Scope.READ},
    ("put", "/v1/collections/{name}"): {Scope.ADMIN},
    ("get", "/v1/collections/{name}"): {Scope.READ},
    ("delete", "/v1/collections/{name}"): {Scope.ADMIN},
    ("post", "/v1/collections/{name}/people"): {Scope.WRITE},
    ("get", "/v1/collections/{name}/people"): {Scope.READ},
    ("get", "/v1/collections/{name}/people/{person_id}"): {Scope.READ},
    ("patch", "/v1/collections/{name}/people/{person_id}"): {Scope.WRITE},
    ("delete", "/v1/collections/{name}/people/{person_id}"): {Scope.WRITE},
    ("post", "/v1/collections/{name}/people/{person_id}/faces"): {Scope.WRITE, Scope.ENROL_EMBEDDING},
    ("get", "/v1/collections/{name}/people/{person_id}/faces"): {Scope.READ},
    ("delete", "/v1/collections/{name}/people/{person_id}/faces/{face_id}"): {Scope.WRITE},
    ("post", "/v1/collections/{name}/search"): {Scope.READ},
    ("get", "/v1/models"): set(Scope),
    ("get", "/health/live"): None,
    ("get", "/health/ready"): None,
}


def test_every_route_refuses_every_other_scope(api: Any, key: Any, problem: Any) -> None:
    """All routes of the app, walked by its own document, with a key of each scope and with none."""
    routes = {(method, path) for path, item in api.get("/openapi.json").json()["paths"].items() for method in item}
    assert routes == set(NEEDS)
    by_scope = {scope: key(scope) for scope in Scope}
    for (method, path), needed in NEEDS.items():
        url = path.format(name="nobody", person_id="p_x", face_id="f_x")
        if needed is None:
            assert api.request(method, url).status_code == 200
            continue
        problem(api.request(method, url), "unauthenticated", 401)
        for scope, token in by_scope.items():
            answer = api.request(method, url, headers=bearer(token))
            if scope in needed or scope is Scope.ADMIN:
                assert answer.status_code not in (401, 403), (method, path, scope)
            else:
                body = problem(answer, "forbidden", 403)
                assert set(body["required_scopes"]) == {wanted.value for wanted in needed}


def test_a_body_is_not_read_without_a_key(api: Any, key: Any) -> None:
    key(Scope.ADMIN)
    read, sent = list[int](), list[Any]()

    async def receive() -> Any:
        read.append(1)
        return {"type": "http.request", "body": b"{", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/embeddings",
        "raw_path": b"/v1/embeddings",
        "headers": headers,
    }
    scope |= {"query_string": b"", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http"}
    anyio.run(api.app, scope, receive, send)
    assert sent[0]["status"] == 401
    assert read == []


def test_embeddings_are_enrolled_by_a_scope_of_their_own(
    api: Any, key: Any, problem: Any, vector: Any, crop: Any
) -> None:
    url = f"/v1/collections/staff/people/{api.person()}/faces"
    writer, enroller = bearer(key(Scope.WRITE)), bearer(key(Scope.ENROL_EMBEDDING))
    embedding = {"embedding": vector(1).tolist(), "model": api.model}
    image = {"files": {"image": crop(1)}, "data": {"aligned": "true"}}
    assert problem(api.post(url, json=embedding, headers=writer), "forbidden", 403)["required_scopes"] == [
        "enrol-embedding"
    ]
    problem(api.post(url, **image, headers=enroller), "forbidden", 403)
    assert api.post(url, json=embedding, headers=enroller).status_code == 201
    assert api.post(url, **image, headers=writer).status_code == 201


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_reader_does_not_work_out_templates(
    make_api: Any, make_tiny_bundle: Any, problem: Any, vector: Any, crop: Any, calibrated: bool
) -> None:
    api = make_api(bundle=make_tiny_bundle(calibrated=calibrated))
    person = api.person()
    for number in range(2):
        api.enrol(person, vector(number))
    with api.service.store.write() as session:
        reader, enroller, admin = (
            bearer(create_key(session, label="", scopes=scopes))
            for scopes in ([Scope.READ], [Scope.READ, Scope.ENROL_EMBEDDING], [Scope.ADMIN])
        )
    url, body = "/v1/collections/staff/search", {"embedding": vector(1).tolist(), "model": api.model}
    loose: list[dict[str, float]] = [{"threshold": -1}] + ([{"max_fpir": 0.9}] if calibrated else [{"threshold": 0.9}])
    for more in loose:
        told = problem(api.post(url, json=body | more, headers=reader), "forbidden", 403)
        assert told["required_scopes"] == ["enrol-embedding"]
        assert api.post(url, json=body | more, headers=enroller).status_code == 200
        assert api.post(url, json=body | more, headers=admin).status_code == 200
    image = {"files": {"image": crop(1)}, "data": {"aligned": "true", "threshold": "-1"}}
    assert api.post(url, **image, headers=reader).status_code == 200
    if calibrated:
        for strict in ({}, {"max_fpir": 0.001}, {"threshold": 0.99}):
            found = api.post(url, json=body | strict, headers=reader).json()
            assert [candidate["person"]["id"] for candidate in found["candidates"]] == [person]


def test_two_callers_may_use_the_same_idempotency_key(api: Any, key: Any) -> None:
    api.put("/v1/collections/staff")
    ids = [
        api.post(
            "/v1/collections/staff/people", json={"name": "Ada"}, headers=bearer(token) | {"Idempotency-Key": "1"}
        ).json()["id"]
        for token in (key(Scope.WRITE), key(Scope.WRITE))
    ]
    assert len(set(ids)) == 2


@pytest.mark.parametrize(
    ("host", "mine"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.1", False),
        ("example.com", False),
        ("", False),
        (None, False),
    ],
)
def test_loopback(host: str | None, mine: bool) -> None:
    assert is_loopback(host) is mine
    if host is not None and not mine:
        with pytest.raises(ConfigError, match="facemargin keys add"):
            demand_key_beyond_loopback(host, 0)
        demand_key_beyond_loopback(host, 1)
