"""``/recognition/faces``: the examples of subjects; add, list, download, delete, and compare one with an image."""

from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query
from numpy.typing import NDArray
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from service.bodies import body_of
from service.compreface.errors import EXAMPLE_UNKNOWN, IMAGE_NOT_STORED, PREFIX, Refusal
from service.compreface.found import find, largest, similarity, versions
from service.compreface.people import Erased, erase, made, once, page_of_faces, people, place
from service.compreface.requests import CollectionOfKey, ExamplesBody, FileBody, ImageId, OptionsDep
from service.compreface.subjects import receipted
from service.context import Service
from service.deps import Admin, PeopleWriter, Reader, ServiceDep, Verifier
from service.enrolment import Enrolment, enrol
from service.erasure import erase_face
from service.errors import NotFoundError
from service.gallery import Change
from service.models import Model
from service.probes import Probe, by_its_model
from service.replies import write
from service.routes.people import PersonName
from service.store import CollectionRow, FaceRow, PersonRow
from service.store.faces import face_in_collection, stored_crop, templates_of_person
from service.store.people import add_person, find_collection, person_by_row
from service.upgrades import further_vectors
from service.writes import Reply

router = APIRouter(prefix=f"{PREFIX}/recognition/faces", include_in_schema=False)

_LARGEST_PAGE = 2000


@router.post("", response_model=None)
async def add_example(
    caller: PeopleWriter,
    service: ServiceDep,
    name: CollectionOfKey,
    subject: Annotated[PersonName, Query()],
    options: OptionsDep,
    body: Annotated[FileBody, Depends(body_of(FileBody))],
) -> JSONResponse:
    """Enrol the only face of an image; the subject, and the key's collection, are made where they are missing."""

    async def enrolled() -> Reply:
        gallery, model = await run_in_threadpool(place, service, name)
        face = (await find(service, model, {"file": body.file}, options))["file"].only()
        further = {}
        if gallery is not None:
            further = await run_in_threadpool(further_vectors, service.engine, service.models, gallery, face.crop)
        source = "image" if options.detect else "aligned"
        enrolment = Enrolment(name, "", Probe(face.embedding, face), model.id, source, further)
        return await write(service, once(caller.name), partial(_enrol, service, subject, enrolment))

    reply = await by_its_model(enrolled)
    return JSONResponse({"image_id": (reply.body or {})["id"], "subject": subject}, status_code=201)


def _enrol(service: Service, subject: str, face: Enrolment, session: Session, changes: list[Change]) -> Reply:
    row = made(service, session, face.collection)
    found = people(session, row, subject, limit=1)
    who = found[0] if found else add_person(session, row, subject)
    return enrol(service, session, changes, replace(face, person=who.public_id))


