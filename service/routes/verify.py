"""Are these two faces of one person? Decided at a stated false match rate."""

from typing import Annotated, NamedTuple, Self

import numpy as np
from fastapi import APIRouter, Depends
from numpy.typing import NDArray
from pydantic import Field, model_validator
from starlette.concurrency import run_in_threadpool

from service.bodies import Body, ImageBytes, body_of
from service.context import Service
from service.decisions import Criterion, fpir_of_search
from service.deps import ServiceDep, Verifier
from service.errors import NoTemplateError
from service.faces import EmbeddedFace
from service.lean_route import LeanRoute
from service.models import Model
from service.openapi import EXAMPLE_FACE, EXAMPLE_IMAGE, EXAMPLE_MODEL, IMAGE, KEYED, ONE_FACE, documented
from service.probes import Aligned, OneFace, model_of
from service.schemas import MODEL_ID, FoundFace, Part, PersonRef
from service.store import CollectionRow, PersonRow
from service.store.faces import face_in_collection, templates_of_person
from service.store.people import collection, person, person_by_row

router = APIRouter(prefix="/v1/verify", tags=["verify"], route_class=LeanRoute)


class VerifyBody(Body):
    """Two images, or one image and somebody in a collection."""

    image_a: ImageBytes = Field(description="JPEG, PNG, WebP or BMP.")
    image_b: ImageBytes | None = Field(default=None, description="The other image.")
    collection: str | None = Field(
        default=None, max_length=64, description="Instead of image_b: where the other face is."
    )
    person: str | None = Field(
        default=None, max_length=64, description="Id of a person of the collection: all templates."
    )
    face_id: str | None = Field(default=None, max_length=64, description="Id of one face of the collection.")
    model: str | None = Field(
        default=None, max_length=64, description="Id of the model to compare by; the default one unless named."
    )
    aligned: Aligned = False
    face: OneFace = "single"
    max_fmr: float | None = Field(
        default=None, gt=0, le=1, description="Highest false match rate of the answer; the service's default is 0.001."
    )
    threshold: float | None = Field(
        default=None, ge=-1, le=1, description="Least cosine of a match, instead of an error rate."
    )

    @model_validator(mode="after")
    def _one_other_side(self) -> Self:
        named = [name for name in ("image_b", "person", "face_id") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError("send exactly one of 'image_b', 'person' and 'face_id'")
        if (self.collection is None) != (self.image_b is not None):
            raise ValueError("'person' and 'face_id' need 'collection', and 'image_b' excludes it")
        if self.max_fmr is not None and self.threshold is not None:
            raise ValueError("send 'max_fmr' or 'threshold', not both")
        return self


class VerifyReply(Part):
    """The similarity, what it means, and the decision."""

    model: str = Field(description=MODEL_ID)
    match: bool = Field(description="Whether the similarity reaches the threshold.")
    similarity: float = Field(description="Cosine of the two embeddings, -1 to 1.")
    probability: float | None = Field(
        description="P(same person) at the calibration's prior; null without calibration."
    )
    fmr: float | None = Field(description="Chance that a stranger reaches this similarity with any of the templates.")
    threshold: float = Field(description="The cosine that was compared with.")
    threshold_fmr: float | None = Field(description="False match rate at the threshold, over all templates.")
    extrapolated: bool = Field(
        description="Whether the threshold's rate comes from a fitted tail, beyond observed pairs."
    )
    face_a: FoundFace
    face_b: FoundFace | None = Field(description="Null where the other side is enrolled.")
    person: PersonRef | None = Field(description="Who the enrolled side is.")


class _Other(NamedTuple):
    """The enrolled side: by which model, who, and the vectors of which the best counts."""

    model: Model
    person: PersonRow
    vectors: list[NDArray[np.float32]]


_EXAMPLE = {
    "model": EXAMPLE_MODEL,
    "match": True,
    "similarity": 0.62,
    "probability": 0.998,
    "fmr": 2.1e-6,
    "threshold": 0.41,
    "threshold_fmr": 0.001,
    "extrapolated": False,
    "face_a": EXAMPLE_FACE,
    "face_b": EXAMPLE_FACE,
    "person": None,
}


@router.post(
    "",
    summary="Compare two faces",
    **documented(
        *KEYED,
        *IMAGE,
        *ONE_FACE,
        "not-found",
        "no-template",
        "model-mismatch",
        "unsupported-fmr",
        "calibration-missing",
        body=VerifyBody,
        body_example={"image_a": EXAMPLE_IMAGE, "image_b": EXAMPLE_IMAGE, "max_fmr": 0.001},
        example=_EXAMPLE,
    ),
)
async def verify(
    caller: Verifier, service: ServiceDep, body: Annotated[VerifyBody, Depends(body_of(VerifyBody))]
) -> VerifyReply:
    """Compare an image with another image, with all templates of a person, or with one enrolled face."""
    if body.collection is not None:
        caller.enter(body.collection)
    other = await run_in_threadpool(_enrolled, service, body) if body.collection is not None else None
    model = other.model if other is not None else service.models.named(body.model)
    max_fmr = body.max_fmr or service.settings.default_max_fmr
    templates = len(other.vectors) if other is not None else 1  # a person is a small gallery
    criterion = model.decisions.search_criterion(max_fmr, templates, body.threshold)
    images = {"image_a": body.image_a} | ({"image_b": body.image_b} if body.image_b is not None else {})
    found = await service.engine.embed(images, model=model, aligned=body.aligned, face=body.face)
    faces = [image.faces[0] for image in found.values()]
    reply = _reply(model, criterion, faces, other)
    service.metrics.decided("verify" if other is None else "verify-enrolled", reply.match)
    return reply


def _enrolled(service: Service, body: VerifyBody) -> _Other:
    with service.store.read() as session:
        gallery: CollectionRow = collection(session, body.collection or "")
        model = model_of(service, gallery, body.model)
        if body.face_id is not None:
            row = face_in_collection(session, gallery, body.face_id)
            who = person_by_row(session, row.person_id)
            vectors = [t.vector for t in templates_of_person(session, gallery, who) if t.face == row.id]
        else:
            who = person(session, gallery, body.person or "")
            vectors = [entry.vector for entry in service.gallery.entries(session, gallery, who)]
    if not vectors:
        raise NoTemplateError(f"person '{who.public_id}' has no enrolled face to compare with", person=who.public_id)
    return _Other(model, who, vectors)


def _reply(model: Model, criterion: Criterion, faces: list[EmbeddedFace], other: _Other | None) -> VerifyReply:
    candidates = other.vectors if other is not None else [faces[1].embedding]
    similarity = max(float(np.dot(faces[0].embedding, vector)) for vector in candidates)
    evidence = model.decisions.evidence(similarity)
    return VerifyReply(
        model=model.id,
        match=similarity >= criterion.threshold,
        similarity=similarity,
        probability=evidence.probability,
        fmr=_over(len(candidates), evidence.fmr),
        threshold=criterion.threshold,
        threshold_fmr=_over(len(candidates), criterion.fmr),
        extrapolated=criterion.extrapolated,
        face_a=FoundFace.of(faces[0]),
        face_b=FoundFace.of(faces[1]) if other is None else None,
        person=PersonRef(id=other.person.public_id, name=other.person.name) if other is not None else None,
    )


def _over(templates: int, fmr: float | None) -> float | None:
    """The false match rate of the best of several comparisons."""
    return fpir_of_search(fmr, templates) if fmr is not None else None
