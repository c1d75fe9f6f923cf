"""Requests with images are refused at once where they would wait too long; nothing else ever waits."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st

from service.admission import image_routes
from service.errors import OverloadedError
from service.load import Load
from service.routes import ROUTERS


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def load(clock: Clock | None = None, *, max_wait_ms: int = 1000, free: int = 2, interval: float = 0.1) -> Load:
    return Load(max_wait_ms=max_wait_ms, free=free, interval_seconds=interval, clock=clock or Clock())


def test_as_many_are_let_in_as_can_be_answered_within_the_limit() -> None:
    under_test = load()
    for _ in range(12):  # two are worked on, ten wait, the last of them for 10 x 0.1 s
        under_test.enter()
    with pytest.raises(OverloadedError) as caught:
        under_test.enter()
    assert caught.value.members["retry_after"] == 1
    assert (under_test.inside, under_test.refused) == (12, 1)
    under_test.leave()
    under_test.enter()


def test_whoever_would_not_wait_comes_in_however_slow_the_service_is() -> None:
    under_test = load(interval=60.0)
    under_test.enter()
    under_test.enter()
    with pytest.raises(OverloadedError) as caught:
        under_test.enter()
    assert caught.value.members["retry_after"] == 59


def test_the_rate_is_measured_while_there_is_work_and_idle_time_does_not_count() -> None:
    clock = Clock()
    under_test = load(clock, interval=5.0)
    for _ in range(200):
        clock.now += 1000  # nobody comes for a long time
        under_test.enter()
        under_test.enter()
        clock.now += 0.2
        under_test.leave()
        clock.now += 0.2
        under_test.leave()
    under_test.enter()
    under_test.enter()
    assert under_test.wait_seconds == pytest.approx(0.2, rel=0.01)


@pytest.mark.parametrize("clump", [1, 8, 32])
def test_replies_that_come_together_do_not_hide_how_long_they_took(clump: int) -> None:
    """As many replies as a turn of the event loop sends at once, 20 a second on the whole."""
    clock = Clock()
    under_test = load(clock, max_wait_ms=1_000_000, interval=0.05)
    seen = []
    for _ in range(1 + 600 // clump):
        for _ in range(clump):
            under_test.enter()
        clock.now += clump / 20
        for _ in range(clump):
            under_test.leave()
            seen.append(under_test._interval)
    assert min(seen) > 0.025
    assert max(seen) < 0.11


def test_a_slower_network_is_noticed_within_ten_seconds() -> None:
    clock = Clock()
    under_test = load(clock, max_wait_ms=1_000_000, interval=0.01)
    for _ in range(100):
        under_test.enter()
        clock.now += 0.1
        under_test.leave()
    assert under_test._interval == pytest.approx(0.1, rel=0.1)


@given(st.lists(st.sampled_from(["enter", "leave", "tick"]), max_size=200), st.integers(1, 4))
def test_the_estimated_wait_of_whoever_is_inside_never_passes_the_limit_at_a_steady_rate(
    steps: list[str], free: int
) -> None:
    clock = Clock()
    under_test = load(clock, free=free, max_wait_ms=500)
    for step in steps:
        clock.now += 0.1
        if step == "leave" and under_test.inside:
            under_test.leave()
        elif step == "enter":
            before = under_test.wait_seconds
            try:
                under_test.enter()
            except OverloadedError:
                assert before > 0.5
            else:
                assert before <= 0.5
    assert under_test.inside >= 0


@pytest.fixture
def held_api(make_api: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service that embeds nothing until its ``go`` is set, and holds one request beyond those it works on."""
    api = make_api(max_wait_ms=1, max_batch=1)
    model, go = api.service.models.default, threading.Event()
    inner, api.go = model.embedder.embed, go
    api.service.engine.batchers.of(model.embedder)._embed = lambda crops: (go.wait(10), inner(crops))[1]
    api.service.load._interval = 10.0
    return api


def filled(api: Any, send: Callable[[], Any], pool: ThreadPoolExecutor) -> list[Any]:
    """As many requests as are let in, all of them waiting."""
    waiting = [pool.submit(send) for _ in range(api.service.load._free)]
    deadline = time.monotonic() + 5
    while api.service.load.inside < len(waiting):
        assert time.monotonic() < deadline, [reply.result() for reply in waiting if reply.done()]
        time.sleep(0.01)
    return waiting


