"""What uvicorn's protocols lack against slow and many clients.

- The head of a request must be complete within a time, or its connection is closed (slowloris).
- The head must not grow without bound; `service.heads` limits it for httptools, which has no limit of its own.
- Nothing is read while requests that came before their turn wait for it.
- A reply that nobody reads does not keep its connection for ever, whether it is the last one or others wait for it.
- There are at most so many connections. When all are taken, the one that has waited longest without a request makes
  room for a new one; when every one has a request running, or has only just come, the new one gets a 503 with
  Retry-After.
- An upgrade to WebSocket is answered like the same request without it: the service has none.
"""

import asyncio
import fcntl
import json
import secrets
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.headers import SECURITY_HEADERS
from service.heads import LimitedHeads
from service.problems import MEDIA_TYPE, TYPE_PREFIX

if TYPE_CHECKING:
    _Base = asyncio.Protocol
else:
    _Base = object

_LINGER_SECONDS = 60.0
_LEAVE_SECONDS = 1.0
"""How long what a refused client still sends is read and thrown away: closed before, the system would answer it with a
reset, which may overtake the reply."""
_LEAVE_BYTES = 16 * 1024 * 1024
_MOST_LEAVING = 100
_RETRY_SECONDS = 1
_NEW_SECONDS = 1.0
"""How long a connection keeps its place before its first request: that may be here already, unread."""


@dataclass(eq=False)
class Room:
    """The connections of one server.

    Attributes:
        most: connections at a time.
        head_seconds: longest time that the head of a request may take.
        members: those that are open.
        waiting: those of them without a running request, the longest waiting first, and when each may be dropped.
        leaving: those that were refused, beside the members or of them, and have not hung up yet; and how many bytes
            of theirs are still thrown away.
    """

    most: int
    head_seconds: float
    members: set["GuardedConnection"] = field(default_factory=set)
    waiting: dict["GuardedConnection", float] = field(default_factory=dict)
    leaving: dict["GuardedConnection", int] = field(default_factory=dict)

    def admit(self, connection: "GuardedConnection") -> bool:
        """Take a new connection in, in place of a waiting one where all are taken; False where that is impossible."""
        if len(self.members) >= self.most:
            moment = time.monotonic()
            may_go = (waiting for waiting, until in self.waiting.items() if until <= moment and not waiting.unread)
            if (longest := next(may_go, None)) is None:
                return False
            longest.drop()
        self.members.add(connection)
        self.waiting[connection] = time.monotonic() + _NEW_SECONDS
        return True

    def leave(self, connection: "GuardedConnection") -> None:
        """Forget a connection."""
        self.members.discard(connection)
        self.waiting.pop(connection, None)
        self.leaving.pop(connection, None)


class _Flow(FlowControl):
    """Uvicorn's flow control, which an application's `receive` and every reply would let read on at once."""

    def __init__(self, transport: asyncio.Transport, full: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._full = full

    def resume_reading(self) -> None:
        """Read on, unless requests are waiting."""
        if not self._full():
            super().resume_reading()


class GuardedConnection(_Base):
    """What is put before a protocol of uvicorn; `guarded` makes the class."""

    room: Room
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    cycle: Any
    flow: FlowControl
    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self.flow = _Flow(self.transport, self._requests_wait)
        if self.room.admit(self):
            self._watch()
        else:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "all connections are taken; try again later", _RETRY_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave."""
        self._unwatch()
        self._forget_unread()
        self.room.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass the data on; then see whether they completed a request."""
        if self.transport.is_closing():
            return
        if self in self.room.leaving:
            self._throw_away(len(data))
            return
        super().data_received(data)
        if self in self.room.leaving:  # refused just now
            return
        if self._busy:
            self.room.waiting.pop(self, None)
            self._unwatch()
        elif self._timer is None:
            self._watch()

    def on_response_complete(self) -> None:
        """A reply was handed to the transport: wait for the next request, or for the client to take it."""
        super().on_response_complete()  # type: ignore[misc]
        if self.transport.is_closing():
            self._close()
            return
        self.flow.resume_reading()  # the request whose turn has come may have been the last that waited
        if not self._busy and self in self.room.members:
            self.room.waiting[self] = 0.0

    def pause_writing(self) -> None:
        """The client reads more slowly than is written: it may do so for a while."""
        super().pause_writing()
        self._forget_unread()
        self._unread = self.loop.call_later(_LINGER_SECONDS, self.drop)

    def resume_writing(self) -> None:
        """The client has read what there was."""
        self._forget_unread()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came after a reply."""
        self._close()

    def drop(self) -> None:
        """Make room at once: close without waiting for a client that does not read."""
        self.room.leave(self)
        self._unwatch()
        self._forget_unread()
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, "the request is not HTTP")

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: everybody can send the header."""

    @property
    def unread(self) -> bool:
        """Whether the system has bytes that were not read yet: most likely the next request."""
        count = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
        return any(count)

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        self._timer = self.loop.call_later(self.room.head_seconds, self._head_is_late)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _requests_wait(self) -> bool:
        """Whether more than the running request has come: requests, or bytes of them with h11."""
        if isinstance(self, H11Protocol):
            return self.conn.their_state is h11.DONE and bool(self.conn.trailing_data[0])
        return bool(self.pipeline)  # type: ignore[attr-defined]

    def _head_is_late(self) -> None:
        self._timer = None
        if not self._busy:
            self._close()

    def _close(self) -> None:
        """Close; what is still to be read by the client is kept for a while, not for ever."""
        self._unwatch()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def _refuse(self, status: HTTPStatus, detail: str, retry_after: int | None = None) -> None:
        """Answer without the application, and close when the client does, or soon."""
        if self.transport.is_closing() or self in self.room.leaving:
            return
        self.transport.write(raw_problem(status, detail, retry_after))
        if self._busy or len(self.room.leaving) >= _MOST_LEAVING:  # a running request might write after the end
            self._close()
            return
        self._unwatch()
        self.room.leaving[self] = _LEAVE_BYTES
        self._timer = self.loop.call_later(_LEAVE_SECONDS, self._close)
        self.transport.write_eof()

    def _throw_away(self, count: int) -> None:
        self.room.leaving[self] -= count
        if self.room.leaving[self] < 0:
            self.transport.abort()


def guarded(room: Room) -> type[asyncio.Protocol]:
    """The protocol for one server: by httptools where it is installed, by h11 otherwise."""
    return type("GuardedProtocol", (GuardedConnection, *_protocol()), {"room": room})


def _protocol() -> tuple[type[asyncio.Protocol], ...]:
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        return (H11Protocol,)
    return LimitedHeads, HttpToolsProtocol


def raw_problem(status: HTTPStatus, detail: str, retry_after: int | None = None) -> bytes:
    """A whole reply with problem details, for what never reaches the application."""
    slug = _SLUGS[status]
    request_id = secrets.token_hex(8)
    problem = {"type": TYPE_PREFIX + slug, "title": status.phrase, "status": int(status), "detail": detail}
    body = json.dumps(problem | {"request_id": request_id}).encode()
    headers = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Request-ID": request_id,
        **SECURITY_HEADERS,
    }
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{lines}\r\n".encode() + body


_SLUGS = {
    HTTPStatus.BAD_REQUEST: "not-http",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "head-too-large",
    HTTPStatus.SERVICE_UNAVAILABLE: "too-many-connections",
}
