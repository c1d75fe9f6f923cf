"""Every error reply of the service: one table from exceptions to RFC 9457 problem details.

A reply is ``application/problem+json`` with ``type``, ``title``, ``status``, ``detail``, ``request_id`` and, where they
help, further members such as ``faces`` or ``limit``. No reply holds a traceback or the input it complains of.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from facemargin import errors as library
from service import errors
from service.current import refused_with

log = logging.getLogger("facemargin.service")

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:facemargin:problem:"
RETRY_AFTER_S = 5
"""When a store that takes no writes is worth asking again: housekeeping tries it as often."""
_MOST_COMPLAINTS = 20
_LONGEST_FIELD = 200


@dataclass(frozen=True)
class Problem:
    """A kind of problem.

    Attributes:
        slug: the stable end of its ``type``.
        status: HTTP status.
        title: the same for every occurrence.
    """

    slug: str
    status: int
    title: str


INTERNAL = Problem("internal-error", 500, "The service made a mistake")
INVALID = Problem("invalid-request", 422, "A field of the request is missing or wrong")
INVALID_JSON = Problem("invalid-json", 400, "The request body is not JSON")

PROBLEMS: dict[type[Exception], Problem] = {
    # the request as such
    errors.BadBodyError: Problem("bad-body", 400, "The request body cannot be read"),
    errors.UnsupportedMediaTypeError: Problem(
        "unsupported-media-type", 415, "The request body has a type not taken here"
    ),
    errors.BodyTooLargeError: Problem("body-too-large", 413, "The request body is too large"),
    errors.UploadTooSlowError: Problem("upload-too-slow", 408, "The request body comes too slowly"),
    errors.HostNotAllowedError: Problem("host-not-allowed", 421, "The service does not answer to this host name"),
    errors.InvalidBase64Error: Problem("invalid-base64", 422, "An image is not valid base64"),
    errors.TooManyImagesError: Problem("too-many-images", 422, "Too many images in one request"),
    ClientDisconnect: Problem("client-disconnected", 400, "The client left before the request was complete"),
    # images and faces
    library.EmptyImageError: Problem("empty-image", 422, "An image has no bytes"),
    library.UnsupportedImageError: Problem("unsupported-image", 415, "An image is in no accepted format"),
    library.TruncatedImageError: Problem("truncated-image", 422, "An image is truncated or damaged"),
    library.ImageTooLargeError: Problem("image-too-large", 413, "An image is too large"),
    library.ImageError: Problem("bad-image", 422, "An image cannot be used"),
    errors.CropShapeError: Problem("not-a-crop", 422, "An image is not an aligned crop"),
    library.NoFaceError: Problem("no-face", 422, "No face was detected"),
    library.SeveralFacesError: Problem("several-faces", 422, "Several faces were detected where one is expected"),
    errors.TooManyFacesError: Problem("too-many-faces", 422, "Too many faces in one image"),
    errors.QualityTooLowError: Problem("quality-too-low", 422, "The face is below the demanded quality"),
    errors.InvalidEmbeddingError: Problem("invalid-embedding", 422, "The embedding cannot be used"),
    # models and decisions
    library.ModelMismatchError: Problem("model-mismatch", 409, "Embeddings of two models cannot be compared"),
    library.UnsupportedFmrError: Problem(
        "unsupported-fmr", 422, "The calibration data do not support so low an error rate"
    ),
    errors.CalibrationMissingError: Problem("calibration-missing", 422, "The model has no calibration"),
    errors.DetectorMissingError: Problem("detector-missing", 503, "The service has no face detector"),
    library.BundleError: Problem("model-failure", 500, "The model failed"),
    errors.UpgradeStateError: Problem("upgrade-state", 409, "The upgrade does not fit where the collection stands"),
    # the store
    errors.NotFoundError: Problem("not-found", 404, "There is no such thing"),
    errors.NoTemplateError: Problem("no-template", 409, "The person has no enrolled face"),
    errors.IdempotencyMismatchError: Problem(
        "idempotency-mismatch", 422, "The Idempotency-Key belongs to another request"
    ),
    errors.IdempotencyGoneError: Problem("idempotency-gone", 410, "What the first reply spoke of was deleted since"),
    errors.StoreError: Problem("store-unavailable", 503, "The store does not answer"),
    errors.NotReadyError: Problem("not-ready", 503, "The service is not ready"),
    OperationalError: Problem("store-unavailable", 503, "The store does not answer"),
    PoolTimeoutError: Problem("store-unavailable", 503, "The store does not answer"),
    library.IndexUnavailableError: Problem("index-unavailable", 503, "The search index does not answer"),
    # who may
    errors.UnauthenticatedError: Problem("unauthenticated", 401, "A valid API key is needed"),
    errors.ForbiddenError: Problem("forbidden", 403, "The API key does not allow this"),
    errors.RateLimitedError: Problem("rate-limited", 429, "Too many requests"),
    errors.OverloadedError: Problem("overloaded", 429, "The service is busy"),
}

HTTP_PROBLEMS: dict[int, Problem] = {
    404: PROBLEMS[errors.NotFoundError],
    405: Problem("method-not-allowed", 405, "The method is not allowed here"),
}

ALL_PROBLEMS: dict[str, Problem] = {
    problem.slug: problem for problem in (*PROBLEMS.values(), *HTTP_PROBLEMS.values(), INVALID, INVALID_JSON, INTERNAL)
}

_BODY_UNREAD = (408, 413)
"""Statuses after which the rest of the body is not waited for."""

_OPAQUE = (OperationalError, PoolTimeoutError)
"""Errors whose own words show statements or files."""


def problem_of(error: Exception) -> Problem:
    """The kind of problem that an exception is; an error that nobody foresaw is `INTERNAL`."""
    if isinstance(error, errors.RejectedImageError) and isinstance(error.__cause__, Exception):
        return problem_of(error.__cause__)
    return next((PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS), INTERNAL)


def problem_body(problem: Problem, detail: str, **members: Any) -> dict[str, Any]:
    """The members of a reply."""
    head = {"type": TYPE_PREFIX + problem.slug, "title": problem.title, "status": problem.status, "detail": detail}
    return head | members


def describe(error: Exception) -> dict[str, Any]:
    """The reply to an exception of the table."""
    problem = problem_of(error)
    if problem.status == 500:
        return problem_body(problem, "something went wrong; the log has it under the request id")
    if isinstance(error, ClientDisconnect):
        return problem_body(problem, "the connection was closed early")
    if isinstance(error, _OPAQUE):
        return problem_body(problem, "the database is locked, full or gone; try again later", retry_after=RETRY_AFTER_S)
    return problem_body(problem, str(error), **_members(error))


def _members(error: BaseException | None) -> dict[str, Any]:
    """Extra members, those of the cause included."""
    match error:
        case errors.RejectedImageError():
            return _members(error.__cause__) | error.members
        case errors.StoreError():
            return {"retry_after": RETRY_AFTER_S} | error.members
        case errors.ServiceError():
            return error.members
        case library.IndexUnavailableError():
            return {"retry_after": RETRY_AFTER_S}
        case library.FaceCountError():
            return {"faces": error.count}
        case library.UnsupportedFmrError():
            return {"fmr": error.fmr, "smallest_supported": error.smallest_supported}
        case _:
            return {}


def describe_validation(items: Sequence[Any]) -> dict[str, Any]:
    """The reply to pydantic's complaints, without the values they are about."""
    if any(item["type"] == "json_invalid" for item in items):
        return problem_body(INVALID_JSON, str(items[0]["msg"]))
    complaints = [{"field": _field(item["loc"]), "message": str(item["msg"])} for item in items[:_MOST_COMPLAINTS]]
    said = [f"{c['field']}: {c['message']}" for c in complaints]
    said += [f"and {len(items) - len(said)} more"] if len(items) > len(said) else []
    return problem_body(INVALID, "; ".join(said), errors=complaints, error_count=len(items))


