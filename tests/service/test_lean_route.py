"""Routes that are answered by a plan: as FastAPI would answer them, with every dependency asked once."""

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field

from service import compreface
from service.lean_route import LeanRoute
from service.routes import ROUTERS, embeddings, verify


class Reply(BaseModel):
    """An answer with a name of its own on the wire."""

    asked: list[str] = Field(serialization_alias="order")
    number: float


async def first(request: Request) -> str:
    request.state.asked = ["first"]
    return request.headers["X-Wish"]


async def second(wish: Annotated[str, Depends(first)], request: Request) -> str:
    request.state.asked.append("second")
    if wish == "nothing":
        raise HTTPException(418, "refused")
    return wish


async def reply(
    request: Request, wish: Annotated[str, Depends(second)], again: Annotated[str, Depends(first)]
) -> Reply:
    assert wish == again
    return Reply(asked=request.state.asked, number=0.1)


def client(route_class: Any, endpoint: Any = reply) -> TestClient:
    router = APIRouter(route_class=route_class)
    router.post("/it", status_code=202)(endpoint)
    app = FastAPI()
    app.include_router(router)
    return TestClient(app)


@pytest.mark.parametrize("wish", ["something", "nothing"])
def test_a_reply_is_that_of_fastapi(wish: str) -> None:
    from fastapi.routing import APIRoute

    lean, usual = (client(kind).post("/it", headers={"X-Wish": wish}) for kind in (LeanRoute, APIRoute))
    assert (lean.status_code, lean.content, lean.headers) == (usual.status_code, usual.content, usual.headers)
    assert lean.status_code == (418 if wish == "nothing" else 202)


def test_every_dependency_is_asked_once_and_after_those_that_it_needs() -> None:
    assert client(LeanRoute).post("/it", headers={"X-Wish": "x"}).json() == {
        "order": ["first", "second"],
        "number": 0.1,
    }


def test_the_document_is_that_of_fastapi() -> None:
    from fastapi.routing import APIRoute

    assert client(LeanRoute).get("/openapi.json").json() == client(APIRoute).get("/openapi.json").json()


def test_a_response_is_passed_on() -> None:
    async def plain() -> Response:
        return Response(b"bytes", 200)

    assert client(LeanRoute, plain).post("/it").content == b"bytes"


async def with_a_query(limit: int) -> Reply:
    raise NotImplementedError


async def with_a_header_below(wish: Annotated[Reply, Depends(with_a_query)]) -> Reply:
    raise NotImplementedError


async def with_a_response(response: Response) -> Reply:
    raise NotImplementedError


def in_a_thread(request: Request) -> Reply:
    raise NotImplementedError


@pytest.mark.parametrize("endpoint", [with_a_query, with_a_header_below, with_a_response, in_a_thread])
def test_what_it_would_not_do_is_refused_when_the_route_is_made(endpoint: Any) -> None:
    with pytest.raises(TypeError, match="a lean route takes"):
        client(LeanRoute, endpoint)


async def guard() -> None:
    raise HTTPException(401)


def test_a_dependency_that_is_no_argument_is_refused_and_not_passed_over() -> None:
    for router, more in (
        (APIRouter(route_class=LeanRoute, dependencies=[Depends(guard)]), {}),
        (APIRouter(route_class=LeanRoute), {"dependencies": [Depends(guard)]}),
    ):
        with pytest.raises(TypeError, match="as arguments of its function only"):
            router.post("/it", **more)(reply)


def test_neither_the_application_nor_a_router_has_dependencies_that_a_lean_route_would_pass_over(api: Any) -> None:
    assert not api.app.router.dependencies
    for router in (*ROUTERS, *compreface.ROUTERS):
        assert not router.dependencies


def test_the_routes_that_time_is_counted_for_are_lean() -> None:
    for router in (embeddings.router, verify.router):
        assert all(isinstance(route, LeanRoute) for route in router.routes)
