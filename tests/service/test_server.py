"""The door: connections that come at once are taken in a few turns of the event loop; the end closes it."""

import asyncio
import contextlib
import errno
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from service.connections import Room, guarded
from service.server import _Server

AT_ONCE = 120
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Door(Room):
    """Remembers in which turn of the event loop each connection came."""

    def __init__(self) -> None:
        super().__init__(1000, 5.0)
        self.turn = 0
        self.came: list[int] = []

    def admit(self, connection: Any) -> bool:
        self.came.append(self.turn)
        return super().admit(connection)

    def count_turns(self) -> None:
        loop = asyncio.get_running_loop()

        def tick() -> None:
            self.turn += 1
            loop.call_soon(tick)

        tick()


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


class Running:
    def __init__(self, bound: socket.socket) -> None:
        self.door, self.bound = Door(), bound
        config = uvicorn.Config(
            _app, http=guarded(self.door), ws="none", lifespan="off", interface="asgi3", log_config=None,
            access_log=False, timeout_graceful_shutdown=2,
        )  # fmt: skip
        self.server = _Server(config, self.door.count_turns)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [bound]})

    def stop(self) -> None:
        self.server.should_exit = True
        if self.thread.ident is not None:
            self.thread.join(10)


@pytest.fixture
def running() -> Iterator[Running]:
    bound = socket.create_server(("127.0.0.1", 0), backlog=2 * AT_ONCE)
    found = Running(bound)
    yield found
    found.stop()
    bound.close()


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_connections_that_come_at_once_are_taken_in_a_few_turns(running: Running) -> None:
    address = running.bound.getsockname()
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(socket.create_connection(address, timeout=10)) for _ in range(AT_ONCE)]
        running.thread.start()
        wait_for(lambda: len(running.door.came) == AT_ONCE)
        assert max(running.door.came) - min(running.door.came) < AT_ONCE / 4
        for client in clients:
            client.sendall(GET)
        assert all(client.recv(1000).startswith(b"HTTP/1.1 204") for client in clients)


def test_freed_memory_is_returned_again_and_again(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[int] = []
    monkeypatch.setattr("service.server._TIDY_SECONDS", 0.02)
    monkeypatch.setattr("service.server.return_freed_memory", lambda: times.append(1))
    running.thread.start()
    wait_for(lambda: len(times) >= 3)


def test_the_end_closes_the_door(running: Running) -> None:
    running.thread.start()
    address = running.bound.getsockname()
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(GET)
        assert client.recv(1000).startswith(b"HTTP/1.1 204")
        running.stop()
        assert client.recv(1000) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)


def test_without_open_files_left_it_waits_and_goes_on(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = [errno.EMFILE, errno.ECONNABORTED]

    class Broken(socket.socket):
        def accept(self) -> Any:
            if tries:
                raise OSError(tries.pop(0), "as asked")
            return super().accept()

    bound = Broken(fileno=running.bound.detach())
    bound.listen()
    found = Running(bound)
    monkeypatch.setattr("service.server._REST_SECONDS", 0.1, raising=False)
    found.thread.start()
    try:
        with socket.create_connection(bound.getsockname(), timeout=10) as client:
            client.sendall(GET)
            assert client.recv(1000).startswith(b"HTTP/1.1 204")
        assert not tries
    finally:
        found.stop()
