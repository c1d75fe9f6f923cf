"""``/recognition/subjects``: list, add, rename, delete."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from service.bodies import body_of
from service.compreface.errors import PREFIX, SUBJECT_EXISTS, SUBJECT_UNKNOWN, Refusal
from service.compreface.people import Erased, erase, known, made, merge, names, once, people
from service.compreface.requests import CollectionOfKey, Subject, SubjectBody
from service.context import Service
from service.deps import PeopleWriter, Reader, ServiceDep
from service.gallery import Change
from service.replies import RECEIPT, write
from service.store.people import add_person, find_collection
from service.writes import Reply

router = APIRouter(prefix=f"{PREFIX}/recognition/subjects", include_in_schema=False)


@router.get("", response_model=None)
@router.get("/", response_model=None)
async def list_subjects(caller: Reader, service: ServiceDep, name: CollectionOfKey) -> dict[str, Any]:
    """All subjects."""
    return {"subjects": await run_in_threadpool(_listed, service, name)}


def _listed(service: Service, name: str) -> list[str]:
    with service.store.read() as session:
        gallery = find_collection(session, name)
        return names(session, gallery) if gallery is not None else []


@router.post("", status_code=201, response_model=None)
async def add_subject(
    caller: PeopleWriter,
    service: ServiceDep,
    name: CollectionOfKey,
    body: Annotated[SubjectBody, Depends(body_of(SubjectBody))],
) -> dict[str, Any]:
    """Add a subject without examples; one that is there already is refused."""

    def work(session: Session, changes: list[Change]) -> Reply:
        gallery = made(service, session, name)
        if people(session, gallery, body.subject, limit=1):
            raise Refusal(SUBJECT_EXISTS, "Subject already exists")
        add_person(session, gallery, body.subject)
        return Reply(201)

    await write(service, once(caller.name), work)
    return {"subject": body.subject}


@router.put("/{subject}", response_model=None)
async def rename_subject(
    caller: PeopleWriter,
    service: ServiceDep,
    name: CollectionOfKey,
    subject: Subject,
    body: Annotated[SubjectBody, Depends(body_of(SubjectBody))],
) -> dict[str, Any]:
    """Rename a subject; where the new name is there already, its people get the examples and the old one is erased."""
    if body.subject == subject:
        return {"updated": False}

    def work(session: Session, changes: list[Change]) -> Reply:
        gallery, found = known(session, name, subject)
        if others := people(session, gallery, body.subject, limit=1):
            merge(session, changes, service.gallery, gallery, found, others[0], actor=caller.name)
        for who in found if not others else ():
            who.name = body.subject
        return Reply(200, overwrites=True)

    await write(service, once(caller.name), work)
    return {"updated": True}


@router.delete("/{subject}", response_model=None)
async def delete_subject(
    caller: PeopleWriter, service: ServiceDep, name: CollectionOfKey, subject: Subject
) -> JSONResponse:
    """Erase a subject with all examples."""
    erased = await erase(service, name, caller.name, subject)
    if not erased.people:
        raise Refusal(SUBJECT_UNKNOWN, f"Subject {subject} not found")
    return receipted({"subject": subject}, erased)


@router.delete("", response_model=None)
async def delete_all_subjects(caller: PeopleWriter, service: ServiceDep, name: CollectionOfKey) -> JSONResponse:
    """Erase all subjects with all examples."""
    erased = await erase(service, name, caller.name, None)
    return receipted({"deleted": erased.people}, erased)


def receipted(body: Any, erased: Erased) -> JSONResponse:
    """The reply to an erasure, with its receipt as the native API gives it."""
    return JSONResponse(body, headers={RECEIPT: erased.receipt} if erased.receipt else None)
