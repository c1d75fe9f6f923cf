"""People of a collection."""

import unicodedata
from dataclasses import replace
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.bodies import Body, body_of
from service.context import Service
from service.deps import CollectionName, PeopleWriter, PersonId, Reader, RepeatableDep, ServiceDep
from service.erasure import erase_person
from service.gallery import Change
from service.openapi import EXAMPLE_MODEL, KEYED, REPEATABLE, documented
from service.replies import written
from service.schemas import MODEL_ID, Part, PersonReply
from service.store import CollectionRow, PersonRow
from service.store.people import (
    add_person,
    collection,
    faces_per_person,
    page_of_people,
    person,
)
from service.writes import Reply

router = APIRouter(prefix="/v1/collections/{name}/people", tags=["people"])


def _printable(name: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise ValueError("a name must not hold control characters")
    return name


PersonName = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_printable),
    Field(description="What people call the person; need not be unique."),
]


ExpiresAt = Annotated[
    AwareDatetime | None,
    Field(description="When the person is erased by itself, with its offset from UTC; null for never."),
]


class PersonBody(Body):
    """A person to add."""

    name: PersonName
    expires_at: ExpiresAt = None


class PersonChange(Body):
    """What to change of a person; what is not named stays."""

    name: PersonName | None = None
    expires_at: ExpiresAt = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set or ("name" in self.model_fields_set and self.name is None):
            raise ValueError("send 'name', 'expires_at' or both; a name cannot be null")
        return self


class PeopleReply(Part):
    """A page of people, in the order they came."""

    collection: str
    model: str = Field(description=MODEL_ID)
    people: list[PersonReply]
    next: str | None = Field(description="Pass it as `cursor` for the next page; null on the last one.")


_EXAMPLE = {
    "id": "p_4fz1k8m2q7w9x3c5",
    "name": "Ada Lovelace",
    "collection": "staff",
    "model": EXAMPLE_MODEL,
    "faces": 2,
    "expires_at": None,
    "created_at": "2026-01-31T09:30:00Z",
}


@router.post(
    "",
    summary="Add a person",
    response_model=PersonReply,
    **documented(
        *KEYED,
        *REPEATABLE,
        "not-found",
        body=PersonBody,
        body_example={"name": "Ada Lovelace"},
        example=_EXAMPLE | {"faces": 0},
        status=201,
    ),
)
async def post_person(
    caller: PeopleWriter,
    service: ServiceDep,
    name: CollectionName,
    body: Annotated[PersonBody, Depends(body_of(PersonBody))],
    again: RepeatableDep,
) -> Response:
    """Add a person without faces; the reply has the id."""

    def work(session: Session, changes: list[Change]) -> Reply:
        gallery = collection(session, name)
        row = add_person(session, gallery, body.name, body.expires_at)
        return _answer(201, row, gallery, faces=0)

    return await written(service, again.once(caller, body), work)


@router.get(
    "",
    summary="List people",
    **documented(
        *KEYED,
        "not-found",
        example={"collection": "staff", "model": EXAMPLE_MODEL, "people": [_EXAMPLE], "next": "20"},
    ),
)
async def list_people(
    caller: Reader,
    service: ServiceDep,
    name: CollectionName,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most people on a page.")] = 100,
    cursor: Annotated[
        str, Query(pattern=r"^[0-9]{1,18}$", description="`next` of the page before.", examples=["20"])
    ] = "0",
    person_name: Annotated[
        str | None, Query(alias="name", max_length=200, description="Only people of exactly this name.")
    ] = None,
) -> PeopleReply:
    """The people of a collection, page by page; nobody is listed twice or left out while others come and go."""
    return await run_in_threadpool(_page, service, name, limit, int(cursor), person_name)


def _page(service: Service, name: str, limit: int, after: int, person_name: str | None) -> PeopleReply:
    with service.store.read() as session:
        gallery = collection(session, name)
        rows = page_of_people(session, gallery, after=after, limit=limit + 1, name=person_name)
        page, more = rows[:limit], len(rows) > limit
        counts = faces_per_person(session, page)
    return PeopleReply(
        collection=name,
        model=gallery.model,
        people=[PersonReply.of(row, gallery, faces=counts.get(row.id, 0)) for row in page],
        next=str(page[-1].id) if more else None,
    )


@router.get("/{person_id}", summary="One person", **documented(*KEYED, "not-found", example=_EXAMPLE))
async def get_person(caller: Reader, service: ServiceDep, name: CollectionName, person_id: PersonId) -> PersonReply:
    """A person of a collection."""
    return await run_in_threadpool(_one, service, name, person_id)


def _one(service: Service, name: str, person_id: str) -> PersonReply:
    with service.store.read() as session:
        gallery = collection(session, name)
        row = person(session, gallery, person_id)
        return PersonReply.of(row, gallery, faces=faces_per_person(session, [row]).get(row.id, 0))


@router.patch(
    "/{person_id}",
    summary="Change a person",
    response_model=PersonReply,
    **documented(
        *KEYED, *REPEATABLE, "not-found", body=PersonChange, body_example={"name": "Ada King"}, example=_EXAMPLE
    ),
)
async def patch_person(
    caller: PeopleWriter,
    service: ServiceDep,
    name: CollectionName,
    person_id: PersonId,
    body: Annotated[PersonChange, Depends(body_of(PersonChange))],
    again: RepeatableDep,
) -> Response:
    """Change a person's name or end; the faces stay."""

    def work(session: Session, changes: list[Change]) -> Reply:
        gallery = collection(session, name)
        row = person(session, gallery, person_id)
        row.name = body.name or row.name
        if "expires_at" in body.model_fields_set:
            row.expires_at = body.expires_at
        answer = _answer(200, row, gallery, faces=faces_per_person(session, [row]).get(row.id, 0))
        return replace(answer, overwrites=True)

    return await written(service, again.once(caller, body), work)


@router.delete("/{person_id}", summary="Delete a person", **documented(*KEYED, *REPEATABLE, "not-found", status=204))
async def remove_person(
    caller: PeopleWriter, service: ServiceDep, name: CollectionName, person_id: PersonId, again: RepeatableDep
) -> Response:
    """Delete a person and all faces. This cannot be undone; stored replies that speak of the person are emptied too."""

    def work(session: Session, changes: list[Change]) -> Reply:
        gallery = collection(session, name)
        row = person(session, gallery, person_id)
        record = erase_person(session, changes, service.gallery, gallery, row, actor=caller.name)
        return Reply(204, collection=name, receipt=record.receipt)

    return await written(service, again.once(caller), work)


def _answer(status: int, row: PersonRow, gallery: CollectionRow, *, faces: int) -> Reply:
    body = PersonReply.of(row, gallery, faces=faces).model_dump(mode="json")
    return Reply(status, body, collection=gallery.name, mentions=(row.public_id,))
