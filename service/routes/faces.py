"""Faces of a person: enrol by image or by embedding, list, delete."""

import json
from typing import Annotated, Any, Self

import numpy as np
from fastapi import APIRouter, Depends, Response
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.bodies import body_of
from service.context import Service
from service.deps import CollectionName, Enroller, FaceId, PeopleWriter, PersonId, Reader, RepeatableDep, ServiceDep
from service.enrolment import EnrolledReply, Enrolment, MinQuality, check_quality, enrol
from service.erasure import erase_face
from service.gallery import Change
from service.openapi import (
    EXAMPLE_IMAGE,
    EXAMPLE_MODEL,
    EXAMPLE_QUALITY,
    IMAGE,
    KEYED,
    ONE_FACE,
    REPEATABLE,
    documented,
)
from service.probes import Probe, ProbeBody, by_its_model, probe_by, probe_of
from service.replies import response, written
from service.schemas import MODEL_ID, Part, TemplateReply
from service.security import Scope
from service.store import CollectionRow
from service.store.faces import face, faces
from service.store.people import collection, person
from service.upgrades import add_vector, further_vectors
from service.writes import Reply

router = APIRouter(prefix="/v1/collections/{name}/people/{person_id}/faces", tags=["faces"])


def _from_text(value: Any) -> Any:
    """A form can send an object only as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"in a form this is an object as JSON text ({error})") from error
    except RecursionError as error:
        raise ValueError("in a form this is an object as JSON text (it is nested too deeply)") from error


class EnrolBody(ProbeBody):
    """A face to enrol."""

    min_quality: Annotated[MinQuality | None, BeforeValidator(_from_text)] = Field(
        default=None, description="Refuse a face below this quality; in a form, JSON text."
    )

    @model_validator(mode="after")
    def _quality_of_an_image(self) -> Self:
        if self.embedding is not None and self.min_quality is not None:
            raise ValueError("'min_quality' is about an image; an embedding has none")
        return self


class TemplateBody(ProbeBody):
    """A face once more, as an image or an embedding, for the model that is named."""

    @model_validator(mode="after")
    def _model_is_named(self) -> Self:
        if self.model is None:
            raise ValueError("'model' is missing: the id of the model that the collection is moving to")
        return self


class FacesReply(Part):
    """The enrolled faces of a person, in the order they came."""

    collection: str
    person: str
    model: str = Field(description=MODEL_ID)
    faces: list[TemplateReply]


_FACE = {
    "id": "f_0a9s8d7f6g5h4j3k",
    "person": "p_4fz1k8m2q7w9x3c5",
    "collection": "staff",
    "model": EXAMPLE_MODEL,
    "source": "image",
    "quality": EXAMPLE_QUALITY,
    "created_at": "2026-01-31T09:30:00Z",
}
_WARNING = {
    "kind": "matches-another-person",
    "person": {"id": "p_9x8c7v6b5n4m3k2j", "name": "Augusta King"},
    "similarity": 0.71,
    "fmr": 3e-7,
    "detail": "this face also matches 'Augusta King' (p_9x8c7v6b5n4m3k2j); one of the two may be enrolled wrongly",
}


@router.post(
    "",
    summary="Enrol a face",
    response_model=EnrolledReply,
    **documented(
        *KEYED,
        *IMAGE,
        *ONE_FACE,
        *REPEATABLE,
        "not-found",
        "model-mismatch",
        "invalid-embedding",
        "quality-too-low",
        body=EnrolBody,
        body_example={"image": EXAMPLE_IMAGE, "min_quality": {"score": 0.8, "eye_distance_px": 30}},
        example=_FACE | {"resemblance_checked": True, "warnings": [_WARNING]},
        status=201,
    ),
)
async def post_face(
    caller: Enroller,
    service: ServiceDep,
    name: CollectionName,
    person_id: PersonId,
    body: Annotated[EnrolBody, Depends(body_of(EnrolBody))],
    again: RepeatableDep,
) -> Response:
    """Enrol a face by an image (scope `write`) or by its embedding and model (scope `enrol-embedding`).

    The reply comes when the template is on the disk. The image is not kept; where the
    collection keeps crops, its aligned crop is.
    """
    caller.demand(Scope.WRITE if body.embedding is None else Scope.ENROL_EMBEDDING)
    once = again.once(caller, body)
    if (earlier := await run_in_threadpool(service.writer.replay, once)) is not None:
        return response(earlier)

    async def enrolled() -> Response:
        gallery = await run_in_threadpool(_target, service, name, person_id)
        probe = await probe_of(service, body, gallery)
        if body.min_quality is not None and probe.face is not None:
            check_quality(probe.face.quality, body.min_quality)
        further = await run_in_threadpool(_further, service, gallery, probe)
        enrolment = Enrolment(name, person_id, probe, gallery.model, _source(body), further)
        return await written(service, once, lambda session, changes: enrol(service, session, changes, enrolment))

    return await by_its_model(enrolled)


def _further(service: Service, gallery: CollectionRow, probe: Probe) -> dict[str, NDArray[np.float32]]:
    if probe.face is None:
        return {}
    return further_vectors(service.engine, service.models, gallery, probe.face.crop)


def _target(service: Service, name: str, person_id: str) -> CollectionRow:
    """The collection, if the person is in it: asked before the image is looked at."""
    with service.store.read() as session:
        gallery = collection(session, name)
        person(session, gallery, person_id)
        return gallery


def _source(body: EnrolBody) -> str:
    if body.embedding is not None:
        return "embedding"
    return "aligned" if body.aligned else "image"


@router.put(
    "/{face_id}/template",
    summary="Send a face again for another model",
    response_model=TemplateReply,
    **documented(
        *KEYED,
        *IMAGE,
        *ONE_FACE,
        *REPEATABLE,
        "not-found",
        "model-mismatch",
        "upgrade-state",
        "invalid-embedding",
        body=TemplateBody,
        body_example={"image": EXAMPLE_IMAGE, "model": "a1b2c3d4e5f60718"},
        example=_FACE,
    ),
)
async def put_template(
    caller: Enroller,
    service: ServiceDep,
    name: CollectionName,
    person_id: PersonId,
    face_id: FaceId,
    body: Annotated[TemplateBody, Depends(body_of(TemplateBody))],
    again: RepeatableDep,
) -> Response:
    """Give an enrolled face a vector by the model that its collection is moving to, where no crop is stored.

    Nothing checks that the image shows the same person: that is the client's, as with enrolling.
    """
    caller.demand(Scope.WRITE if body.embedding is None else Scope.ENROL_EMBEDDING)
    once = again.once(caller, body)
    if (earlier := await run_in_threadpool(service.writer.replay, once)) is not None:
        return response(earlier)
    await run_in_threadpool(_target, service, name, person_id)
    model = service.models.named(body.model)
    probe = await probe_by(service, model, body)

    def work(session: Session, changes: list[Change]) -> Reply:
        gallery = collection(session, name)
        who = person(session, gallery, person_id)
        row = face(session, who, face_id)
        add_vector(session, changes, service.gallery, (gallery, who, row), model.id, probe.vector)
        reply = TemplateReply.of(row, who, gallery).model_dump(mode="json")
        return Reply(200, reply, collection=name, mentions=(person_id, face_id))

    return await written(service, once, work)


@router.get(
    "",
    summary="List the faces of a person",
    **documented(
        *KEYED,
        "not-found",
        example={"collection": "staff", "person": "p_4fz1k8m2q7w9x3c5", "model": EXAMPLE_MODEL, "faces": [_FACE]},
    ),
)
async def list_faces(caller: Reader, service: ServiceDep, name: CollectionName, person_id: PersonId) -> FacesReply:
    """The enrolled faces of a person, without their vectors."""
    return await run_in_threadpool(_listed, service, name, person_id)


def _listed(service: Service, name: str, person_id: str) -> FacesReply:
    with service.store.read() as session:
        gallery = collection(session, name)
        who = person(session, gallery, person_id)
        found = [TemplateReply.of(row, who, gallery) for row in faces(session, who)]
    return FacesReply(collection=name, person=person_id, model=gallery.model, faces=found)


@router.delete("/{face_id}", summary="Delete a face", **documented(*KEYED, *REPEATABLE, "not-found", status=204))
async def remove_face(
    caller: PeopleWriter,
    service: ServiceDep,
    name: CollectionName,
    person_id: PersonId,
    face_id: FaceId,
    again: RepeatableDep,
) -> Response:
    """Delete one face of a person. This cannot be undone; the stored reply to its enrolment is emptied too."""

    def work(session: Session, changes: list[Change]) -> Reply:
        gallery = collection(session, name)
        who = person(session, gallery, person_id)
        row = face(session, who, face_id)
        record = erase_face(session, changes, service.gallery, gallery, who, row, actor=caller.name)
        return Reply(204, collection=name, receipt=record.receipt)

    return await written(service, again.once(caller), work)
