"""What the OpenAPI document says beyond what FastAPI finds by itself: bodies, examples, problems."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict

from facemargin import __version__
from service.bodies import Body
from service.problems import ALL_PROBLEMS, MEDIA_TYPE, TYPE_PREFIX

ALWAYS = ("host-not-allowed", "invalid-request", "internal-error", "store-unavailable")
KEYED = ("unauthenticated", "forbidden", "rate-limited")
KEYS = {
    "HTTPBearer": {"type": "http", "scheme": "bearer", "description": "An API key made by `facemargin keys add`."},
    "APIKeyHeader": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same key in a header of its own.",
    },
}
"""The ways to send a key; each route that is `KEYED` takes either."""
BODY = ("bad-body", "invalid-json", "unsupported-media-type", "body-too-large", "upload-too-slow")
IMAGE = (
    "invalid-base64",
    "empty-image",
    "unsupported-image",
    "truncated-image",
    "image-too-large",
    "bad-image",
    "not-a-crop",
    "detector-missing",
    "model-failure",
    "overloaded",
)
ONE_FACE = ("no-face", "several-faces")
REPEATABLE = ("idempotency-mismatch", "idempotency-gone", "index-unavailable")

DESCRIPTION = """
Face embedding, verification, enrolment and search by one model, with decisions at a stated error rate.

**There is no liveness detection.** The service compares faces in images; it cannot tell a person from a photograph, a
screen or a mask held before a camera.

Images come as multipart files or as base64 in JSON, never by URL. Every reply names its model in the header
`Facemargin-Model`. Errors are RFC 9457 problem details; their `type` is stable.
"""

_RECEIPT = {
    "description": "Number and digest of the audit record of the deletion: `facemargin audit verify --receipt` proves "
    "later that the record, and all before it, is still in the log. Absent where no person or "
    "face was erased, and where the answer is repeated and its collection was deleted since.",
    "schema": {"type": "string", "pattern": "^[0-9]+-[0-9a-f]{64}$"},
}

EXAMPLE_MODEL = "4f0d6ab1c2e93857"
EXAMPLE_IMAGE = "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgK..."
EXAMPLE_QUALITY = {
    "score": 0.93,
    "eye_distance_px": 61.4,
    "sharpness": 312.7,
    "pose": {"yaw_rad": 0.08, "pitch_rad": -0.05, "roll_rad": 0.02},
}
EXAMPLE_FACE = {
    "box": {"x": 102.5, "y": 64.1, "width": 118.0, "height": 151.2},
    "landmarks": [[132.0, 121.5], [193.4, 122.7], [161.8, 160.3], [137.9, 190.1], [186.0, 191.2]],
    "score": 0.93,
    "quality": EXAMPLE_QUALITY,
}


class ProblemReply(BaseModel):
    """An error, by RFC 9457."""

    model_config = ConfigDict(extra="allow", title="Problem")

    type: str
    title: str
    status: int
    detail: str
    request_id: str


def documented(
    *slugs: str,
    example: Any = None,
    body: type[Body] | None = None,
    body_example: Any = None,
    status: int = 200,
    more_status: dict[int, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Arguments for a route's decorator.

    Args:
        slugs: the problems that it may answer beside those that every route may.
        example: of the reply.
        body: what it reads, from JSON or a form.
        body_example: of the JSON body.
        status: of the reply; 204 is a deletion and answered with its receipt.
        more_status: other statuses of success, with their description and model; the example is theirs too.
    """
    all_slugs = ALWAYS + (BODY if body is not None else ()) + slugs
    responses: dict[int | str, dict[str, Any]] = _problem_responses(all_slugs)
    if status == 204:
        responses[status] = {"description": "Deleted", "headers": {"Facemargin-Receipt": _RECEIPT}}
    if example is not None:
        content = {"content": {"application/json": {"example": example}}}
        responses[status] = content
        responses |= {code: meaning | content for code, meaning in (more_status or {}).items()}
    extra: dict[str, Any] = {}
    if "unauthenticated" in slugs:
        extra["security"] = [{name: []} for name in KEYS]
    if body is not None:
        extra["requestBody"] = _request_body(body, body_example)
    return {"responses": responses, "status_code": status, "openapi_extra": extra}


def _problem_responses(slugs: tuple[str, ...]) -> dict[int | str, dict[str, Any]]:
    """Responses by status, with one example per problem."""
    by_status: dict[int, list[str]] = {}
    for slug in dict.fromkeys(slugs):
        by_status.setdefault(ALL_PROBLEMS[slug].status, []).append(slug)
    return {
        status: {
            "description": "; ".join(ALL_PROBLEMS[slug].title for slug in members),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {slug: {"value": _problem_example(slug)} for slug in members},
                }
            },
        }
        for status, members in sorted(by_status.items())
    }


def _problem_example(slug: str) -> dict[str, Any]:
    problem = ALL_PROBLEMS[slug]
    return {
        "type": TYPE_PREFIX + slug,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.title + ".",
        "request_id": "9f2c41d07ab3e658",
    }


def _request_body(model: type[Body], example: Any) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    content: dict[str, Any] = {"application/json": {"schema": schema, "example": example}}
    if any(_is_image(field) for field in schema["properties"].values()):
        content["multipart/form-data"] = {"schema": _as_form(schema)}
    return {"required": True, "content": content}


def _is_image(field: dict[str, Any]) -> bool:
    return "contentEncoding" in str(field)


def _as_form(schema: dict[str, Any]) -> dict[str, Any]:
    """The same fields with images as files; without the embedding, which only JSON can carry."""
    fields = {
        name: _without_base64(field)
        for name, field in schema["properties"].items()
        if name not in ("embedding", "model")
    }
    return {"type": "object", "properties": fields, "required": schema.get("required", [])}


def _without_base64(field: Any) -> Any:
    if isinstance(field, dict):
        return {key: _without_base64(value) for key, value in field.items() if key != "contentEncoding"}
    return [_without_base64(item) for item in field] if isinstance(field, list) else field


def install(app: FastAPI) -> None:
    """Let the app make its document here, once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title="facemargin",
        version=__version__,
        summary="Face recognition by one model",
        description=DESCRIPTION,
        routes=app.routes,
    )
    components = document.setdefault("components", {})
    components["securitySchemes"] = KEYS
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = ProblemReply.model_json_schema()
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                schemas |= content["schema"].pop("$defs", {})
    return document
