"""The limit on request bodies, held while they arrive. Pure ASGI, so that bodies stream."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems
from service.errors import BodyTooLargeError


class BodyLimit:
    """Refuse a request body beyond the limit: by its announced length, or else as soon as it has come that far."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("Content-Length", "")
        if announced.isdigit() and int(announced) > self.max_bytes:
            body = problems.describe(self._too_large()) | {"request_id": scope["state"]["request_id"]}
            await problems.reply(body, {"Connection": "close"})(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, receive_counted, send)

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"the request body has more than the {self.max_bytes:,} bytes that are accepted", limit=self.max_bytes
        )