def _field(place: Sequence[int | str]) -> str:
    return ".".join(map(str, place))[:_LONGEST_FIELD] or "body"  # the name of an unknown field is the client's


def reply(body: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    """The response of a problem; its member ``retry_after`` (seconds) is the header ``Retry-After`` too."""
    refused_with(body["type"].removeprefix(TYPE_PREFIX))
    if body["status"] == 401:
        headers = {"WWW-Authenticate": 'Bearer realm="facemargin"'} | (headers or {})
    if body["status"] in _BODY_UNREAD:
        headers = {"Connection": "close"} | (headers or {})
    if "retry_after" in body:
        headers = {"Retry-After": str(body["retry_after"])} | (headers or {})
    return JSONResponse(body, status_code=body["status"], media_type=MEDIA_TYPE, headers=headers)


def install(app: FastAPI) -> None:
    """Answer every exception of the table, wrong input and unknown routes with problem details.

    What nobody foresaw is caught further out, by `service.request_log.RequestLog`.
    """

    async def expected(request: Request, error: Exception) -> JSONResponse:
        if problem_of(error).status >= 500:
            log.error("request %s: %s", request.state.request_id, error)
        return reply(describe(error) | _request_id(request))

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return reply(describe_validation(error.errors()) | _request_id(request))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        problem = HTTP_PROBLEMS.get(error.status_code) or Problem("bad-request", error.status_code, "Bad request")
        where = f"{request.method} {request.url.path}: {error.detail}"
        headers = dict(error.headers) if error.headers else None
        return reply(problem_body(problem, where) | _request_id(request), headers)

    for kind in PROBLEMS:
        app.add_exception_handler(kind, expected)
    app.add_exception_handler(errors.RejectedImageError, expected)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _request_id(request: Request) -> dict[str, str]:
    return {"request_id": request.state.request_id}
