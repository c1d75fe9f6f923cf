"""What happens around every request: an id, a log line, a reply whatever happens. Pure ASGI, so that bodies stream."""

import logging
import re
import secrets
import time
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems

log = logging.getLogger("facemargin.service")

REQUEST_ID = "X-Request-ID"
MODEL = "Facemargin-Model"
_USABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """Give each request an id and each reply the id and the model's name; log one line; let no exception through.

    The log line has the method, the path without its query, the status and the time taken: no names, no images, no
    embeddings. The path is percent-encoded again: decoded, it could hold a line break and forge a line.
    """

    def __init__(self, app: ASGIApp, model: str) -> None:
        self.app = app
        self.model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get(REQUEST_ID))
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.perf_counter(), 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID], headers[MODEL] = request_id, self.model
                headers["X-Content-Type-Options"], headers["Cache-Control"] = "nosniff", "no-store"
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        except Exception as error:  # the edge of the process: a request must never end without a reply
            log.exception("request %s failed", request_id)
            if not status:
                body = problems.describe(error) | {"request_id": request_id}
                await problems.reply(body)(scope, receive, send_named)
        elapsed_ms = (time.perf_counter() - started) * 1000
        log.info("%s %s %d %.1f ms %s", scope["method"], quote(scope["path"]), status, elapsed_ms, request_id)


def _request_id(wished: str | None) -> str:
    """The client's own id where it is short and plain, or a new one."""
    return wished if wished and _USABLE_ID.fullmatch(wished) else secrets.token_hex(8)
