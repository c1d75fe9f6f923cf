"""The request that is being answered, for whoever works on it, in whatever thread, and the stages of its work.

`service.request_log` begins and ends it. A context variable leads to it, and threads that are started with a copy of
the context (Starlette's, the engine's) see the same object, so a log line has the request's id wherever it is written.
Outside of a request there is none, and everything here does nothing.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar, Token, copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

StageName = Literal["wait", "decode", "detect", "embed", "search", "commit"]
"""Parts of the work on a request: `wait` is for a thread, `embed` includes the queue before the network."""

OnStage = Callable[[StageName, int, int], None]
"""Told of a stage that ended: its name, when it began (nanoseconds since the epoch), and how long it took (ns)."""


@dataclass(slots=True)
class Current:
    """What is known of a request while it is answered.

    Attributes:
        id: its id.
        on_stage: told of its stages.
        key: id of the key that asks, once it is known.
        model: id of the model that the reply names, if it names one.
        problem: slug of the problem that it is answered with.
    """

    id: str
    on_stage: OnStage
    key: str | None = None
    model: str | None = None
    problem: str | None = None


_CURRENT: ContextVar[Current | None] = ContextVar("facemargin_request", default=None)


def current() -> Current | None:
    """The request that is being answered here."""
    return _CURRENT.get()


def begin_request(request: Current) -> Token[Current | None]:
    """From here on, this request is being answered."""
    return _CURRENT.set(request)


def end_request(token: Token[Current | None]) -> None:
    """Answered."""
    _CURRENT.reset(token)


def asked_by(key: str) -> None:
    """Say who asks."""
    if (request := _CURRENT.get()) is not None:
        request.key = key


def answered_by(model: str) -> None:
    """Say which model the reply names."""
    if (request := _CURRENT.get()) is not None:
        request.model = model


def refused_with(slug: str) -> None:
    """Say which problem the reply is."""
    if (request := _CURRENT.get()) is not None:
        request.problem = slug


class Stage:
    """A stage of the present request, from now to `end`, which may be called by another thread."""

    __slots__ = ("_began", "_context", "_name", "_request", "_since")

    def __init__(self, name: StageName) -> None:
        self._name: StageName = name
        self._request = _CURRENT.get()
        if self._request is not None:
            self._context = copy_context()
            self._began, self._since = time.time_ns(), time.perf_counter_ns()

    def end(self) -> None:
        """It is over, well or not."""
        if self._request is not None:
            took = time.perf_counter_ns() - self._since
            self._context.run(self._request.on_stage, self._name, self._began, took)

    def __enter__(self) -> Self:
        """The stage itself; it ends with the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.end()
