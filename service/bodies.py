"""Request bodies: JSON or a multipart form, both read into the same model.

FastAPI's own body parsing is not used: a route here takes either form, an upload must not be written to a temporary
file (it is somebody's face), and a body must be read after the key was checked, not before.
"""

import base64
import binascii
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Any, TypeVar, get_origin
from weakref import WeakSet

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from service.errors import BadBodyError, InvalidBase64Error, UnsupportedMediaTypeError
from service.faces import check_image_count

_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,")
_MEDIA_TYPE = "image/*"
_IMAGE_READERS: WeakSet[Callable[..., Any]] = WeakSet()
_MAX_PARTS = 1000
_MAX_FIELDS = 100


class Body(BaseModel):
    """Base of request bodies: unknown fields are refused, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _MAX_FIELDS:
            raise ValueError(f"an object has {len(value)} fields; at most {_MAX_FIELDS} are accepted")
        return value


BodyT = TypeVar("BodyT", bound=Body)


def _image_bytes(value: Any, info: ValidationInfo) -> Any:
    """Bytes of an upload as they are; text as base64, with or without the head of a data URL."""
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(_DATA_URL.sub("", value, count=1), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidBase64Error(
            f"field '{info.field_name}' is not base64 ({error}); URLs and file paths are not taken",
            field=info.field_name,
        ) from error


ImageBytes = Annotated[
    bytes,
    BeforeValidator(_image_bytes),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "contentMediaType": _MEDIA_TYPE}),
]
"""An image file: base64 text in JSON, a file part in a form."""


def _counted(value: Any, info: ValidationInfo) -> Any:
    """The list as it is, refused before any base64 is decoded where it is longer than the setting allows."""
    if isinstance(value, list):
        check_image_count(len(value), (info.context or {}).get("max_images", _MAX_PARTS))
    return value


Images = Annotated[list[ImageBytes], Field(min_length=1, max_length=_MAX_PARTS), BeforeValidator(_counted)]
"""Image files, at most as many as the setting ``max_images``."""


def body_of(model: type[BodyT], *, may_be_empty: bool = False) -> Callable[[Request], Awaitable[BodyT]]:
    """A dependency that reads the body into the model; where it may be empty, nothing is all defaults."""

    async def read(request: Request) -> BodyT:
        try:
            return await _read(request, model, may_be_empty)
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_input=False, include_url=False)) from error

    if _MEDIA_TYPE in json.dumps(model.model_json_schema()):
        _IMAGE_READERS.add(read)
    return read


def reads_images(dependency: Callable[..., Any]) -> bool:
    """Whether it is a reader made by `body_of` whose body may hold images."""
    return dependency in _IMAGE_READERS


async def _read(request: Request, model: type[BodyT], may_be_empty: bool) -> BodyT:
    limits = {"max_images": request.app.state.service.settings.max_images}
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return model.model_validate(await _form(request, model), context=limits)
    if media_type not in ("application/json", ""):
        raise UnsupportedMediaTypeError(
            f"the body is {media_type}; send application/json or multipart/form-data", media_type=media_type
        )
    body = await request.body()
    if not body and may_be_empty:
        return model()
    if not body:
        raise BadBodyError("the request has no body; send JSON or a multipart form")
    if not media_type:
        raise UnsupportedMediaTypeError("the body has no Content-Type; send application/json or multipart/form-data")
    return model.model_validate_json(body, context=limits)


async def _form(request: Request, model: type[Body]) -> dict[str, Any]:
    """The parts of a form by name; a list where the model wants one."""
    lists = {name for name, field in model.model_fields.items() if get_origin(field.annotation) in (list, tuple)}
    values: dict[str, Any] = {}
    try:
        async with aclosing(_parts(request)) as parts:
            async for name, value in parts:
                if name in lists:
                    values.setdefault(name, []).append(value)
                elif name in values:
                    raise BadBodyError(f"the part '{name}' comes more than once", field=name)
                else:
                    values[name] = value
    except MultipartError as error:
        raise BadBodyError(f"the multipart form cannot be read: {error}") from error
    except UnicodeError as error:
        raise BadBodyError("the multipart form cannot be read: a field is not UTF-8") from error
    return values


async def _parts(request: Request) -> AsyncGenerator[tuple[str, str | bytes]]:
    """Name and content of each part: text of a field, bytes of a file. All of it stays in memory."""
    _, options = parse_options_header(request.headers["Content-Type"])
    with PushMultipartParser(
        options.get("boundary", ""), max_segment_count=_MAX_PARTS, header_charset="utf-8"
    ) as parser:
        name, is_file, content = "", False, bytearray()
        async for chunk in request.stream():
            for event in parser.parse(chunk) if chunk else ():
                if isinstance(event, MultipartSegment):
                    if not event.name:
                        raise BadBodyError("the multipart form cannot be read: a part has no name")
                    name, is_file, content = event.name, event.filename is not None, bytearray()
                elif event is None:
                    yield name, bytes(content) if is_file else content.decode()
                else:
                    content += event
