"""What uvicorn's httptools protocol lacks against long heads and many requests at once; h11 has limits of its own.

- The fields of a head, and of the trailers after a chunked body are counted together, as the parser finishes them.
- What the parser has not finished is counted by what came: a field without an end, or the extension of a chunk.
- Trailers are not added to the headers, which the application may have looked at by then.
- A client may send so many requests before their replies, and is let go when it sends more.
"""

import asyncio
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Base = asyncio.Protocol
else:
    _Base = object

MAX_HEAD_BYTES = 64 * 1024
MOST_PIPELINED = 16
"""Requests of a connection whose turn has not come. Browsers send none; each costs some kilobytes."""

_FIELD_OVERHEAD = len(b": \r\n")


class _StopParsingError(Exception):
    """What follows in the same piece is not looked at; uvicorn's answer to it comes after the connection is closed."""


class LimitedHeads(_Base):
    """What is put between a `GuardedConnection` and uvicorn's httptools protocol."""

    pipeline: deque[Any]
    cycle: Any
    _head_bytes = 0
    _unfinished = 0
    _in_head = False
    _unanswered: deque[Any]

    if TYPE_CHECKING:

        def _refuse(self, status: HTTPStatus, detail: str) -> None: ...

        def _close(self) -> None: ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with no request."""
        self._unanswered = deque()
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request, not only the last one as uvicorn does: nobody takes what they would still send."""
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; then see how much has come since the parser last finished something."""
        self._unfinished += len(data)
        super().data_received(data)
        if self._unfinished > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_message_begin(self) -> None:
        """The head of a request begins."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()  # type: ignore[misc]

    def on_url(self, url: bytes) -> None:
        """A piece of the address."""
        self._count(len(url))
        super().on_url(url)  # type: ignore[misc]

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head or, after the body, a trailer."""
        self._count(len(name) + len(value) + _FIELD_OVERHEAD)
        if self._in_head:
            super().on_header(name, value)  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        """The head of a request is there; it waits for its turn, if there is room."""
        self._in_head = False
        if len(self.pipeline) >= MOST_PIPELINED:
            self._close()
            raise _StopParsingError
        super().on_headers_complete()  # type: ignore[misc]
        self._unanswered.append(self.cycle)

    def on_response_complete(self) -> None:
        """Replies come in the order of their requests."""
        self._unanswered.popleft()
        super().on_response_complete()  # type: ignore[misc]

    def on_body(self, body: bytes) -> None:
        """A piece of the body, for which there are other limits."""
        self._unfinished = 0
        super().on_body(body)  # type: ignore[misc]

    def on_message_complete(self) -> None:
        """The request is over."""
        self._unfinished = 0
        super().on_message_complete()  # type: ignore[misc]

    def _count(self, length: int) -> None:
        self._unfinished -= length
        self._head_bytes += length
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
            raise _StopParsingError

    def _refuse_head(self) -> None:
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large")
