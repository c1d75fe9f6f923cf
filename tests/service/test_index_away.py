"""Milvus away when the service starts, and while it runs; and back again."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from facemargin.index.milvus import collection, connection, engine
from tests.milvus import MilvusServer

PEOPLE = "/v1/collections/staff/people"


@pytest.fixture
def milvus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MilvusServer]:
    """A server that is not running yet; calls to it end soon."""
    monkeypatch.setattr(connection, "CONNECT_S", 1.0)
    for module in (collection, engine):
        monkeypatch.setattr(module, "CALL_S", 1.0)
    server = MilvusServer(tmp_path / "milvus", start=False)
    yield server
    server.kill()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def is_ready(api: Any) -> bool:
    return bool(api.get("/health/ready").status_code == 200)


def check_refused(api: Any, problem: Any, vector: Any, crop: Any, person: str) -> None:
    """Searches and writes are refused with the reason, at once, and nothing of a write is done."""
    sent = {"embedding": vector(1).tolist(), "model": api.model}
    before = api.get(f"{PEOPLE}/{person}/faces").json()
    for call in (
        lambda: api.post("/v1/collections/staff/search", json=sent),
        lambda: api.post(f"{PEOPLE}/{person}/faces", json=sent),
        lambda: api.delete(f"{PEOPLE}/{person}"),
        lambda: api.delete("/v1/collections/staff"),
    ):
        began = time.monotonic()
        answer = call()
        assert time.monotonic() - began < 1.0
        body = problem(answer, "index-unavailable", 503)
        assert "Milvus at http://127.0.0.1" in body["detail"]
        assert answer.headers["Retry-After"] == "5"
    assert api.get(f"{PEOPLE}/{person}/faces").json() == before
    checks = {check["name"]: check for check in problem(api.get("/health/ready"), "not-ready", 503)["checks"]}
    assert "Milvus at http://127.0.0.1" in checks["index"]["detail"]
    one = {"files": {"image_a": crop(1)}, "data": {"aligned": "true", "collection": "staff", "person": person}}
    assert api.post("/v1/verify", **one).status_code == 200  # needs no index
    assert api.get("/metrics").status_code == 200


@pytest.mark.both_databases
def test_milvus_goes_away_and_comes_back(
    make_api: Any, milvus: MilvusServer, problem: Any, vector: Any, crop: Any
) -> None:
    milvus.start()
    api = make_api(index=milvus.url, housekeeping_seconds=0.3)
    ada = api.person()
    api.enrol(ada, vector(1))
    milvus.kill()
    sent = {"embedding": vector(2).tolist(), "model": api.model}
    problem(api.post("/v1/collections/staff/search", json=sent), "index-unavailable", 503)
    check_refused(api, problem, vector, crop, ada)
    milvus.start()
    wait_for(lambda: is_ready(api))
    api.enrol(ada, vector(2))
    assert [len(api.find(vector(number), threshold=0.9)["candidates"]) for number in (1, 2, 3)] == [1, 1, 0]


def test_milvus_goes_away_between_the_commit_and_the_index(
    make_api: Any, milvus: MilvusServer, problem: Any, vector: Any, crop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    milvus.start()
    api = make_api(index=milvus.url, housekeeping_seconds=0.3)
    ada, bob = api.person("Ada"), api.person("Bob")
    api.enrol(ada, vector(1))
    api.enrol(bob, vector(2))
    prepare = api.service.gallery.prepare

    def then_killed(session: Any, changes: Any) -> None:
        prepare(session, changes)
        milvus.kill()

    monkeypatch.setattr(api.service.gallery, "prepare", then_killed)
    assert api.delete(f"{PEOPLE}/{ada}").status_code == 204  # it is on the disk
    monkeypatch.undo()
    check_refused(api, problem, vector, crop, bob)
    milvus.start()
    wait_for(lambda: is_ready(api))
    found = api.find(vector(1), threshold=0.9)
    assert (found["templates"], found["candidates"]) == (1, [])


def test_a_service_starts_without_milvus_and_waits_for_it(
    make_api: Any, milvus: MilvusServer, problem: Any, vector: Any, crop: Any
) -> None:
    first = make_api(index="faiss:")
    ada = first.person()
    first.enrol(ada, vector(1))
    first.close()
    first.service.close()
    api = make_api(index=milvus.url, housekeeping_seconds=0.3)
    check_refused(api, problem, vector, crop, ada)
    milvus.start()
    wait_for(lambda: is_ready(api))
    assert len(api.find(vector(1), threshold=0.9)["candidates"]) == 1
