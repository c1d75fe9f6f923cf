"""Collections: galleries of people, each bound to one model."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from facemargin.errors import ModelMismatchError
from service.bodies import Body, body_of
from service.context import Service
from service.deps import Admin, CollectionName, NewCollectionName, Reader, RepeatableDep, ServiceDep
from service.erasure import erase_collection
from service.gallery import Change
from service.openapi import EXAMPLE_MODEL, KEYED, REPEATABLE, documented
from service.replies import written
from service.schemas import MODEL_ID, CollectionReply, Part
from service.security import Principal
from service.store import CollectionRow
from service.store.people import (
    add_collection,
    collection,
    collections,
    count_faces,
    count_people,
    find_collection,
    keep_crops,
)
from service.writes import Reply

router = APIRouter(prefix="/v1/collections", tags=["collections"])


class CollectionsReply(Part):
    """All collections by name."""

    model: str = Field(description=MODEL_ID + " Here: the default one; each collection names its own.")
    collections: list[CollectionReply]


class CollectionBody(Body):
    """How to make a collection; without a body, all defaults."""

    model: str | None = Field(
        default=None,
        max_length=64,
        description="Id of a loaded model; a new collection takes the default one unless named.",
    )
    keep_crops: bool | None = Field(
        default=None,
        description="Store the aligned crop of each enrolled image, so that another model can embed it later; off by "
        "default. Turned off, what was stored is erased.",
    )


_EXAMPLE = {
    "name": "staff",
    "model": EXAMPLE_MODEL,
    "embedding_dim": 512,
    "keep_crops": False,
    "people": 20,
    "faces": 41,
    "created_at": "2026-01-31T09:30:00Z",
}


@router.get(
    "",
    summary="List the collections",
    **documented(*KEYED, example={"model": EXAMPLE_MODEL, "collections": [_EXAMPLE]}),
)
async def list_collections(caller: Reader, service: ServiceDep) -> CollectionsReply:
    """All collections that the key may touch, also those bound to a model that is not loaded."""
    return await run_in_threadpool(_listed, service, caller)


def _listed(service: Service, caller: Principal) -> CollectionsReply:
    with service.store.read() as session:
        found = [_reply(session, row) for row in collections(session) if caller.sees(row.name)]
    return CollectionsReply(model=service.models.default.id, collections=found)


@router.put(
    "/{name}",
    summary="Make a collection",
    response_model=CollectionReply,
    **documented(
        *KEYED,
        *REPEATABLE,
        "model-mismatch",
        body=CollectionBody,
        body_example={"keep_crops": False},
        example=_EXAMPLE,
        status=201,
        more_status={200: {"description": "It was there already", "model": CollectionReply}},
    ),
)
async def put_collection(
    caller: Admin,
    service: ServiceDep,
    name: NewCollectionName,
    body: Annotated[CollectionBody, Depends(body_of(CollectionBody, may_be_empty=True))],
    again: RepeatableDep,
) -> Response:
    """Make a collection for a loaded model, or change whether one that is there keeps crops.

    If it is there and bound to another model than the named one, that is an error; without a name, it keeps its own.
    """
    model = service.models.named(body.model)

    def work(session: Session, changes: list[Change]) -> Reply:
        row, status = find_collection(session, name), 200
        if row is None:
            row, status = add_collection(session, name, model=model.id, dim=model.dim), 201
        if body.model is not None and row.model != model.id:
            raise ModelMismatchError(f"collection '{name}' is bound to model {row.model}, not to model {model.id}")
        if body.keep_crops is not None:
            keep_crops(session, row, body.keep_crops)
        reply = _reply(session, row).model_dump(mode="json")
        return Reply(status, reply, collection=name, overwrites=body.keep_crops is False)

    return await written(service, again.once(caller, body), work)


@router.get("/{name}", summary="One collection", **documented(*KEYED, "not-found", example=_EXAMPLE))
async def get_collection(caller: Reader, service: ServiceDep, name: CollectionName) -> CollectionReply:
    """A collection and how many people and faces it holds."""
    return await run_in_threadpool(_one, service, name)


def _one(service: Service, name: str) -> CollectionReply:
    with service.store.read() as session:
        return _reply(session, collection(session, name))


@router.delete("/{name}", summary="Delete a collection", **documented(*KEYED, *REPEATABLE, "not-found", status=204))
async def remove_collection(caller: Admin, service: ServiceDep, name: CollectionName, again: RepeatableDep) -> Response:
    """Delete a collection with everybody in it. This cannot be undone."""

    def work(session: Session, changes: list[Change]) -> Reply:
        row = collection(session, name)
        record = erase_collection(session, changes, row, actor=caller.name)
        return Reply(204, collection=name, receipt=record.receipt)

    return await written(service, again.once(caller), work)


def _reply(session: Session, row: CollectionRow) -> CollectionReply:
    return CollectionReply.of(row, people=count_people(session, row), faces=count_faces(session, row))
