"""Keys, scopes, and what a service without keys lets in."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from facemargin.errors import ConfigError
from service.errors import ForbiddenError, NotFoundError, StoreError, UnauthenticatedError
from service.security import (
    Principal,
    Scope,
    authenticate,
    create_key,
    identify,
    is_loopback,
    parse_scope,
    rotate_key,
)
from service.server import demand_key_beyond_loopback
from service.store import Store
from service.store.key_ring import KeyRing, key_ring
from service.store.keys import KeyLimits, key_state, keys, revoke_key
from service.store.tables import now


@pytest.fixture
def key(api: Any) -> Any:
    """Makes keys in the store of the running service."""

    def make(*scopes: Scope) -> str:
        with api.service.store.write() as session:
            return create_key(session, label="test", scopes=scopes)

    return make


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class Opened(NamedTuple):
    store: Store
    ring: KeyRing


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    with Store(tmp_path) as store, closing(key_ring(store)) as ring:
        yield Opened(store, ring)


def made(store: Store, *scopes: Scope, **limits: Any) -> str:
    with store.write() as session:
        return create_key(session, label="test", scopes=scopes, limits=KeyLimits(**limits))


def test_a_key_is_stored_as_its_hash(opened: Opened) -> None:
    key = made(opened.store, Scope.READ, Scope.VERIFY)
    prefix, key_id, secret = key.split("_", 2)
    assert (prefix, len(key_id)) == ("fm", 8)
    assert len(secret) >= 43
    with opened.store.read() as session:
        (row,) = keys(session)
        assert (row.id, row.label, row.scopes) == (key_id, "test", ["read", "verify"])
        assert row.digest == hashlib.sha256(secret.encode()).digest()
    assert authenticate(opened.ring, key) == Principal(key_id, frozenset({Scope.READ, Scope.VERIFY}))
    files = b"".join(path.read_bytes() for path in opened.store.folder.iterdir())
    assert secret.encode() not in files


def test_keys_that_are_none(opened: Opened) -> None:
    store, ring = opened
    key = made(store, Scope.ADMIN)
    key_id = key.split("_")[1]
    wrong = ["", "fm", "fm__", key[:-1], key + "x", key.upper(), f"fm_{key_id}_", "fm_00000000_" + key[12:], "ä"]
    for token in wrong:
        with pytest.raises(UnauthenticatedError, match="not valid"):
            authenticate(ring, token)
    assert authenticate(ring, key).name == key_id
    with store.write() as session:
        revoke_key(session, key_id)
    with pytest.raises(UnauthenticatedError, match="not valid"):
        authenticate(ring, key)
    with store.read() as session:
        assert key_state(session) == (1, 0)
    assert not ring.empty()


def test_a_key_ends_at_its_time(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    store, ring = opened
    end = now() + timedelta(hours=1)
    key = made(store, Scope.ADMIN, expires_at=end)
    for moment, welcome in ((end - timedelta(milliseconds=1), True), (end, False), (end + timedelta(days=1), False)):
        monkeypatch.setattr("service.security.now", lambda moment=moment: moment)
        monkeypatch.setattr("service.store.keys.now", lambda moment=moment: moment)
        with store.read() as session:
            assert key_state(session) == (1, int(welcome))
        if welcome:
            assert authenticate(ring, key).may(Scope.ADMIN)
        else:
            with pytest.raises(UnauthenticatedError, match="not valid"):
                authenticate(ring, key)


def test_a_digest_is_compared_whether_the_key_exists_or_not(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    key = made(opened.store, Scope.ADMIN)
    key_id = key.split("_")[1]
    compared = list[tuple[int, int]]()

    def counted(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return a == b

    monkeypatch.setattr("service.security.hmac.compare_digest", counted)
    for token in (f"fm_{key_id}_x", "fm_00000000_x", "nonsense", ""):
        with pytest.raises(UnauthenticatedError):
            authenticate(opened.ring, token)
    assert compared == [(32, 32)] * 4


def test_the_ring_reads_the_keys_again_only_when_the_database_changed(opened: Opened) -> None:
    store, ring = opened
    assert ring.empty()
    keys_made = [made(store, Scope.READ), made(store, Scope.WRITE)]
    found = [ring.find(key.split("_")[1]) for key in keys_made]
    assert [key and key.scopes for key in found] == [{"read"}, {"write"}]
    assert ring.find("00000000") is None
    again = ring.find(keys_made[0].split("_")[1])
    assert again is found[0]  # nothing was read in between
    with Store(store.folder) as elsewhere, elsewhere.write() as session:
        revoke_key(session, keys_made[0].split("_")[1])
    changed = ring.find(keys_made[0].split("_")[1])
    assert changed is not None
    assert changed.revoked


def test_a_ring_whose_database_does_not_answer_is_a_store_error(opened: Opened) -> None:
    opened.ring.close()
    with pytest.raises(StoreError, match="API keys"):
        opened.ring.find("x")


def test_rotation_keeps_what_a_key_may_and_ends_the_old_one(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    store, ring = opened
    began = now()
    old = made(store, Scope.READ, collections=("staff",), expires_at=began + timedelta(days=90), requests_per_minute=7)
    later = began + timedelta(days=80)
    for module in ("service.security", "service.store.keys"):
        monkeypatch.setattr(f"{module}.now", lambda: later)
    with store.write() as session:
        new = rotate_key(session, old.split("_")[1], timedelta(hours=24))
    before, after = authenticate(ring, old), authenticate(ring, new)
    assert before.name != after.name
    assert (after.scopes, after.collections, after.requests_per_minute) == ({Scope.READ}, {"staff"}, 7)
    kept, ending = ring.find(after.name), ring.find(before.name)
    assert kept is not None
    assert ending is not None
    assert ending.limits.expires_at == later + timedelta(hours=24)
    assert kept.limits.expires_at is not None
    assert abs(kept.limits.expires_at - (later + timedelta(days=90))) < timedelta(minutes=1)
    with store.write() as session:
        rotate_key(session, after.name, timedelta())
    with pytest.raises(UnauthenticatedError):
        authenticate(ring, new)
    with store.write() as session, pytest.raises(ConfigError, match="not valid any more"):
        rotate_key(session, after.name, timedelta(hours=1))
    with store.write() as session, pytest.raises(NotFoundError, match="no key '00000000'"):
        rotate_key(session, "00000000", timedelta(hours=1))


def test_rotation_never_lengthens_the_life_of_the_old_key(opened: Opened) -> None:
    end = now() + timedelta(hours=1)
    old = made(opened.store, Scope.READ, expires_at=end)
    with opened.store.write() as session:
        rotate_key(session, old.split("_")[1], timedelta(days=30))
    key = opened.ring.find(old.split("_")[1])
    assert key is not None
    assert key.limits.expires_at == end


def test_a_key_that_is_limited_to_collections_knows_of_no_other() -> None:
    limited = Principal("a", frozenset({Scope.ADMIN}), frozenset({"staff"}))
    limited.enter("staff")
    limited.make("staff")
    assert (limited.sees("staff"), limited.sees("guests")) == (True, False)
    with pytest.raises(NotFoundError, match="there is no collection 'guests'"):
        limited.enter("guests")
    with pytest.raises(ForbiddenError, match="limited to other collections"):
        limited.make("guests")
    Principal("b", frozenset()).enter("guests")


def test_scopes() -> None:
    reader, admin = Principal("a", frozenset({Scope.READ})), Principal("b", frozenset({Scope.ADMIN}))
    reader.demand(Scope.WRITE, Scope.READ)
    admin.demand(Scope.ENROL_EMBEDDING)
    with pytest.raises(ForbiddenError, match="'write' or 'admin'"):
        reader.demand(Scope.WRITE, Scope.ADMIN)
    watcher = Principal("c", frozenset({Scope.METRICS}))
    watcher.demand(Scope.METRICS)
    with pytest.raises(ForbiddenError):
        watcher.demand(*(scope for scope in Scope if scope is not Scope.METRICS))
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
    opened: Opened, client: str | None, host: str | None, origin: str | None, welcome: bool
) -> None:
    if welcome:
        assert identify(opened.ring, None, client=client, host=host, origin=origin).may(Scope.ADMIN)
    else:
        with pytest.raises(UnauthenticatedError, match="facemargin keys add"):
            identify(opened.ring, None, client=client, host=host, origin=origin)


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
