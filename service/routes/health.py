"""Is the process alive, and can it do its work? Neither needs a key: a container's health check has none to keep."""

from typing import Literal

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from service.deps import ServiceDep
from service.errors import StoreError
from service.openapi import documented
from service.schemas import Part

router = APIRouter(prefix="/health", tags=["health"])


class LiveReply(Part):
    """The process answers."""

    status: Literal["live"] = "live"


class ReadyReply(Part):
    """The service can do its work."""

    status: Literal["ready"] = "ready"
    model: str
    detector: bool
    calibrated: bool


@router.get("/live", summary="Is the process alive?", **documented(example={"status": "live"}))
async def live() -> LiveReply:
    """Answers as long as the process runs; asks nothing of model or store."""
    return LiveReply()


@router.get(
    "/ready",
    summary="Can the service do its work?",
    **documented(example={"status": "ready", "model": "4f0d6ab1c2e93857", "detector": True, "calibrated": True}),
)
async def ready(service: ServiceDep) -> ReadyReply:
    """Ready once the model is loaded and the store answers; 503 where it does not, or an index is apart from it."""
    await run_in_threadpool(service.store.check)
    if service.gallery.stale:
        raise StoreError("a search index is apart from the store; the next write, or a restart, rebuilds it")
    return ReadyReply(
        model=service.models.default.id,
        detector=service.engine.detector is not None,
        calibrated=service.models.default.decisions.calibration is not None,
    )
