"""Is the process alive, and can it do its work? Neither needs a key: a container's health check has none to keep."""

from typing import Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from service.deps import ServiceDep
from service.errors import NotReadyError
from service.openapi import EXAMPLE_MODEL, documented
from service.problems import RETRY_AFTER_S
from service.schemas import Part

router = APIRouter(prefix="/health", tags=["health"])


class LiveReply(Part):
    """The process answers."""

    status: Literal["live"] = "live"


class CheckReply(Part):
    """One thing that was looked at."""

    name: str = Field(
        description="`store`, `index`, `disk`, `housekeeping`, `replica`, `model ID` for each model, `detector`."
    )
    ok: bool
    detail: str | None = Field(description="What is wrong.")


class ReadyReply(Part):
    """The service can do its work."""

    status: Literal["ready"] = "ready"
    model: str
    detector: bool
    calibrated: bool
    checks: list[CheckReply]


_EXAMPLE = {
    "status": "ready",
    "model": EXAMPLE_MODEL,
    "detector": True,
    "calibrated": True,
    "checks": [
        {"name": "store", "ok": True, "detail": None},
        {"name": f"model {EXAMPLE_MODEL}", "ok": True, "detail": None},
    ],
}


@router.get("/live", summary="Is the process alive?", **documented(example={"status": "live"}))
async def live() -> LiveReply:
    """Answers as long as the process runs; asks nothing of model or store."""
    return LiveReply()


@router.get("/ready", summary="Can the service do its work?", **documented("not-ready", example=_EXAMPLE))
async def ready(service: ServiceDep) -> ReadyReply:
    """Ready while every check passes; otherwise 503, and the member `checks` says which does not.

    Each model and the detector work on a made-up picture, at most every few seconds however often somebody asks.
    """
    checks = [CheckReply(**check._asdict()) for check in await run_in_threadpool(service.readiness.checks)]
    if failing := [check.detail or check.name for check in checks if not check.ok]:
        shown = [check.model_dump() for check in checks]
        raise NotReadyError("; ".join(failing), checks=shown, retry_after=RETRY_AFTER_S)
    return ReadyReply(
        model=service.models.default.id,
        detector=service.engine.detector is not None,
        calibrated=service.models.default.decisions.calibration is not None,
        checks=checks,
    )
