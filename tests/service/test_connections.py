"""Slow and many clients, against a server of uvicorn with either of its protocols, by raw sockets."""

import asyncio
import contextlib
import importlib.util
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from service import connections
from service.connections import GuardedConnection, Room, guarded
from service.headers import SECURITY_HEADERS
from service.heads import MAX_HEAD_BYTES, MOST_PIPELINED

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HTTPTOOLS = pytest.param(
    "httptools", marks=pytest.mark.skipif(importlib.util.find_spec("httptools") is None, reason="no httptools here")
)


class Server:
    """A server in a thread: `/` answers at once, `/wait` when `go` is set, `/large` long, `/body` with its length."""

    def __init__(self, room: Room, *, keep_alive: float = 5) -> None:
        self.room = room
        self.go = threading.Event()
        self.most_queued = 0  # requests, or bytes of them with h11
        self.headers: list[tuple[bytes, bytes]] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = self.listening.getsockname()
        config = uvicorn.Config(
            self._app,
            http=guarded(room),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            timeout_keep_alive=keep_alive,  # type: ignore[arg-type]
            timeout_graceful_shutdown=1,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]})
        self.thread.start()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, scope["path"] == "/body"
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        self.most_queued = max([self.most_queued, *map(queued, self.room.members)])
        self.headers = scope["headers"]
        while scope["path"] == "/wait" and not self.go.is_set():
            await asyncio.sleep(0.01)
        body = bytes(50_000_000) if scope["path"] == "/large" else b"%d" % size
        head = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    def stop(self) -> None:
        self.go.set()
        self.server.should_exit = True
        self.thread.join(30)
        self.listening.close()

    def connect(self, data: bytes = b"") -> socket.socket:
        connection = socket.create_connection(self.address, timeout=20)
        connection.sendall(data)
        return connection

    def ask(self, data: bytes = GET) -> bytes:
        with self.connect(data) as connection:
            return reply(connection)


def queued(connection: Any) -> int:
    """What a connection holds of requests whose turn has not come."""
    if isinstance(connection, H11Protocol):
        return len(connection.conn.trailing_data[0])
    return len(connection.pipeline)


Serve = Callable[..., Server]


