"""What happens around every request: an id, a log line, figures, a reply whatever happens.

Pure ASGI, so that bodies stream. The path is known here only as the template of its route: decoded, it could forge a
line of the log; it may hold whatever a client writes, names included; and as a label of figures it has no bound.
"""

import logging
import re
import secrets
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from re import Pattern
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems
from service.current import Current, StageName, begin_request, end_request
from service.metrics import Metrics
from service.tracing import Tracing

log = logging.getLogger("facemargin.service")

REQUEST_ID = "X-Request-ID"
MODEL = "Facemargin-Model"
UNKNOWN = "unknown"
"""Stands for every path and every method that no route has."""

_USABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Templates:
    """Paths to the templates of their routes.

    Args:
        routes: of the application; those that are not plain routes are passed over.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        plain = [route for route in routes if isinstance(route, Route)]
        self._fixed = {route.path for route in plain if "{" not in route.path}
        self._open: dict[Pattern[str], str] = {r.path_regex: r.path for r in plain if "{" in r.path}

    def of(self, path: str) -> str:
        """The template of a path, or `UNKNOWN`."""
        if path in self._fixed:
            return path
        return next((template for pattern, template in self._open.items() if pattern.match(path)), UNKNOWN)


class RequestLog:
    """Give each request an id and each reply the id and the model's name; log one line; let no exception through.

    Args:
        app: what is inside.
        model: id of the default model, which a reply names that is of no other.
        templates: of the routes.
        metrics: told of each request and its stages.
        tracing: the same, where there are traces.
    """

    def __init__(
        self, app: ASGIApp, model: str, *, templates: Templates, metrics: Metrics, tracing: Tracing | None
    ) -> None:
        self.app = app
        self._model = model
        self._templates, self._metrics, self._tracing = templates, metrics, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request = Current(_request_id(headers.get(REQUEST_ID)), self._on_stage)
        scope.setdefault("state", {})["request_id"] = request.id
        method = scope["method"] if scope["method"] in _METHODS else UNKNOWN
        reply = _Reply(send, request, method, self._templates.of(scope["path"]), self._model)
        token = begin_request(request)
        self._metrics.in_flight.inc()
        try:
            with self._span(reply, headers):
                await self._answer(scope, receive, reply)
        finally:
            self._metrics.in_flight.dec()
            self._metrics.request(reply.route, method, reply.status, reply.seconds, request.problem)
            reply.log()
            end_request(token)

    async def _answer(self, scope: Scope, receive: Receive, reply: "_Reply") -> None:
        try:
            await self.app(scope, receive, reply.send)
        except Exception as error:  # the edge of the process: a request must never end without a reply
            log.exception("request %s failed", reply.request.id)
            if not reply.status:
                body = problems.describe(error) | {"request_id": reply.request.id}
                await problems.reply(body)(scope, receive, reply.send)

    def _span(self, reply: "_Reply", headers: Headers) -> AbstractContextManager[Any]:
        return self._tracing.request(reply, headers) if self._tracing is not None else nullcontext()

    def _on_stage(self, name: StageName, began: int, took: int) -> None:
        self._metrics.stage(name, took / 1e9)
        if self._tracing is not None:
            self._tracing.stage(name, began, took)


class _Reply:
    """The reply on its way, and what the log says of it."""

    def __init__(self, send: Send, request: Current, method: str, route: str, model: str) -> None:
        self.request, self.method, self.route = request, method, route
        self.status = self.bytes = 0
        self._send, self._model, self._started = send, model, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the request came."""
        return time.perf_counter() - self._started

    async def send(self, message: Message) -> None:
        """Pass a message on, with the names in its headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID], headers[MODEL] = self.request.id, self.request.model or self._model
        self.bytes += len(message.get("body", b""))
        await self._send(message)

    def log(self) -> None:
        """Write the line."""
        ms = round(self.seconds * 1000, 1)
        said = {
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "ms": ms,
            "bytes": self.bytes,
            "key": self.request.key,
            "problem": self.request.problem,
        }
        log.info("%s %s %d %.1f ms", self.method, self.route, self.status, ms, extra=said)


def _request_id(wished: str | None) -> str:
    """The client's own id where it is short and plain, or a new one."""
    return wished if wished and _USABLE_ID.fullmatch(wished) else secrets.token_hex(8)
