"""Tries, waits and the deadline, against answers that are made up."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from facemargin.client import (
    AsyncClient,
    Client,
    ClientError,
    Overloaded,
    Retries,
    ServiceFailure,
    ServiceUnreachable,
    Unavailable,
    UnexpectedReply,
)

KEY = "fm_0123abcd_very-secret"
LIVE = {"status": "live"}


def ok() -> httpx.Response:
    return httpx.Response(200, json=LIVE)


def problem(status: int, slug: str = "", **headers: str) -> httpx.Response:
    body = {"type": f"urn:facemargin:problem:{slug}", "title": "T", "status": status, "detail": "D", "request_id": "r"}
    return httpx.Response(status, json=body, headers={"Content-Type": "application/problem+json", **headers})


class Clock:
    """Time that passes only in waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.waits = 1000.0, list[float]()
        monkeypatch.setattr("facemargin.client.clients.time.monotonic", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


Do = Callable[..., Any]


@pytest.fixture(params=["blocking", "awaited"])
def do(request: pytest.FixtureRequest, clock: Clock) -> Do:
    """Calls a method of either client over a transport."""

    def blocking(transport: httpx.MockTransport, name: str, *args: Any, **options: Any) -> Any:
        with Client("http://service", KEY, transport=transport, sleep=clock.sleep, **options) as client:
            return getattr(client, name)(*args)

    async def awaited(transport: httpx.MockTransport, name: str, *args: Any, **options: Any) -> Any:
        async with AsyncClient(
            "http://service", KEY, transport=transport, sleep=clock.sleep_async, **options
        ) as client:
            return await getattr(client, name)(*args)

    def run(*args: Any, **options: Any) -> Any:
        return asyncio.run(awaited(*args, **options))

    return blocking if request.param == "blocking" else run


def test_failures_that_pass_are_tried_again(do: Do, script: Any, clock: Clock) -> None:
    transport, sent = script(
        httpx.ConnectError("refused"),
        problem(503, "store-unavailable"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
        problem(429, **{"Retry-After": "7"}),
        ok(),
    )
    assert do(transport, "live").status == "live"
    assert len(sent) == 6
    assert all(0.1 * 2**number <= wait <= 0.2 * 2**number for number, wait in enumerate(clock.waits[:4]))
    assert 7 <= clock.waits[4] <= 7.2
    assert {request.headers["authorization"] for request in sent} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 415, 422, 500, 501])
def test_other_answers_are_not(do: Do, script: Any, clock: Clock, status: int) -> None:
    transport, sent = script(problem(status))
    with pytest.raises(ClientError) as raised:
        do(transport, "live")
    assert raised.value.status == status  # type: ignore[attr-defined]
    assert (len(sent), clock.waits) == (1, [])


def test_a_missing_detector_is_not_waited_for(do: Do, script: Any) -> None:
    transport, sent = script(problem(503, "detector-missing"))
    with pytest.raises(ClientError, match="detector-missing"):
        do(transport, "embed", b"picture")
    assert len(sent) == 1


def test_a_write_keeps_its_key_over_all_tries_and_the_next_has_another(do: Do, script: Any) -> None:
    person = {"id": "p", "name": "A", "collection": "c", "model": "m", "faces": 0, "expires_at": None}
    made = httpx.Response(201, json=person | {"created_at": "2026-01-31T09:30:00Z"})
    transport, sent = script(httpx.ReadError("cut"), problem(503), made, made)
    do(transport, "add_person", "c", "A")
    do(transport, "add_person", "c", "A")
    keys = [request.headers["Idempotency-Key"] for request in sent]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert len({request.content for request in sent}) == 1


def test_reads_carry_no_key_for_writes(do: Do, script: Any) -> None:
    transport, sent = script(ok())
    do(transport, "live")
    assert "Idempotency-Key" not in sent[0].headers


def test_the_deadline_ends_the_tries(do: Do, script: Any, clock: Clock) -> None:
    transport, sent = script(*[problem(503, "store-unavailable")] * 100)
    with pytest.raises(Unavailable):
        do(transport, "live", retries=Retries(deadline=20))
    assert 3 < len(sent) < 15
    assert sum(clock.waits) < 20


def test_a_longer_wait_than_the_deadline_is_told_at_once(do: Do, script: Any, clock: Clock) -> None:
    transport, _ = script(problem(429, **{"Retry-After": "3600"}))
    with pytest.raises(Overloaded) as raised:
        do(transport, "live")
    assert raised.value.retry_after == 3600
    assert clock.waits == []


