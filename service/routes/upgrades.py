"""Moving a collection to another model: begin, look, switch, go back, finish."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.bodies import Body, body_of
from service.context import Service
from service.deps import Admin, CollectionName, Reader, RepeatableDep, ServiceDep
from service.gallery import Change
from service.openapi import EXAMPLE_MODEL, KEYED, REPEATABLE, documented
from service.replies import response, written
from service.schemas import MODEL_ID, Part
from service.store import CollectionRow
from service.store.people import collection
from service.upgrades import Comparison, Target, begin, compare, finish, model_before, next_model, progress
from service.writes import Once, Reply

router = APIRouter(prefix="/v1/collections/{name}/upgrade", tags=["upgrade"])


class UpgradeBody(Body):
    """Where to."""

    model: str = Field(max_length=64, description="Id of a loaded model.")


class SwitchBody(Body):
    """How to switch; without a body, all defaults."""

    leave_behind: bool = Field(
        default=False,
        description="Switch although faces lack a template by the new model; they are not found until they have one.",
    )


class FiguresReply(Part):
    """A model at its own threshold for the default false match rate, on pairs of enrolled faces."""

    model: str
    threshold: float | None = Field(description="Null without calibration.")
    genuine_match_rate: float | None = Field(description="Share of pairs of one person that match.")
    impostor_match_rate: float | None = Field(description="Share of pairs of two people that match.")


class ComparisonReply(Part):
    """Both models on the same enrolled faces. They are no test set: people may be enrolled twice."""

    faces: int
    genuine_pairs: int
    impostor_pairs: int
    present: FiguresReply
    other: FiguresReply

    @classmethod
    def of(cls, found: Comparison) -> "ComparisonReply":
        """The reply for a comparison."""
        return cls(
            faces=found.faces,
            genuine_pairs=found.genuine_pairs,
            impostor_pairs=found.impostor_pairs,
            present=FiguresReply(**found.present._asdict()),
            other=FiguresReply(**found.other._asdict()),
        )


class UpgradeReply(Part):
    """Where a collection stands between two models."""

    collection: str
    model: str = Field(description=MODEL_ID + " Here: the one that is searched by now.")
    state: Literal["none", "moving", "switched"] = Field(
        description="`moving`: vectors of another model are being made; `switched`: the way back is open."
    )
    other_model: str | None = Field(description="The model it is moving to, or can go back to.")
    faces: int
    embedded: int = Field(description="Faces with a template by the other model.")
    waiting: int = Field(description="Faces that are being embedded from their stored crops.")
    unreachable: int = Field(
        description="Faces without a stored crop that can be read: their client must send them again."
    )
    comparison: ComparisonReply | None = Field(description="Null where no faces have both, or it was not asked for.")


_EXAMPLE = {
    "collection": "staff",
    "model": EXAMPLE_MODEL,
    "state": "moving",
    "other_model": "a1b2c3d4e5f60718",
    "faces": 41,
    "embedded": 40,
    "waiting": 1,
    "unreachable": 0,
    "comparison": None,
}


@router.get("", summary="Where an upgrade stands", **documented(*KEYED, "not-found", example=_EXAMPLE))
async def get_upgrade(
    caller: Reader,
    service: ServiceDep,
    name: CollectionName,
    comparison: Annotated[bool, Query(description="Also compare both models on the enrolled faces.")] = False,
) -> UpgradeReply:
    """How many faces have vectors of both models, and on request how the two models compare on them."""
    return await run_in_threadpool(_standing, service, name, comparison)


def _standing(service: Service, name: str, comparison: bool) -> UpgradeReply:
    with service.store.read() as session:
        return _reply(session, service, collection(session, name), comparison=comparison)


@router.put(
    "",
    summary="Begin to move to another model",
    response_model=UpgradeReply,
    **documented(
        *KEYED,
        *REPEATABLE,
        "not-found",
        "model-mismatch",
        "upgrade-state",
        body=UpgradeBody,
        body_example={"model": "a1b2c3d4e5f60718"},
        example=_EXAMPLE,
    ),
)
async def put_upgrade(
    caller: Admin,
    service: ServiceDep,
    name: CollectionName,
    body: Annotated[UpgradeBody, Depends(body_of(UpgradeBody))],
    again: RepeatableDep,
) -> Response:
    """Make vectors of a second model beside the present ones, from stored crops and for each new face.

    Until the switch the collection is searched as before.
    """
    model = service.models.named(body.model)

    def work(session: Session, changes: list[Change]) -> Reply:
        gallery = collection(session, name)
        begin(session, gallery, model)
        return _answer(session, service, gallery)

    answer = await written(service, again.once(caller, body), work)
    service.upgrader.wake()
    return answer


@router.post(
    "/switch",
    summary="Switch to the other model",
    response_model=UpgradeReply,
    **documented(
        *KEYED,
        *REPEATABLE,
        "not-found",
        "model-mismatch",
        "upgrade-state",
        body=SwitchBody,
        body_example={"leave_behind": False},
        example=_EXAMPLE | {"state": "switched"},
    ),
)
async def post_switch(
    caller: Admin,
    service: ServiceDep,
    name: CollectionName,
    body: Annotated[SwitchBody, Depends(body_of(SwitchBody, may_be_empty=True))],
    again: RepeatableDep,
) -> Response:
    """Bind the collection to the other model, at once and as a whole. Its old vectors stay, for the way back."""
    target = next_model(service.models, service.upgrader.unreadable, leave_behind=body.leave_behind)
    return await _moved(service, again.once(caller, body), name, target)


@router.post(
    "/rollback",
    summary="Go back to the model before",
    response_model=UpgradeReply,
    **documented(*KEYED, *REPEATABLE, "not-found", "model-mismatch", "upgrade-state", example=_EXAMPLE),
)
async def post_rollback(caller: Admin, service: ServiceDep, name: CollectionName, again: RepeatableDep) -> Response:
    """Bind the collection to the model it had before the switch, at once and as a whole."""
    return await _moved(service, again.once(caller), name, model_before)


async def _moved(service: Service, once: Once, name: str, target: Target) -> Response:
    def answer(session: Session, gallery: CollectionRow) -> Reply:
        return _answer(session, service, gallery)

    return response(await run_in_threadpool(service.upgrader.move, once, name, target, answer))


@router.delete(
    "",
    summary="Finish or cancel an upgrade",
    **documented(*KEYED, *REPEATABLE, "not-found", "upgrade-state", status=204),
)
async def delete_upgrade(caller: Admin, service: ServiceDep, name: CollectionName, again: RepeatableDep) -> Response:
    """Erase the vectors of every model but the collection's own. After a switch, this closes the way back."""

    def work(session: Session, changes: list[Change]) -> Reply:
        finish(session, changes, collection(session, name))
        return Reply(204, collection=name)

    return await written(service, again.once(caller), work)


def _answer(session: Session, service: Service, gallery: CollectionRow) -> Reply:
    return Reply(200, _reply(session, service, gallery).model_dump(mode="json"), collection=gallery.name)


def _reply(session: Session, service: Service, gallery: CollectionRow, *, comparison: bool = False) -> UpgradeReply:
    other = gallery.upgrade_model or gallery.previous_model
    found = progress(session, service.models, gallery, other or gallery.model, service.upgrader.unreadable)
    max_fmr = service.settings.default_max_fmr
    compared = compare(session, service.models, gallery, other, max_fmr=max_fmr) if other and comparison else None
    return UpgradeReply(
        collection=gallery.name,
        model=gallery.model,
        state="moving" if gallery.upgrade_model else "switched" if gallery.previous_model else "none",
        other_model=other,
        faces=found.faces,
        embedded=found.embedded,
        waiting=found.waiting,
        unreachable=found.unreachable,
        comparison=ComparisonReply.of(compared) if compared is not None else None,
    )
