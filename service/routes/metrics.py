"""The service's figures, for Prometheus. Not part of the API, so not of its document."""

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from service.deps import MetricsReader, ServiceDep
from service.errors import ForbiddenError

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
async def metrics(caller: MetricsReader, service: ServiceDep, request: Request) -> Response:
    """All figures, in the text format of Prometheus or OpenMetrics, as the header Accept prefers.

    They are of all collections together, so a key that is limited to some gets none.
    """
    if caller.collections is not None:
        raise ForbiddenError("this key is limited to collections, and the figures are of all of them")
    text, media_type = await run_in_threadpool(service.metrics.text, request.headers.get("Accept", ""))
    return Response(text, media_type=media_type)
