"""The client covers the service: routes, bodies, replies, and what may be repeated."""

import inspect
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel

from facemargin.client import AsyncClient, Client, replies
from facemargin.client.operation import Listing, Operation
from facemargin.client.operations import Operations

NOT_COVERED = {
    "/openapi.json": "describes the service to tools",
    "/docs": "a page for people",
    "/": "the console, a page for people",
}
NOT_COVERED_UNDER = {
    "/api/v1/": "another service's API, for its own client",
    "/console/": "files of the console",
    "/static/": "files of the console",
}
NOT_YET: set[tuple[str, str]] = set()
"""Routes that a client of this version knows and a service need not have."""
RENAMED = {"images": "pictures"}
OPERATIONS = {name: made for name, made in vars(Operations).items() if isinstance(made, Operation)}
LISTINGS = {name: made for name, made in vars(Operations).items() if isinstance(made, Listing)}
COVERED = {(operation.method, operation.route) for operation in OPERATIONS.values()}


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    for context in iter_route_contexts(app.routes):
        for method in (context.methods or {"GET"}) - {"HEAD"}:
            yield method, str(context.path)


def excepted(path: str) -> bool:
    return path in NOT_COVERED or any(path.startswith(prefix) for prefix in NOT_COVERED_UNDER)


def schema_of(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def test_every_route_has_a_method(app: FastAPI) -> None:
    found = set(routes(app))
    assert len(found) > 15
    assert {(method, path) for method, path in found if not excepted(path)} - COVERED == set()


def test_every_method_has_a_route(app: FastAPI) -> None:
    assert COVERED - set(routes(app)) - NOT_YET == set()


def test_both_clients_have_every_method_with_help() -> None:
    for name, made in {**OPERATIONS, **LISTINGS}.items():
        for kind in (Client, AsyncClient):
            assert getattr(kind, name) is made
        assert made.__doc__, name
        text = made.__doc__
        for parameter in made.signature.parameters:
            if "Args:" in text:
                assert f"{parameter}:" in text, f"{name}: {parameter}"


def test_methods_carry_an_idempotency_key_where_the_service_takes_one(document: dict[str, Any]) -> None:
    for name, operation in OPERATIONS.items():
        described = document["paths"].get(operation.route, {}).get(operation.method.lower(), {})
        takes = "Idempotency-Key" in {parameter["name"] for parameter in described.get("parameters", [])}
        assert operation.writes is takes, name
        assert ("idempotency_key" in operation.signature.parameters) is takes, name


def test_every_field_and_query_parameter_can_be_sent(document: dict[str, Any]) -> None:
    for method, path in COVERED:
        described = document["paths"].get(path, {}).get(method.lower(), {})
        bodies = described.get("requestBody", {}).get("content", {}).values()
        wanted = {field for body in bodies for field in schema_of(document, body["schema"])["properties"]}
        wanted |= {parameter["name"] for parameter in described.get("parameters", []) if parameter["in"] == "query"}
        mine = [made for made in OPERATIONS.values() if (made.method, made.route) == (method, path)]
        taken = {name for made in mine for name in made.signature.parameters}
        assert {RENAMED.get(name, name) for name in wanted} <= taken, f"{method} {path}"


def test_replies_have_the_fields_of_the_service(document: dict[str, Any]) -> None:
    compared = set[str]()

    def compare(model: type[BaseModel], schema: dict[str, Any]) -> None:
        compared.add(model.__name__)
        assert set(model.model_fields) == set(schema["properties"]), model.__name__
        for name, field in model.model_fields.items():
            text = str(schema["properties"][name])
            assert ("'null'" in text) is (type(None) in get_args(field.annotation)), f"{model.__name__}.{name}"
            for inner in models_in(field.annotation):
                target = text.split("'$ref': '#/components/schemas/")[1].split("'")[0]
                compare(inner, document["components"]["schemas"][target])

    for name, operation in OPERATIONS.items():
        reply = operation.signature.return_annotation
        if isinstance(reply, type) and issubclass(reply, BaseModel):
            answers = document["paths"][operation.route][operation.method.lower()]["responses"]
            success = next(answer for code, answer in answers.items() if code.startswith("2"))
            assert success["content"], name
            compare(reply, schema_of(document, success["content"]["application/json"]["schema"]))
    defined = {
        kind.__name__ for kind in vars(replies).values() if inspect.isclass(kind) and issubclass(kind, replies.Part)
    }
    assert compared >= defined - {"Part"}


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def test_the_test_sees_routes_of_the_app(app: FastAPI) -> None:
    other = FastAPI()

    @other.get("/v1/forgotten")
    async def forgotten() -> None: ...

    other.routes.extend(route for route in app.routes if isinstance(route, APIRoute))
    assert ("GET", "/v1/forgotten") in set(routes(other)) - COVERED
