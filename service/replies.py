"""The answer to a write as an HTTP response."""

from typing import Final

from anyio import to_thread
from starlette.responses import JSONResponse, Response

from service.context import Service
from service.current import answered_by
from service.errors import StoreError
from service.writes import Once, Reply, Work

REPLAYED = "Idempotency-Replayed"
RECEIPT = "Facemargin-Receipt"

_MOST_WAITING: Final = 100


async def written(service: Service, once: Once, work: Work) -> Response:
    """Do a write off the event loop and answer it; see `write`."""
    return response(await write(service, once, work))


async def write(service: Service, once: Once, work: Work) -> Reply:
    """Do a write off the event loop, in a thread that no reader would have got.

    Raises:
        StoreError: too many others wait for their turn; or see `service.writes.Writer.run`.
    """
    threads = service.writer.threads
    if threads.statistics().tasks_waiting >= _MOST_WAITING:
        raise StoreError("too many writes wait for their turn; nothing was changed")
    return await to_thread.run_sync(service.writer.run, once, work, limiter=threads)


def response(reply: Reply) -> Response:
    """The HTTP response of an answer; a repeated one says so in a header, a deletion has its receipt in one."""
    headers = ({REPLAYED: "true"} if reply.replayed else {}) | ({RECEIPT: reply.receipt} if reply.receipt else {})
    if reply.body is not None and isinstance(model := reply.body.get("model"), str):
        answered_by(model)  # a repeated answer was not made now
    if reply.body is None:
        return Response(status_code=reply.status, headers=headers)
    return JSONResponse(reply.body, status_code=reply.status, headers=headers)