@pytest.fixture(params=[HTTPTOOLS, "h11"])
def serve(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    if request.param == "h11":
        monkeypatch.setattr(connections, "_protocol", lambda: (H11Protocol,))
    with ExitStack() as running:

        def start(most: int = 1000, head_seconds: float = 5, **more: Any) -> Server:
            server = Server(Room(most, head_seconds), **more)
            running.callback(server.stop)
            return server

        yield start


def reply(connection: socket.socket) -> bytes:
    """One reply with a Content-Length, or what came before the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := receive(connection)):
            return data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(
        next(line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    )
    while len(body) < length and (more := receive(connection)):
        body += more
    return head + b"\r\n\r\n" + body


def receive(connection: socket.socket) -> bytes:
    with contextlib.suppress(ConnectionError):
        return connection.recv(65536)
    return b""


def closed_after(connection: socket.socket) -> float:
    """Seconds until the other side closes."""
    started = time.monotonic()
    while receive(connection):
        pass
    return time.monotonic() - started


def test_two_hundred_slow_heads_are_closed_while_others_are_answered(serve: Serve) -> None:
    server = serve(head_seconds=1.5)
    with ExitStack() as held:
        slow = [held.enter_context(server.connect(b"GET / HTTP/1.1\r\nX-Slow: ")) for _ in range(200)]
        started, times = time.monotonic(), []
        while time.monotonic() - started < 1.2:
            for connection in slow[::20]:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"a")  # each byte alone would start an idle timer again
            asked = time.monotonic()
            assert server.ask().startswith(b"HTTP/1.1 200")
            times.append(time.monotonic() - asked)
        assert max(times) < 1.5
        readable: list[Any] = []
        deadline = time.monotonic() + 5
        while len(readable) < len(slow) and time.monotonic() < deadline:
            time.sleep(0.05)
            readable, _, _ = select.select(slow, [], [], 0)
        assert len(readable) == len(slow)
        assert all(receive(connection) == b"" for connection in slow)
    assert server.ask().startswith(b"HTTP/1.1 200")


def test_a_connection_that_says_nothing_is_closed(serve: Serve) -> None:
    with serve(head_seconds=0.3).connect() as silent:
        assert 0.1 < closed_after(silent) < 3


def test_a_slow_second_head_is_closed_too(serve: Serve) -> None:
    server = serve(head_seconds=0.5)
    with server.connect(GET) as connection:
        assert reply(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(GET)
        assert reply(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET / HT")
        assert 0.2 < closed_after(connection) < 3


def test_a_long_request_and_a_long_body_are_not_cut_by_the_limit_on_heads(serve: Serve) -> None:
    server = serve(head_seconds=0.3)
    with (
        server.connect(GET.replace(b"/ ", b"/wait ")) as waiting,
        server.connect(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n") as uploading,
    ):
        for _ in range(6):
            time.sleep(0.15)
            uploading.sendall(b"a")
        server.go.set()
        assert reply(waiting).startswith(b"HTTP/1.1 200")
        assert reply(uploading).endswith(b"\r\n\r\n6")


def test_a_body_after_its_reply_does_not_keep_the_connection(serve: Serve) -> None:
    """The client was refused, say, and goes on sending."""
    server = serve(head_seconds=0.5)
    with server.connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n") as connection:
        assert reply(connection).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 5:
                connection.sendall(b"a")
                time.sleep(0.02)
        assert time.monotonic() - started < 3


def test_requests_in_one_packet_are_answered_in_their_order(serve: Serve) -> None:
    server = serve(head_seconds=0.5)
    with server.connect(GET + b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab" + GET) as connection:
        told = b""
        while told.count(b"HTTP/1.1 200") < 3 or not told.endswith(b"0"):
            told += receive(connection)
        assert [part[-1:] for part in told.split(b"HTTP/1.1 ")[1:]] == [b"0", b"2", b"0"]


def test_a_head_without_end_is_refused(serve: Serve) -> None:
    server = serve(head_seconds=60)
    with server.connect(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ") as connection:
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(b"a" * (MAX_HEAD_BYTES // 8))
        assert closed_after(connection) < 5
    assert server.ask().startswith(b"HTTP/1.1 200")
    with server.connect(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * (MAX_HEAD_BYTES + 1)) as connection:
        assert reply(connection)[9:12] in (b"431", b"400", b"")  # h11 calls it 400; a reset may overtake the reply


def test_what_is_no_http_gets_a_problem(serve: Serve) -> None:
    head, _, body = serve().ask(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 400 Bad Request"
    assert {f"{name}: {value}" for name, value in SECURITY_HEADERS.items()} < set(lines)
    assert "Connection: close" in lines
    told = json.loads(body)
    assert (told["type"], told["status"]) == ("urn:facemargin:problem:not-http", 400)
    assert f"X-Request-ID: {told['request_id']}" in lines


def test_when_all_connections_work_a_new_one_is_sent_away(serve: Serve) -> None:
    server = serve(most=3)
    with ExitStack() as held:
        working = [held.enter_context(server.connect(GET.replace(b"/ ", b"/wait "))) for _ in range(3)]
        wait_for(lambda: len(server.room.members) == 3 and not server.room.waiting)
        head, _, body = server.ask(b"").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: 1" in head
        assert json.loads(body)["type"].endswith("too-many-connections")
        server.go.set()
        assert all(reply(connection).startswith(b"HTTP/1.1 200") for connection in working)
        assert server.ask().startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "data",
    [
        b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloZZZ\r\n\r\n",
        b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n\x00garbage\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 70_000,
        b"GET / HTTP/1.1\r\nHost: x\r\n" + (b"X-Long: " + b"a" * 1000 + b"\r\n") * 80,
        bytes(200_000),
    ],
)
def test_who_is_refused_keeps_no_place_and_is_refused_once(
    serve: Serve, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(most=2)
    threading.Timer(0.3, server.go.set).start()  # until then, a request to `/wait` is running
    with ExitStack() as held:
        for _ in range(2):
            connection = held.enter_context(server.connect())
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            assert closed_after(connection) < 5
    wait_for(lambda: not server.room.members and not server.room.leaving)
    assert server.ask().startswith(b"HTTP/1.1 200")
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


def test_who_is_sent_away_in_the_middle_of_a_request_gets_the_reply_and_no_reset(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_LEAVE_SECONDS", 30)
    server = serve(most=1)
    body = bytes(3_000_000)
    with server.connect(GET.replace(b"/ ", b"/wait ")), server.connect() as connection:
        wait_for(lambda: bool(server.room.leaving))
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert reply(connection).startswith(b"HTTP/1.1 503")
        assert connection.recv(1) == b""
    wait_for(lambda: not server.room.leaving)


def test_who_is_sent_away_and_does_not_go_is_put_out(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LEAVE_SECONDS", 0.2)
    server = serve(most=1)
    with server.connect(GET.replace(b"/ ", b"/wait ")), server.connect() as connection:
        assert reply(connection).startswith(b"HTTP/1.1 503")
        wait_for(lambda: not server.room.leaving)
        with pytest.raises(OSError, match=r"reset|pipe"):  # noqa: PT012
            for _ in range(100):
                connection.sendall(b"more")
                time.sleep(0.01)


def test_only_so_many_are_waited_for_that_were_sent_away(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MOST_LEAVING", 2)
    monkeypatch.setattr(connections, "_LEAVE_SECONDS", 30)
    server = serve(most=1)
    with ExitStack() as held:
        held.enter_context(server.connect(GET.replace(b"/ ", b"/wait ")))
        away = [held.enter_context(server.connect()) for _ in range(4)]
        for connection in away:
            assert reply(connection).startswith(b"HTTP/1.1 503")
        assert len(server.room.leaving) == 2


def test_connections_that_just_came_make_no_room(serve: Serve) -> None:
    """Their requests are on the way; a client that is told to come again is better off than one that is cut off."""
    server = serve(most=2, head_seconds=60)
    with server.connect() as first, server.connect() as second:
        wait_for(lambda: len(server.room.members) == 2)
        assert server.ask(b"").startswith(b"HTTP/1.1 503")
        for connection in (first, second):
            connection.sendall(GET)
            assert reply(connection).startswith(b"HTTP/1.1 200")
        assert server.ask().startswith(b"HTTP/1.1 200")  # by now both have had an answer
        assert closed_after(first) < 3


def test_who_has_sent_something_makes_no_room() -> None:
    """Between two turns of the event loop a kept connection may have its next request here, unread."""
    client, ours = socket.socketpair()
    other_client, other = socket.socketpair()
    with client, ours, other_client, other:
        room, dropped = Room(2, 5.0), []

        class Connection(GuardedConnection):
            def __init__(self, of: socket.socket) -> None:
                self.transport = SimpleNamespace(get_extra_info=lambda name: of)  # type: ignore[assignment]

            def drop(self) -> None:
                dropped.append(self)
                room.leave(self)

        sending, idle = Connection(ours), Connection(other)
        room.members |= {sending, idle}
        room.waiting |= {sending: 0.0, idle: 0.0}
        client.sendall(GET)
        assert (sending.unread, idle.unread) == (True, False)
        assert room.admit(Connection(other))
        assert dropped == [idle]
        assert not room.admit(Connection(other))


def test_when_all_connections_are_taken_the_longest_waiting_makes_room(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_NEW_SECONDS", 0.0, raising=False)
    server = serve(most=3, head_seconds=60)
    with ExitStack() as held:
        working = held.enter_context(server.connect(GET.replace(b"/ ", b"/wait ")))
        wait_for(lambda: len(server.room.members) == 1 and not server.room.waiting)
        first = held.enter_context(server.connect(b"GET"))
        wait_for(lambda: len(server.room.members) == 2)
        second = held.enter_context(server.connect(GET))
        assert reply(second).startswith(b"HTTP/1.1 200")
        assert server.ask().startswith(b"HTTP/1.1 200")
        assert closed_after(first) < 3
        second.sendall(GET)
        assert reply(second).startswith(b"HTTP/1.1 200")
        server.go.set()
        assert reply(working).startswith(b"HTTP/1.1 200")
    wait_for(lambda: not server.room.members and not server.room.waiting)


def test_a_client_that_does_not_read_its_reply_is_let_go(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LINGER_SECONDS", 0.3)
    server = serve(keep_alive=0.3)
    with server.connect(GET.replace(b"/ ", b"/large ")):
        wait_for(lambda: len(server.room.members) == 1)
        wait_for(lambda: not server.room.members)


def test_a_client_that_sends_much_and_reads_nothing_is_let_go(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second reply waits for the first to be read, so its request never ends."""
    monkeypatch.setattr(connections, "_LINGER_SECONDS", 0.3)
    server = serve(head_seconds=60, keep_alive=60)
    with server.connect(GET.replace(b"/ ", b"/large ") * 3):
        wait_for(lambda: len(server.room.members) == 1)
        wait_for(lambda: not server.room.members and not server.server.server_state.tasks)
    assert "Exception" not in caplog.text


def test_a_client_that_reads_late_keeps_its_connection(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LINGER_SECONDS", 1.0)
    server = serve()
    with server.connect(GET.replace(b"/ ", b"/large ")) as connection:
        time.sleep(0.3)
        unread = 50_000_000
        while unread > 0:
            unread -= len(connection.recv(1_000_000))
        time.sleep(1.1)
        connection.sendall(GET)
        assert reply(connection).startswith(b"HTTP/1.1 200")


def test_few_pipelined_requests_are_answered_and_hardly_any_are_held(serve: Serve) -> None:
    """Each goes through `receive`, which would read on while others wait."""
    server = serve()
    many = GET.replace(b"/ ", b"/body ") * 10
    with server.connect() as connection:
        for _ in range(20):
            connection.sendall(many)
            told = b""
            while told.count(b"HTTP/1.1 200") < 10 or not told.endswith(b"0"):
                told += receive(connection)
    assert server.most_queued <= len(many)


def test_a_flood_of_pipelined_requests_is_not_held(serve: Serve) -> None:
    server = serve(head_seconds=60, keep_alive=60)
    flood, until = GET.replace(b"/ ", b"/body ") * 6000, time.monotonic() + 0.7
    with server.connect() as connection:
        connection.setblocking(False)
        rest = flood
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < until:
                with contextlib.suppress(BlockingIOError):
                    rest = rest[connection.send(rest) :] or flood
                with contextlib.suppress(BlockingIOError):
                    connection.recv(65536)
    assert server.most_queued <= (600_000 if "h11" in protocol_of(server) else MOST_PIPELINED)
    assert server.ask().startswith(b"HTTP/1.1 200")


def test_too_many_pipelined_requests_close_the_connection(serve: Serve) -> None:
    server = serve(head_seconds=60, keep_alive=60)
    if "h11" in protocol_of(server):
        pytest.skip("h11 leaves them unread")
    with server.connect(GET.replace(b"/ ", b"/wait ") + GET * (MOST_PIPELINED + 1)) as connection:
        assert closed_after(connection) < 5
    with server.connect(GET.replace(b"/ ", b"/wait ") + GET * MOST_PIPELINED) as connection:
        wait_for(lambda: server.room.members and not server.room.waiting)
        server.go.set()
        told = b""
        while told.count(b"HTTP/1.1 200") < 1 + MOST_PIPELINED:
            told += receive(connection)


CHUNKED = b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"


@pytest.mark.parametrize(
    ("begin", "more"), [(b"0\r\n", b"a:b\r\n"), (b"0\r\na: ", b"bbbbb"), (b"0\r\na", b"aaaaa"), (b"1;", b"aaaaa")]
)
def test_trailers_without_end_are_refused(serve: Serve, begin: bytes, more: bytes) -> None:
    """Or a chunk's extension."""
    server = serve(head_seconds=60)
    with server.connect(CHUNKED + begin) as connection:
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 30_000_000:
                connection.sendall(more * 20_000)
                sent += 20_000 * len(more)
        assert sent < 30_000_000
    assert server.ask().startswith(b"HTTP/1.1 200")


def test_trailers_do_not_join_the_headers(serve: Serve) -> None:
    server = serve()
    asked = CHUNKED + b"0\r\nAuthorization: Bearer x\r\nHost: y\r\n\r\n"
    assert server.ask(asked).endswith(b"\r\n\r\n1")
    assert server.headers == [(b"host", b"x"), (b"transfer-encoding", b"chunked")]


def test_the_end_of_a_body_is_not_taken_for_the_next_head(serve: Serve) -> None:
    """In one piece; a socket may cut it in two, so it is handed over behind the socket."""
    server = serve()
    with server.connect(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n") as connection:
        wait_for(lambda: len(server.room.members) == 1 and not server.room.waiting)
        member: Any = next(iter(server.room.members))
        member.loop.call_soon_threadsafe(member.data_received, b"a" * 200_000 + GET[:-2])
        assert reply(connection).endswith(b"\r\n\r\n200000")
        connection.sendall(b"\r\n")
        assert reply(connection).startswith(b"HTTP/1.1 200")


def test_the_fields_of_a_head_are_limited_together_also_in_one_piece_with_another(serve: Serve) -> None:
    head = GET[:-2] + b"A: b\r\n" * 11_000 + b"\r\n"
    server = serve(head_seconds=60)
    if "h11" in protocol_of(server):
        pytest.skip("h11 limits what is not complete")
    with server.connect() as connection:
        wait_for(lambda: len(server.room.members) == 1)
        member: Any = next(iter(server.room.members))
        member.loop.call_soon_threadsafe(member.data_received, head + GET)
        assert reply(connection)[9:12] == b"431"


def test_an_upgrade_to_websocket_is_an_ordinary_request(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    )
    assert serve().ask(GET[:-2] + upgrade).startswith(b"HTTP/1.1 200")
    assert "pgrade" not in caplog.text


def protocol_of(server: Server) -> str:
    return " ".join(base.__name__.lower() for base in server.server.config.http.__mro__)  # type: ignore[union-attr]


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)
