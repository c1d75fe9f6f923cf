"""The limits on request bodies, held while they arrive: size, speed, time. Pure ASGI, so that bodies stream."""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems
from service.errors import BodyTooLargeError, UploadTooSlowError

_PATIENCE_SECONDS = 5.0


class BodyLimit:
    """Refuse a request body beyond the limits.

    Too large: by its announced length, or else as soon as it has come that far. Too slow: when all waiting for it
    together passes ``max_seconds``, or five seconds and what its bytes so far may take at the least speed. Only
    waiting counts: a body that came and lies unread while the service is busy costs its client nothing.

    Args:
        app: what is inside.
        max_bytes: most bytes of a body.
        max_seconds: longest wait for all of it.
        bytes_per_second: least speed; 0 for any.
        patience: seconds of waiting before the speed counts.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        *,
        max_seconds: float,
        bytes_per_second: int,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds
        self.bytes_per_second = bytes_per_second
        self.patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("Content-Length", "")
        if announced.isdigit() and int(announced) > self.max_bytes:
            body = problems.describe(self._too_large()) | {"request_id": scope["state"]["request_id"]}
            await problems.reply(body)(scope, receive, send)
            return
        received, waited, more = 0, 0.0, True

        async def receive_limited() -> Message:
            nonlocal received, waited, more
            if not more:
                return await receive()  # nothing more but the end of the connection
            started = time.monotonic()
            try:
                async with asyncio.timeout(self._allowed(received) - waited):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow(received) from None
            waited += time.monotonic() - started
            received += len(message.get("body", b""))
            more = message.get("more_body", False)
            if received > self.max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, receive_limited, send)

    def _allowed(self, received: int) -> float:
        """Seconds of waiting that a body may have cost by now."""
        if not self.bytes_per_second:
            return self.max_seconds
        return min(self.max_seconds, self.patience + received / self.bytes_per_second)

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"the request body has more than the {self.max_bytes:,} bytes that are accepted", limit=self.max_bytes
        )

    def _too_slow(self, received: int) -> UploadTooSlowError:
        return UploadTooSlowError(
            f"the request body came too slowly: {received:,} bytes so far; at least {self.bytes_per_second:,} bytes a "
            f"second are expected, and all of it within {self.max_seconds:g} s",
            bytes_per_second=self.bytes_per_second,
            max_seconds=self.max_seconds,
        )
