"""A lean HTTP client: requests as ready bytes over kept connections, so that the client costs the machine little.

Owns closed loops (each client sends when it has its answer) and open ones (requests at random moments of a given rate,
whatever the answers do). Latency in an open loop counts from the moment at which the request was due.
"""

import asyncio
import base64
import itertools
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

Form = Literal["multipart", "json"]

_BOUNDARY = "facemargin-bench"
_STATUS_AT = slice(9, 12)


@dataclass
class Measurement:
    """What a load brought.

    Attributes:
        wall_seconds: from the first request to the last answer.
        client_seconds: processor time of the client.
        latencies: seconds of each accepted request.
        statuses: how often each status came.
    """

    wall_seconds: float = 0.0
    client_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def accepted_per_second(self) -> float:
        """Answers of status 200 a second."""
        return len(self.latencies) / self.wall_seconds

    @property
    def refused(self) -> float:
        """Share of all requests that were answered by 429."""
        return self.statuses.get(429, 0) / max(1, sum(self.statuses.values()))

    def latency(self, share: float) -> float:
        """The latency that this share of the accepted requests did not pass, in seconds; NaN without any."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan

    def note(self, status: int, seconds: float) -> None:
        """Count one answer."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 200:
            self.latencies.append(seconds)


def embedding_request(crop: bytes, *, port: int, form: Form) -> bytes:
    """POST /v1/embeddings with one aligned crop, as the bytes of a request."""
    if form == "json":
        body = json.dumps({"images": [base64.b64encode(crop).decode()], "aligned": True}).encode()
        kind = "application/json"
    else:
        head = 'Content-Disposition: form-data; name="images"; filename="crop"\r\nContent-Type: image/png\r\n\r\n'
        aligned = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="aligned"\r\n\r\ntrue\r\n'
        body = f"{aligned}--{_BOUNDARY}\r\n{head}".encode() + crop + f"\r\n--{_BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
    start = f"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {kind}\r\n"
    return f"{start}Content-Length: {len(body)}\r\n\r\n".encode() + body


class _Connection(asyncio.Protocol):
    """One kept connection, one request at a time; the answer is its status."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's call."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Asyncio's call."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or len(self._received) < end + 4 + _length(self._received[:end]):
            return
        status = int(self._received[_STATUS_AT])
        self._received.clear()
        self._answer.set_result(status)

    def connection_lost(self, error: Exception | None) -> None:
        """Asyncio's call."""
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("the server closed the connection"))

    @property
    def open(self) -> bool:
        """Whether it can be used."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> int:
        """Send a request and wait for the status of its answer."""
        if self._transport is None:
            raise ConnectionResetError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


def _length(head: bytes | bytearray) -> int:
    for line in bytes(head).lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    raise ValueError("the answer has no Content-Length")


async def _connect(port: int) -> _Connection:
    _, connection = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", port)
    return connection


def closed_loop(requests: Sequence[bytes], *, port: int, clients: int, seconds: float) -> Measurement:
    """Each client sends its next request when it has the answer to the last one."""

    async def work(found: Measurement) -> None:
        deadline, turn = time.perf_counter() + seconds, itertools.cycle(requests)

        async def client() -> None:
            connection = await _connect(port)
            while (started := time.perf_counter()) < deadline:
                status = await connection.ask(next(turn))
                found.note(status, time.perf_counter() - started)
            connection.close()

        await asyncio.gather(*(client() for _ in range(clients)))

    return _measured(work)


def open_loop(requests: Sequence[bytes], *, port: int, per_second: float, seconds: float, seed: int) -> Measurement:
    """Requests come as a Poisson process, over as many connections as it takes."""

    async def work(found: Measurement) -> None:
        idle: list[_Connection] = []
        chance, turn = random.Random(seed), itertools.cycle(requests)

        async def request(due: float) -> None:
            connection = idle.pop() if idle else await _connect(port)
            try:
                found.note(await connection.ask(next(turn)), time.perf_counter() - due)
            except OSError:
                found.note(0, 0.0)
            if connection.open:
                idle.append(connection)

        async with asyncio.TaskGroup() as group:
            due, end = time.perf_counter(), time.perf_counter() + seconds
            while due < end:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(request(due))
                due += chance.expovariate(per_second)
        for connection in idle:
            connection.close()

    return _measured(work)


def _measured(work: Callable[[Measurement], Awaitable[None]]) -> Measurement:
    found = Measurement()
    started, used = time.perf_counter(), time.process_time()

    async def run() -> None:
        await work(found)

    asyncio.run(run())
    found.wall_seconds, found.client_seconds = time.perf_counter() - started, time.process_time() - used
    return found