def test_a_full_service_refuses_and_says_when_to_come_back(held_api: Any, crop: Any, problem: Any) -> None:
    def send() -> Any:
        return held_api.post("/v1/embeddings", files={"images": crop(1)}, data={"aligned": "true"})

    with ThreadPoolExecutor(8) as pool:
        waiting = filled(held_api, send, pool)
        body = problem(send(), "overloaded", 429)
        assert int(send().headers["retry-after"]) == body["retry_after"] >= 1
        assert "would wait 10.0 s, at most 0.001 s" in body["detail"]
        for path in ("/health/live", "/health/ready", "/v1/models"):
            assert held_api.get(path).status_code == 200
        assert held_api.put("/v1/collections/staff").status_code == 201
        held_api.go.set()
        assert [reply.result(10).status_code for reply in waiting] == [200] * len(waiting)
    assert held_api.service.load.inside == 0
    assert send().status_code == 200


def test_a_refusal_reads_nothing_of_the_body(held_api: Any, crop: Any) -> None:
    def send() -> Any:
        return held_api.post("/v1/embeddings", files={"images": crop(1)}, data={"aligned": "true"})

    sent: list[Any] = []

    async def refuse() -> None:
        async def receive() -> Any:
            raise AssertionError("the body was read")

        async def keep(message: Any) -> None:
            sent.append(message)

        await held_api.app(_scope("/v1/verify"), receive, keep)

    with ThreadPoolExecutor(8) as pool:
        waiting = filled(held_api, send, pool)
        asyncio.run(refuse())
        held_api.go.set()
        assert all(reply.result(10).status_code == 200 for reply in waiting)
    assert sent[0]["status"] == 429
    assert json.loads(sent[1]["body"])["type"] == "urn:facemargin:problem:overloaded"


def test_what_needs_no_image_says_nothing_about_how_fast_images_are(api: Any, crop: Any) -> None:
    files = {"images": crop(1)}
    model = api.post("/v1/embeddings", files=files, data={"aligned": "true"}).json()["model"]
    api.put("/v1/collections/staff")
    vector = {"embedding": [1.0] + [0.0] * 31, "model": model}
    known = api.service.load._interval
    for _ in range(5):
        assert api.post("/v1/collections/staff/search", json=vector).status_code == 200
        assert api.post("/v1/collections/nobody/search", json=vector).status_code == 404
        assert api.post("/v1/collections/staff/search", json={}).status_code == 422
    assert api.service.load._interval == known
    assert api.service.load.inside == 0
    assert api.post("/v1/embeddings", files=files, data={"aligned": "true"}).status_code == 200
    assert api.service.load._interval != known


def test_of_those_that_come_at_once_only_as_many_get_in_as_may(held_api: Any, crop: Any) -> None:
    """All pass the first look, which is before their bodies; the second one is where the work begins."""

    def send() -> Any:
        return held_api.post("/v1/embeddings", files={"images": crop(1)}, data={"aligned": "true"})

    held_api.service.load.demand = lambda: None
    demand, places = type(held_api.service.load).demand, held_api.service.load._free
    with ThreadPoolExecutor(8) as pool:
        waiting = filled(held_api, send, pool)
        held_api.service.load.demand = lambda: demand(held_api.service.load)
        assert send().status_code == 429
        held_api.go.set()
        assert [reply.result(10).status_code for reply in waiting] == [200] * places


def test_a_body_that_still_comes_takes_no_place(tiny_bundle: Any, make_api: Any) -> None:
    api = make_api()
    seen: list[int] = []

    async def upload() -> None:
        parts = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.request", "body": b""}]

        async def receive() -> Any:
            seen.append(api.service.load.inside)
            return parts.pop(0)

        await api.app(_scope("/v1/embeddings"), receive, _ignore)

    asyncio.run(upload())
    assert seen == [0, 0]
    assert api.service.load.inside == 0


def _scope(path: str) -> dict[str, Any]:
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    return {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http",
        "root_path": "", "http_version": "1.1", "asgi": {"version": "3.0"}, "state": {},
    }  # fmt: skip


async def _ignore(message: Any) -> None:
    pass


def test_every_route_that_takes_images_is_counted() -> None:
    """Told by the problems that a route documents, which is another source than the one that is tested."""
    patterns = image_routes(ROUTERS)
    taking = set()
    for route in (route for router in ROUTERS for route in router.routes if _takes_posts(route)):
        documents_images = "unsupported-image" in json.dumps(route.responses, default=str)
        assert documents_images == any(pattern is route.path_regex for pattern in patterns), route.path
        taking |= {route.path} if documents_images else set()
    assert {"/v1/embeddings", "/v1/verify", "/v1/collections/{name}/search"} <= taking


def _takes_posts(route: Any) -> bool:
    return isinstance(route, APIRoute) and "POST" in route.methods


def test_a_bad_image_leaves_its_place_again(api: Any, problem: Any) -> None:
    reply = api.post("/v1/embeddings", files={"images": b"no image"}, data={"aligned": "true"})
    problem(reply, "unsupported-image", 415)
    assert api.service.load.inside == 0
