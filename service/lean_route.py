"""Routes of a few dependencies and no parameters, answered without what FastAPI does for the general case.

FastAPI looks at every dependency anew for every request and validates the reply a second time. For a route that embeds
a crop in a few milliseconds that is much of what the interpreter does for it, and the interpreter is what the workers
of all cores share (docs/serving-speed.md). So `LeanRoute` asks the same dependencies by a plan made once, and
writes the reply as it is. The document of the API does not know the difference.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

_Call = Callable[..., Any]


class _Step(NamedTuple):
    """A dependency to ask.

    Attributes:
        call: the dependency, or the route's own function.
        request_name: of the parameter that takes the request, if one does.
        sources: calls that were asked before, by the names of the parameters that take their answers.
    """

    call: Callable[..., Awaitable[Any]]
    request_name: str | None
    sources: dict[str, _Call]

    async def asked(self, request: Request, answers: dict[_Call, Any]) -> Any:
        """The answer."""
        given = {name: answers[source] for name, source in self.sources.items()}
        if self.request_name is not None:
            given[self.request_name] = request
        return await self.call(**given)


class LeanRoute(APIRoute):
    """A route whose function and dependencies are coroutine functions that take the request and other dependencies.

    The function returns a pydantic model or a response. Pass it to a router as ``route_class``.

    Dependencies must be arguments of the function: those of an ``include_router`` or of the whole application would
    not be asked.

    Raises:
        TypeError: the function or a dependency takes anything else, as a parameter of the path, query, head or body, or
            is no coroutine function; or the route or its router has dependencies that are no arguments.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The answer to a request; FastAPI asks for it once."""
        steps = _plan(self.dependant)
        status = self.status_code or 200

        async def answer(request: Request) -> Response:
            answers: dict[_Call, Any] = {}
            for step in steps:
                answers[step.call] = await step.asked(request, answers)
            reply: BaseModel | Response = answers[steps[-1].call]
            if isinstance(reply, Response):
                return reply
            return Response(reply.model_dump_json(by_alias=True), status, media_type="application/json")

        return answer


def _plan(route: Dependant) -> list[_Step]:
    """Every dependency once, after those that it asks for; the route's function is the last."""
    steps: dict[_Call, _Step] = {}

    def add(one: Dependant) -> _Call:
        call = _checked(one)
        sources = {name: add(inner) for name, inner in _arguments(one).items()}
        steps.setdefault(call, _Step(call, one.request_param_name, sources))
        return call

    add(route)
    return list(steps.values())


def _arguments(one: Dependant) -> dict[str, Dependant]:
    """The dependencies of a function by the parameters that take their answers."""
    named = {inner.name: inner for inner in one.dependencies if inner.name is not None}
    if len(named) != len(one.dependencies):
        raise TypeError(f"{one.call}: a lean route takes dependencies as arguments of its function only")
    return named


def _checked(one: Dependant) -> _Call:
    if one.call is None or not inspect.iscoroutinefunction(one.call):
        raise TypeError(f"{one.call} is no coroutine function, and a lean route takes no others")
    taken = len(_arguments(one)) + (one.request_param_name is not None)
    if len(inspect.signature(one.call).parameters) != taken:
        raise TypeError(f"{one.call}: a lean route takes the request and dependencies, and no parameters")
    return one.call
