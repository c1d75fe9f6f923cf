"""Bodies that come slowly, never, or without end; and a real server under slow clients."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest

from facemargin.bundle import Bundle
from service.body_limit import BodyLimit
from service.errors import BodyTooLargeError, UploadTooSlowError

Chunks = list[tuple[float, bytes]]


def upload(chunks: Chunks, *, pause: float = 0, **limits: Any) -> int:
    """Send chunks, each after some seconds, to an app that reads them all with a pause between; bytes it got."""
    got = 0
    waiting = list(chunks)

    async def receive() -> Any:
        seconds, data = waiting.pop(0)
        await asyncio.sleep(seconds)
        return {"type": "http.request", "body": data, "more_body": bool(waiting)}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal got
        more = True
        while more:
            message = await receive()
            got, more = got + len(message["body"]), message["more_body"]
            await asyncio.sleep(pause)

    values = {"max_bytes": 1000, "max_seconds": 10.0, "bytes_per_second": 100, "patience": 0.2} | limits
    anyio.run(BodyLimit(app, **values), {"type": "http", "headers": []}, receive, None)
    return got


def test_a_body_in_time_is_passed_on() -> None:
    assert upload([(0, b"abc"), (0.01, b""), (0.01, b"defg")]) == 7
    assert upload([(0, b"")]) == 0


def test_a_body_that_never_comes_is_cut_off() -> None:
    started = time.monotonic()
    with pytest.raises(UploadTooSlowError, match="0 bytes so far; at least 100 bytes a second") as caught:
        upload([(5, b"late")])
    assert 0.15 < time.monotonic() - started < 2
    assert caught.value.members == {"bytes_per_second": 100, "max_seconds": 10.0}


def test_a_trickle_is_cut_off_and_a_steady_stream_is_not() -> None:
    """At 100 bytes a second and 0.2 s of patience: 1 byte each 0.05 s is too slow, 20 bytes are fast enough."""
    with pytest.raises(UploadTooSlowError, match="too slowly"):
        upload([(0.05, b"a")] * 20)
    assert upload([(0.05, b"a" * 20)] * 20) == 400


def test_a_body_must_be_there_in_all_within_a_time() -> None:
    with pytest.raises(UploadTooSlowError, match=r"within 0\.3 s"):
        upload([(0.05, b"a" * 20)] * 20, max_seconds=0.3)
    assert upload([(0.05, b"a")] * 5, bytes_per_second=0) == 5


def test_time_that_the_service_takes_itself_does_not_count() -> None:
    assert upload([(0, b"a")] * 8, pause=0.06) == 8


def test_a_body_without_end_is_cut_off_by_its_size() -> None:
    with pytest.raises(BodyTooLargeError):
        upload([(0, b"a" * 600), (0, b"a" * 600)])


def test_after_the_body_an_app_may_wait_for_the_end_of_the_connection() -> None:
    async def run() -> str:
        gone = asyncio.Event()
        messages = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
            await receive()
            asyncio.get_running_loop().call_later(0.3, gone.set)
            scope["last"] = (await receive())["type"]

        scope: dict[str, Any] = {"type": "http", "headers": []}
        limit = BodyLimit(app, 10, max_seconds=0.1, bytes_per_second=10, patience=0.1)
        await limit(scope, receive, None)  # type: ignore[arg-type]
        return str(scope["last"])

    assert anyio.run(run) == "http.disconnect"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Bundle) -> Iterator[str]:
    """A real service with short limits."""
    store = tmp_path_factory.mktemp("uploads")
    environment = os.environ | {
        "FACEMARGIN_MODELS": str(store / "no-models"),
        "FACEMARGIN_HEAD_SECONDS": "3",
        "FACEMARGIN_UPLOAD_SECONDS": "1",
        "FACEMARGIN_ALLOWED_HOSTS": '["faces.example"]',
        "FACEMARGIN_HSTS": "true",
    }
    command = [sys.executable, "-m", "facemargin", "serve", "--port", "0", "--bundle", str(tiny_bundle.path)]
    with subprocess.Popen(
        [*command, "--store", str(store / "store")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline().decode()
        try:
            yield first.removeprefix("facemargin: serving on ").strip()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def connect(address: str, data: bytes) -> socket.socket:
    parts = urlsplit(address)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)
    connection.sendall(data)
    return connection


def test_a_real_service_answers_while_two_hundred_clients_are_slow(address: str) -> None:
    with ExitStack() as held, httpx2.Client(base_url=address) as client:
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
        slow = [held.enter_context(connect(address, head)) for _ in range(200)]
        for number in range(20):
            with contextlib.suppress(ConnectionError):
                slow[number].sendall(b"a")
            asked = time.monotonic()
            assert client.get("/v1/collections").status_code == 200
            assert time.monotonic() - asked < 2
        for connection in slow:
            with contextlib.suppress(ConnectionError):
                assert connection.recv(1000) == b""  # closed without a word
        assert client.get("/health/ready").status_code == 200


def test_a_real_service_cuts_a_slow_upload_off(address: str) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    started = time.monotonic()
    with connect(address, head + b"Content-Length: 100000\r\n\r\n{") as connection:
        told = b""
        while more := connection.recv(65536):  # until it is closed
            told += more
    assert 0.5 < time.monotonic() - started < 5
    assert told.startswith(b"HTTP/1.1 408")
    assert b"upload-too-slow" in told
    assert b"connection: close" in told.lower()


def test_a_real_service_answers_to_its_own_names_only(address: str, problem: Any) -> None:
    with httpx2.Client(base_url=address) as client:
        port = urlsplit(address).port
        for host in (f"localhost:{port}", "127.0.0.1", "[::1]:80", "faces.example", "FACES.example:443"):
            answer = client.get("/health/live", headers={"Host": host})
            assert answer.status_code == 200, host
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
        for host in ("evil.example", "faces.example.evil.example", "[::1", ""):
            answer = client.get("/health/live", headers={"Host": host})
            problem(answer, "host-not-allowed", 421)
        assert "server" not in answer.headers


def test_a_real_service_has_no_words_for_what_is_no_http(address: str) -> None:
    with connect(address, b"\x00\x01\x02\r\n\r\n") as connection:
        told = connection.recv(65536)
    assert told.startswith(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json")
    assert b"X-Frame-Options: DENY" in told
