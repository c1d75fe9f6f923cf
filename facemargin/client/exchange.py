"""What happens between a call and its reply: one key, tries, waits, the deadline. It sends nothing itself.

`exchange` is a generator that says what to do next (`Send`, `Pause`) and is told what came of it. Each client drives it
with its own two means, to send a request and to wait, so that both behave alike.
"""

import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx

from facemargin.client.errors import ClientError, ServiceUnreachable, TryLater, UnexpectedReply, problem_from
from facemargin.client.operation import Call
from facemargin.client.retrying import Retries, retry_after

T = TypeVar("T")
_SHORTEST_TIMEOUT = 0.1
_PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Send:
    """Send a request with these arguments of `httpx.Client.request`."""

    arguments: dict[str, Any]


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


Answer = httpx.Response | httpx.RequestError | None
Steps = Generator[Send | Pause, Answer, T]
"""Yields what to do, is sent what came of it (None after a pause), and returns the reply."""


@dataclass
class Hold:
    """What one call learns for the others of its client: the service asked to wait until then.

    Attributes:
        until: by the clock of the client.
    """

    until: float = 0.0

    def left(self, now: float) -> float:
        """Seconds still to wait."""
        return max(0.0, self.until - now)


@dataclass(frozen=True)
class Manner:
    """How a client sends.

    Attributes:
        timeout: longest wait, in seconds, for a step of the network (to send a piece, for the first byte, …).
        connect_timeout: longest wait for a connection.
        retries: None sends each call once.
        clock: seconds, never running backwards.
    """

    timeout: float
    connect_timeout: float
    retries: Retries | None
    clock: Callable[[], float]


def exchange(call: Call[T], manner: Manner, hold: Hold) -> Steps[T]:
    """The steps of a call.

    Raises:
        ServiceUnreachable, ServiceProblem, UnexpectedReply: the last try failed so.
    """
    clock, retries = manner.clock, manner.retries
    end = clock() + (retries.deadline if retries is not None else 0.0)
    arguments, tries = _arguments(call), 0
    while True:
        if (held := min(hold.left(clock()), end - clock())) > 0:
            yield Pause(held)
        timeout = _timeout(manner, end - clock() if retries is not None else manner.timeout)
        answer = yield Send(arguments | {"timeout": timeout})
        assert answer is not None
        failure = failure_of(answer)
        if failure is None:
            assert isinstance(answer, httpx.Response)
            return call.parse(answer)
        wait = retries.wait(failure, tries, end - clock()) if retries is not None else None
        if wait is None:
            raise failure
        if isinstance(failure, TryLater) and failure.status == 429:
            hold.until = max(hold.until, clock() + wait)
        tries += 1
        yield Pause(wait)


def _arguments(call: Call[Any]) -> dict[str, Any]:
    parts = call.parts
    arguments: dict[str, Any] = {"method": call.method, "url": call.path}
    query = {name: value for name, value in parts.query.items() if value is not None}
    if query:
        arguments["params"] = query
    if parts.images:  # no file name goes along: it may be somebody's
        arguments["files"] = [(name, ("image", data, "application/octet-stream")) for name, data in parts.images]
        arguments["data"] = parts.fields or {}
    elif parts.fields is not None:
        arguments["json"] = parts.fields
    if call.writes:
        arguments["headers"] = {"Idempotency-Key": parts.idempotency_key or str(uuid.uuid4())}
    return arguments


def _timeout(manner: Manner, left: float) -> httpx.Timeout:
    longest = max(_SHORTEST_TIMEOUT, min(manner.timeout, left))
    return httpx.Timeout(longest, connect=min(manner.connect_timeout, longest))


def failure_of(answer: httpx.Response | httpx.RequestError) -> ClientError | None:
    """The error that an answer is; None for a success."""
    if isinstance(answer, httpx.RequestError):
        return _no_answer(answer)
    if answer.is_success:
        return None
    where = f"{answer.request.method} {answer.request.url.path}"
    if answer.status_code < 400:
        return UnexpectedReply(f"{where} was answered with status {answer.status_code}; redirections are not followed")
    asked = retry_after(answer.headers.get("Retry-After"), datetime.now(UTC))
    return problem_from(_problem(answer, where), asked)


def _no_answer(error: httpx.RequestError) -> ClientError:
    where = f"{error.request.method} {error.request.url.copy_with(query=None)}"
    said = str(error) or type(error).__name__
    if not isinstance(error, httpx.TransportError):
        return UnexpectedReply(f"the answer to {where} cannot be read: {said}")
    failure = ServiceUnreachable(f"no answer to {where}: {said}")
    failure.__cause__ = error
    return failure


def _problem(answer: httpx.Response, where: str) -> dict[str, Any]:
    """The members of a problem reply; made up for an answer that is none (a proxy's)."""
    made_up = {
        "type": "about:blank",
        "title": answer.reason_phrase,
        "detail": f"{where} was answered with {answer.reason_phrase or 'an error'}",
    }
    said: Any = None
    if answer.headers.get("Content-Type", "").partition(";")[0].strip().lower() == _PROBLEM:
        try:
            said = answer.json()
        except ValueError:
            said = None
    body = said if isinstance(said, dict) else made_up
    return body | {"status": answer.status_code}
