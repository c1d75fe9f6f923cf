"""Who is this? The people of a collection that a face matches at a stated false positive identification rate."""

import math
from typing import Annotated, Self

import numpy as np
from fastapi import APIRouter, Depends
from numpy.typing import NDArray
from pydantic import Field, model_validator
from starlette.concurrency import run_in_threadpool

from facemargin.errors import UnsupportedFmrError
from service.bodies import body_of
from service.context import Service
from service.decisions import Decisions, fpir_of_search
from service.deps import CollectionName, Reader, ServiceDep
from service.errors import CalibrationMissingError
from service.faces import EmbeddedFace
from service.openapi import EXAMPLE_FACE, EXAMPLE_IMAGE, EXAMPLE_MODEL, IMAGE, KEYED, ONE_FACE, documented
from service.probes import ProbeBody, by_its_model, probe_of
from service.schemas import MODEL_ID, FoundFace, Part, PersonRef
from service.security import Principal, Scope
from service.store import CollectionRow
from service.store.faces import people_by_row
from service.store.people import collection

router = APIRouter(prefix="/v1/collections/{name}/search", tags=["search"])


class SearchBody(ProbeBody):
    """A face to look for."""

    max_fpir: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Highest chance that a stranger gets any candidate; the service's default is 0.01.",
    )
    threshold: float | None = Field(
        default=None, ge=-1, le=1, description="Least cosine of a candidate, instead of an error rate."
    )
    limit: int = Field(default=5, ge=1, le=100, description="Most candidates.")

    @model_validator(mode="after")
    def _one_criterion(self) -> Self:
        if self.max_fpir is not None and self.threshold is not None:
            raise ValueError("send 'max_fpir' or 'threshold', not both")
        return self


class Candidate(Part):
    """A person whom the face matches."""

    person: PersonRef
    similarity: float = Field(
        description="Cosine with the person's best face, or their mean (a setting of the service)."
    )
    probability: float | None = Field(description="P(same person) at the calibration's prior, as for one comparison.")
    fmr: float | None = Field(description="Share of pairs of different people that reach this similarity.")
    fpir: float | None = Field(description="Chance that a stranger reaches it with anybody of the collection.")


class SearchReply(Part):
    """The candidates, the most similar first; empty when nobody passes."""

    collection: str
    model: str = Field(description=MODEL_ID)
    candidates: list[Candidate]
    templates: int = Field(description="Vectors that were compared with.")
    threshold: float | None = Field(description="The cosine that was compared with; null for an empty collection.")
    threshold_fmr: float | None = Field(description="False match rate at the threshold.")
    threshold_fpir: float | None = Field(description="False positive identification rate at the threshold.")
    extrapolated: bool = Field(
        description="Whether the threshold's rate comes from a fitted tail, beyond observed pairs."
    )
    face: FoundFace | None = Field(description="The face that was found in the image.")


_EXAMPLE = {
    "collection": "staff",
    "model": EXAMPLE_MODEL,
    "candidates": [
        {
            "person": {"id": "p_4fz1k8m2q7w9x3c5", "name": "Ada Lovelace"},
            "similarity": 0.64,
            "probability": 0.999,
            "fmr": 1.2e-6,
            "fpir": 4.9e-5,
        }
    ],
    "templates": 41,
    "threshold": 0.47,
    "threshold_fmr": 2.45e-4,
    "threshold_fpir": 0.01,
    "extrapolated": False,
    "face": EXAMPLE_FACE,
}


@router.post(
    "",
    summary="Search a collection",
    **documented(
        *KEYED,
        *IMAGE,
        *ONE_FACE,
        "not-found",
        "model-mismatch",
        "invalid-embedding",
        "unsupported-fmr",
        "calibration-missing",
        "index-unavailable",
        body=SearchBody,
        body_example={"image": EXAMPLE_IMAGE, "max_fpir": 0.01, "limit": 5},
        example=_EXAMPLE,
    ),
)
async def search(
    caller: Reader, service: ServiceDep, name: CollectionName, body: Annotated[SearchBody, Depends(body_of(SearchBody))]
) -> SearchReply:
    """The people whom the face matches. The threshold follows from `max_fpir` and the number of templates."""
    return await by_its_model(lambda: _searched(caller, service, name, body))


async def _searched(caller: Principal, service: Service, name: str, body: SearchBody) -> SearchReply:
    gallery = await run_in_threadpool(_gallery, service, name)
    probe = await probe_of(service, body, gallery)
    return await run_in_threadpool(_answer, service, caller, gallery, body, probe.vector, probe.face)


def _gallery(service: Service, name: str) -> CollectionRow:
    with service.store.read() as session:
        return collection(session, name)


def _answer(
    service: Service,
    caller: Principal,
    gallery: CollectionRow,
    body: SearchBody,
    vector: NDArray[np.float32],
    face: EmbeddedFace | None,
) -> SearchReply:
    decisions, templates = service.models.decisions_of(gallery.model), service.gallery.size(gallery)
    max_fpir = body.max_fpir or service.settings.default_max_fpir
    criterion = decisions.search_criterion(max_fpir, templates, body.threshold)
    if body.embedding is not None and criterion.threshold < _usual_threshold(service, decisions, templates):
        caller.demand(Scope.ENROL_EMBEDDING)
    candidates = _candidates(service, gallery, decisions, vector, criterion.threshold, body.limit, templates)
    service.metrics.decided("search", bool(candidates))
    return SearchReply(
        collection=gallery.name,
        model=gallery.model,
        candidates=candidates,
        templates=templates,
        threshold=criterion.threshold if templates else None,
        threshold_fmr=criterion.fmr if templates else None,
        threshold_fpir=fpir_of_search(criterion.fmr, templates) if templates and criterion.fmr is not None else None,
        extrapolated=criterion.extrapolated,
        face=FoundFace.of(face) if face is not None else None,
    )


def _usual_threshold(service: Service, decisions: Decisions, templates: int) -> float:
    """The threshold at the default rate; infinite where there is none.

    Below it, the similarities to a few chosen vectors would add up to somebody's template, so a key that may only read
    gets none there.
    """
    try:
        return decisions.search_criterion(service.settings.default_max_fpir, templates).threshold
    except (CalibrationMissingError, UnsupportedFmrError):
        return math.inf


def _candidates(
    service: Service,
    gallery: CollectionRow,
    decisions: Decisions,
    vector: NDArray[np.float32],
    threshold: float,
    limit: int,
    templates: int,
) -> list[Candidate]:
    hits = service.gallery.search(gallery, vector, threshold=threshold, limit=limit)
    with service.store.read() as session:
        people = people_by_row(session, [hit.person for hit in hits])
    found = [
        (people[hit.person], hit.similarity, decisions.evidence(hit.similarity)) for hit in hits if hit.person in people
    ]
    return [
        Candidate(
            person=PersonRef(id=person.public_id, name=person.name),
            similarity=similarity,
            probability=evidence.probability,
            fmr=evidence.fmr,
            fpir=fpir_of_search(evidence.fmr, templates) if evidence.fmr is not None else None,
        )
        for person, similarity, evidence in found
    ]
