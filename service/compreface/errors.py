"""Errors in CompreFace's form: ``{"message": ..., "code": ...}`` with its codes and, where it has one, its HTTP status.

Owns the table of codes. What only this API refuses is a `Refusal`; the problem details that the rest of the service
answers, middleware included, are translated on their way out.
"""

import json
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError
from service.problems import MEDIA_TYPE, TYPE_PREFIX

PREFIX = "/api/v1"


class Kind(NamedTuple):
    """A code of CompreFace's and its HTTP status; None keeps the status of the problem."""

    code: int
    status: int | None


UNDEFINED = Kind(0, None)
SERVICE_UNKNOWN = Kind(10, 404)
IMAGE_NOT_STORED = Kind(11, 404)
HEADER_MISSING = Kind(20, 400)
FORMAT_NOT_TAKEN = Kind(21, 400)
CONSTRAINT_VIOLATED = Kind(26, 400)
NO_FACE = Kind(28, 400)
TOO_MANY_FACES = Kind(31, 400)
PARAMETER_MISSING = Kind(33, 400)
PART_MISSING = Kind(34, 400)
ARGUMENT_INCORRECT = Kind(36, 400)
FACES_SERVICE = Kind(41, None)
SUBJECT_UNKNOWN = Kind(42, 404)
SUBJECT_EXISTS = Kind(43, 400)
EXAMPLE_UNKNOWN = Kind(44, 404)

KINDS: dict[str, Kind] = {
    "unauthenticated": SERVICE_UNKNOWN,
    "forbidden": Kind(SERVICE_UNKNOWN.code, 403),  # it has no scopes: a key of another kind of service is unknown there
    "unsupported-image": FORMAT_NOT_TAKEN,
    "empty-image": ARGUMENT_INCORRECT,
    "truncated-image": ARGUMENT_INCORRECT,
    "bad-image": ARGUMENT_INCORRECT,
    "not-a-crop": ARGUMENT_INCORRECT,
    "invalid-base64": ARGUMENT_INCORRECT,
    "image-too-large": Kind(ARGUMENT_INCORRECT.code, None),
    "too-many-faces": TOO_MANY_FACES,
    "bad-body": PART_MISSING,
    "invalid-request": CONSTRAINT_VIOLATED,
    "model-mismatch": FACES_SERVICE,
    "model-failure": FACES_SERVICE,
    "detector-missing": FACES_SERVICE,
    "store-unavailable": FACES_SERVICE,
}
"""By the end of a problem's ``type``; every other problem is `UNDEFINED`."""


class Refusal(ServiceError):
    """A request that only this API refuses."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def install(app: FastAPI) -> None:
    """Answer every `Refusal`."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refusal)
        return _reply(error.kind, str(error), status=400)

    app.add_exception_handler(Refusal, refused)


class ErrorForm:
    """Give the problem details of this API's paths its own form; headers such as Retry-After stay.

    Args:
        app: what is inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http" or not scope["path"].startswith(f"{PREFIX}/"):
            await self.app(scope, receive, send)
            return
        head: Message | None = None
        body = b""

        async def send_translated(message: Message) -> None:
            nonlocal head, body
            if message["type"] == "http.response.start" and _is_problem(message):
                head = message
            elif head is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await _translated(scope, head, body)(scope, receive, send)

        await self.app(scope, receive, send_translated)


def _is_problem(head: Message) -> bool:
    return Headers(raw=head.get("headers", [])).get("Content-Type", "").startswith(MEDIA_TYPE)


def _translated(scope: Scope, head: Message, body: bytes) -> JSONResponse:
    problem: dict[str, Any] = json.loads(body) if body else {}  # HEAD has none
    kind, message = _meaning(problem, has_key=bool(Headers(scope=scope).get("x-api-key")))
    reply = _reply(kind, message, status=head["status"])
    own = {b"content-type", b"content-length"}
    reply.raw_headers += [(name, value) for name, value in head["headers"] if name.lower() not in own]
    return reply


def _meaning(problem: dict[str, Any], *, has_key: bool) -> tuple[Kind, str]:
    slug = str(problem.get("type", "")).removeprefix(TYPE_PREFIX)
    message = str(problem.get("detail", ""))
    if slug == "unauthenticated" and not has_key:
        return HEADER_MISSING, f"Missing header: x-api-key ({message})"
    if slug == "not-found":
        return _unknown(problem), message
    if slug == "invalid-request":
        return _wrong_field(problem), message
    return KINDS.get(slug, UNDEFINED), message


def _unknown(problem: dict[str, Any]) -> Kind:
    if "face_id" in problem:
        return EXAMPLE_UNKNOWN
    return SERVICE_UNKNOWN if "collection" in problem else UNDEFINED


def _wrong_field(problem: dict[str, Any]) -> Kind:
    first = (problem.get("errors") or [{}])[0]
    if first.get("message") != "Field required":
        return KINDS["invalid-request"]
    return PARAMETER_MISSING if str(first.get("field", "")).startswith("query.") else PART_MISSING


def _reply(kind: Kind, message: str, *, status: int) -> JSONResponse:
    return JSONResponse({"message": message, "code": kind.code}, status_code=kind.status or status)
