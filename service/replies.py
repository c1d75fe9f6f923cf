"""The answer to a write as an HTTP response."""

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from service.context import Service
from service.writes import Once, Reply, Work

REPLAYED = "Idempotency-Replayed"


async def written(service: Service, once: Once, work: Work) -> Response:
    """Do a write off the event loop and answer it."""
    return response(await run_in_threadpool(service.writer.run, once, work))


def response(reply: Reply) -> Response:
    """The HTTP response of an answer; a repeated one says so in a header."""
    headers = {REPLAYED: "true"} if reply.replayed else None
    if reply.body is None:
        return Response(status_code=reply.status, headers=headers)
    return JSONResponse(reply.body, status_code=reply.status, headers=headers)
