"""``/recognition/recognize``: whom the faces of an image resemble most, however little."""

import math
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool

from service.bodies import body_of
from service.compreface.errors import PREFIX
from service.compreface.found import find, largest, similarity, versions
from service.compreface.people import Place, place
from service.compreface.requests import CollectionOfKey, FileBody, OptionsDep, PredictionCount
from service.context import Service
from service.deps import Reader, ServiceDep
from service.faces import EmbeddedFace
from service.probes import by_its_model
from service.store.faces import people_by_row

router = APIRouter(prefix=f"{PREFIX}/recognition", include_in_schema=False)


@router.post("/recognize", response_model=None)
async def recognize(
    caller: Reader,
    service: ServiceDep,
    name: CollectionOfKey,
    options: OptionsDep,
    count: PredictionCount,
    body: Annotated[FileBody, Depends(body_of(FileBody))],
) -> dict[str, Any]:
    """The best subjects for every face, as CompreFace ranks them: without a threshold, so strangers get names too."""
    options.demand(caller)

    async def recognized() -> dict[str, Any]:
        where = await run_in_threadpool(place, service, name)
        found = (await find(service, where.model, {"file": body.file}, options))["file"]
        faces = largest(found, options)
        ranked = await run_in_threadpool(_ranked, service, where, faces, count)
        shown = [found.shown(face, options) | {"subjects": names} for face, names in zip(faces, ranked, strict=True)]
        return {"result": shown, **versions(where.model, options)}

    return await by_its_model(recognized)


def _ranked(service: Service, where: Place, faces: list[EmbeddedFace], count: int) -> list[list[dict[str, Any]]]:
    return [_subjects(service, where, face, count) for face in faces]


def _subjects(service: Service, where: Place, face: EmbeddedFace, count: int) -> list[dict[str, Any]]:
    """The best subjects of a face; people of one name are one subject, as good as the best of them."""
    if where.gallery is None:
        return []
    hits = service.gallery.search(where.gallery, face.embedding, threshold=-math.inf, limit=count)
    with service.store.read() as session:
        people = people_by_row(session, [hit.person for hit in hits])
    best: dict[str, float] = {}
    for hit in hits:
        if hit.person in people:
            best.setdefault(people[hit.person].name, hit.similarity)
    decisions = where.model.decisions
    return [{"subject": name, "similarity": similarity(decisions, cosine)} for name, cosine in best.items()]
