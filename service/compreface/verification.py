"""``/verification/verify``: the face of one image against every face of another."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends

from service.bodies import body_of
from service.compreface.errors import PREFIX
from service.compreface.found import find, largest, similarity, versions
from service.compreface.requests import OptionsDep, PairBody
from service.deps import ServiceDep, Verifier

router = APIRouter(prefix=f"{PREFIX}/verification", include_in_schema=False)


@router.post("/verify", response_model=None)
async def verify(
    caller: Verifier, service: ServiceDep, options: OptionsDep, body: Annotated[PairBody, Depends(body_of(PairBody))]
) -> dict[str, Any]:
    """The similarity of the only face of the source image to every face of the target image, by the default model."""
    options.demand(caller)
    model = service.models.default
    images = {"source_image": body.source_image, "target_image": body.target_image}
    found = await find(service, model, images, options)
    source, target = found["source_image"], found["target_image"]
    probe = source.only()
    matches = [
        target.shown(face, options)
        | {"similarity": similarity(model.decisions, float(np.dot(probe.embedding, face.embedding)))}
        for face in largest(target, options)
    ]
    result = {"source_image_face": source.shown(probe, options), "face_matches": matches}
    return {"result": [result | versions(model, options)]}