def test_timeouts_shrink_to_what_is_left(do: Do, script: Any, clock: Clock) -> None:
    transport, sent = script(httpx.ReadTimeout("slow"), problem(503), ok())
    do(transport, "live", timeout=2.5, connect_timeout=1.5, retries=Retries(deadline=3, first_wait=0.6))
    timeouts = [request.extensions["timeout"] for request in sent]
    assert timeouts[0] == {"connect": 1.5, "read": 2.5, "write": 2.5, "pool": 2.5}
    assert timeouts[-1]["read"] == pytest.approx(3 - sum(clock.waits))


def test_without_retries_each_call_is_sent_once(do: Do, script: Any, clock: Clock) -> None:
    transport, sent = script(httpx.ConnectError("refused"))
    with pytest.raises(ServiceUnreachable, match="no answer to GET http://service/health/live: refused"):
        do(transport, "live", retries=None)
    assert (len(sent), clock.waits) == (1, [])


def test_one_call_told_to_wait_holds_the_others(script: Any, clock: Clock) -> None:
    transport, _ = script(problem(429, **{"Retry-After": "30"}), ok(), ok())

    class Told(Exception):
        pass

    def interrupt(seconds: float) -> None:
        raise Told

    with Client("http://service", transport=transport, sleep=interrupt) as client:
        with pytest.raises(Told):
            client.live()
        client._sleep = clock.sleep
        client.live()
        assert 30 <= clock.waits[0] <= 30.2
        client.live()
        assert len(clock.waits) == 1


@pytest.mark.parametrize(
    "answer",
    [
        lambda: httpx.Response(200, text="<html>"),
        lambda: httpx.Response(200, json={"status": "asleep"}),
        lambda: httpx.Response(200, json=[]),
        lambda: httpx.Response(302, headers={"Location": "http://elsewhere"}),
        lambda: httpx.DecodingError("bad gzip"),
    ],
)
def test_an_answer_that_is_not_of_the_service_is_told(do: Do, script: Any, answer: Callable[[], Any]) -> None:
    transport, sent = script(answer())
    with pytest.raises(UnexpectedReply):
        do(transport, "live")
    assert len(sent) == 1


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"title": ', b'{"status": "no"}'])
@pytest.mark.parametrize("media_type", ["text/html", "application/problem+json"])
def test_an_error_of_a_proxy_is_told_by_its_status(do: Do, script: Any, content: bytes, media_type: str) -> None:
    transport, _ = script(httpx.Response(500, content=content, headers={"Content-Type": media_type}))
    with pytest.raises(ServiceFailure):
        do(transport, "live")


def test_members_that_a_later_service_adds_are_left_alone(do: Do, script: Any) -> None:
    transport, _ = script(httpx.Response(200, json=LIVE | {"since": "today"}))
    assert do(transport, "live").model_dump() == LIVE


def test_the_key_is_in_no_repr_log_or_error(script: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    transport, _ = script(ok(), problem(401, "unauthenticated"), httpx.ConnectError("refused"))
    client = Client("http://service", KEY, transport=transport, retries=None)
    client.live()
    told = [repr(client), str(vars(client)), repr(client._http.headers)]
    for _ in range(2):
        with pytest.raises(ClientError) as raised:
            client.live()
        told += [str(raised.value), repr(raised.value)]
    assert "very-secret" not in "".join(told) + caplog.text
    assert caplog.records


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://service", "http"),
        ("service:8000", "http"),
        ("", "http"),
        ("http://user:fm_1_2@service", "as `key`"),
        ("http://[::1", "not an address"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_repeating_secrets(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        Client(url)
    assert "fm_1_2" not in str(raised.value)


@pytest.mark.parametrize("name", ["a/b", "..%2f", "a?b#c", "ü ☃"])
def test_no_name_leads_to_another_route(script: Any, name: str) -> None:
    transport, sent = script(problem(404))
    with pytest.raises(ClientError), Client("http://service/base/", transport=transport) as client:
        client.person("staff", name)
    path = sent[0].url.raw_path.decode()
    assert path.startswith("/base/v1/collections/staff/people/")
    assert path.count("/") == 6
    assert httpx.URL(f"http://x{path}").path.endswith(f"/{name}")
    assert sent[0].url.query == b""


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_leave_its_route_is_refused(script: Any, name: str) -> None:
    transport, sent = script()
    with Client("http://service", transport=transport) as client, pytest.raises(ValueError, match="no name"):
        client.delete_person("staff", name)
    assert sent == []


def test_proxies_of_the_environment_are_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:1")
    for url in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"):
        with Client(url) as client:
            assert not client._http.trust_env
    with Client("http://service") as client:
        assert client._http.trust_env
