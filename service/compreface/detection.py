"""``/detection/detect``: the faces of an image."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from service.bodies import body_of
from service.compreface.errors import PREFIX
from service.compreface.found import find, largest, versions
from service.compreface.requests import FileBody, OptionsDep
from service.deps import Embedder, ServiceDep

router = APIRouter(prefix=f"{PREFIX}/detection", include_in_schema=False)


@router.post("/detect", response_model=None)
async def detect(
    caller: Embedder, service: ServiceDep, options: OptionsDep, body: Annotated[FileBody, Depends(body_of(FileBody))]
) -> dict[str, Any]:
    """The faces of an image, the largest first; embeddings are by the default model."""
    model = service.models.default
    found = (await find(service, model, {"file": body.file}, options))["file"]
    return {
        "result": [found.shown(face, options) for face in largest(found, options)],
        **versions(model, options),
    }