@router.get("", response_model=None)
async def list_examples(
    caller: Reader,
    service: ServiceDep,
    name: CollectionOfKey,
    page: Annotated[int, Query(ge=0, le=10**9)] = 0,
    size: Annotated[int, Query(ge=1, le=_LARGEST_PAGE)] = 20,
    subject: Annotated[str, Query(max_length=200)] = "",
) -> dict[str, Any]:
    """A page of the examples of all subjects, or of one."""
    rows, total = await run_in_threadpool(_page, service, name, subject.strip() or None, page, size)
    return {
        "faces": [{"image_id": image_id, "subject": whose} for image_id, whose in rows],
        "page_number": page,
        "page_size": size,
        "total_pages": -(-total // size),
        "total_elements": total,
    }


def _page(service: Service, name: str, subject: str | None, page: int, size: int) -> tuple[list[tuple[str, str]], int]:
    with service.store.read() as session:
        gallery = find_collection(session, name)
        return page_of_faces(session, gallery, subject, page=page, size=size) if gallery is not None else ([], 0)


@router.delete("", response_model=None)
async def delete_examples_of_subject(
    caller: PeopleWriter,
    service: ServiceDep,
    name: CollectionOfKey,
    subject: Annotated[PersonName | None, Query()] = None,
) -> JSONResponse:
    """Erase all examples of a subject, or of all, and with them the subjects, as CompreFace does."""
    erased = await erase(service, name, caller.name, subject)
    return receipted({"deleted": erased.faces}, erased)


@router.post("/delete", response_model=None)
async def delete_examples(
    caller: PeopleWriter,
    service: ServiceDep,
    name: CollectionOfKey,
    body: Annotated[ExamplesBody, Depends(body_of(ExamplesBody))],
) -> JSONResponse:
    """Erase examples by their ids; unknown ids are passed over."""
    gone, erased = await _erase_examples(service, name, caller.name, body.image_ids)
    return receipted(gone, erased)


@router.delete("/{image_id}", response_model=None)
async def delete_example(
    caller: PeopleWriter, service: ServiceDep, name: CollectionOfKey, image_id: ImageId
) -> JSONResponse:
    """Erase an example; the subject stays."""
    gone, erased = await _erase_examples(service, name, caller.name, [image_id])
    if not gone:
        raise Refusal(EXAMPLE_UNKNOWN, f"Image {image_id} not found")
    return receipted(gone[0], erased)


async def _erase_examples(
    service: Service, name: str, actor: str, image_ids: list[str]
) -> tuple[list[dict[str, str]], Erased]:
    gone: list[dict[str, str]] = []

    def work(session: Session, changes: list[Change]) -> Reply:
        gallery, reply = find_collection(session, name), Reply(200)
        if gallery is None:
            return reply
        for image_id in dict.fromkeys(image_ids):
            try:
                who, face = _example(session, gallery, image_id)
            except NotFoundError:
                continue
            record = erase_face(session, changes, service.gallery, gallery, who, face, actor=actor)
            gone.append({"image_id": image_id, "subject": who.name})
            reply = Reply(204, collection=name, receipt=record.receipt)
        return reply

    reply = await write(service, once(actor), work)
    return gone, Erased(0, len(gone), reply.receipt)


@router.get("/{image_id}/img", response_model=None)
async def download_image(caller: Admin, service: ServiceDep, name: CollectionOfKey, image_id: ImageId) -> Response:
    """The aligned crop of an example, where the collection keeps crops; the photograph itself is never kept."""
    return Response(await run_in_threadpool(_crop, service, name, image_id), media_type="image/png")


def _crop(service: Service, name: str, image_id: str) -> bytes:
    with service.store.read() as session:
        gallery = _there(session, name, image_id)
        who, face = _example(session, gallery, image_id)
        crop = stored_crop(session, gallery, who, face)
    if crop is None:
        raise Refusal(IMAGE_NOT_STORED, f"Image {image_id} is not stored; the collection does not keep crops")
    return crop


@router.post("/{image_id}/verify", response_model=None)
async def verify_example(
    caller: Verifier,
    service: ServiceDep,
    name: CollectionOfKey,
    image_id: ImageId,
    options: OptionsDep,
    body: Annotated[FileBody, Depends(body_of(FileBody))],
) -> dict[str, Any]:
    """The similarity of every face of an image to one example."""
    options.demand(caller)
    model, subject, vector = await run_in_threadpool(_enrolled, service, name, image_id)
    found = (await find(service, model, {"file": body.file}, options))["file"]
    result = [
        found.shown(face, options)
        | {"subject": subject, "similarity": similarity(model.decisions, float(np.dot(face.embedding, vector)))}
        for face in largest(found, options)
    ]
    return {"result": result, **versions(model, options)}


def _enrolled(service: Service, name: str, image_id: str) -> tuple[Model, str, NDArray[np.float32]]:
    with service.store.read() as session:
        gallery = _there(session, name, image_id)
        model = service.models.of(gallery)
        who, face = _example(session, gallery, image_id)
        vectors = [t.vector for t in templates_of_person(session, gallery, who) if t.face == face.id]
    if not vectors:
        raise Refusal(EXAMPLE_UNKNOWN, f"Image {image_id} has no embedding by the collection's model")
    return model, who.name, vectors[0]


def _there(session: Session, name: str, image_id: str) -> CollectionRow:
    gallery = find_collection(session, name)
    if gallery is None:
        raise Refusal(EXAMPLE_UNKNOWN, f"Image {image_id} not found")
    return gallery


def _example(session: Session, gallery: CollectionRow, image_id: str) -> tuple[PersonRow, FaceRow]:
    face = face_in_collection(session, gallery, image_id)
    return person_by_row(session, face.person_id), face
