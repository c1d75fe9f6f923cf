"""The OpenAPI document says everything: every route, its examples, its problems, its keys."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter

from service.problems import ALL_PROBLEMS, TYPE_PREFIX
from service.routes.embeddings import EmbeddingsBody
from service.routes.faces import EnrolBody
from service.routes.people import PersonBody
from service.routes.search import SearchBody
from service.routes.verify import VerifyBody

OPEN = {"/health/live", "/health/ready"}
METHODS = {"get", "put", "post", "patch", "delete"}


@pytest.fixture
def document(shared_api: Any) -> dict[str, Any]:
    answer = shared_api.get("/openapi.json")
    assert answer.status_code == 200
    return dict(answer.json())


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert method in METHODS
            yield path, method, operation


def test_every_route_is_described_with_examples_and_problems(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        where = f"{method} {path}"
        assert operation["summary"], where
        assert len(operation["description"]) > 20, where
        assert operation["tags"], where
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), f"{where} {parameter['name']}"
        success = [code for code in operation["responses"] if code.startswith("2")]
        assert success, where
        assert (success == ["204"]) is (method == "delete"), where
        for code in set(success) - {"204"}:
            content = operation["responses"][code]["content"]["application/json"]
            assert content["example"], f"{where} {code}"
            assert content["schema"], f"{where} {code}"
        for code, response in operation["responses"].items():
            assert response["description"], f"{where} {code}"
            if not code.startswith("2"):
                content = response["content"]["application/problem+json"]
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
                assert content["examples"], f"{where} {code}"
        assert {"422", "500", "503"} <= operation["responses"].keys(), where
        if "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["example"], where
            assert {"400", "413", "415"} <= operation["responses"].keys(), where


def test_every_route_but_health_needs_a_key(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"].keys() == {"HTTPBearer", "APIKeyHeader"}
    for path, method, operation in operations(document):
        if path in OPEN:
            assert "security" not in operation
            assert "401" not in operation["responses"]
        else:
            assert operation["security"] == [{"HTTPBearer": []}, {"APIKeyHeader": []}], f"{method} {path}"
            assert {"401", "403"} <= operation["responses"].keys(), f"{method} {path}"


def test_problem_examples_are_of_the_table(document: dict[str, Any]) -> None:
    seen = set()
    for path, _, operation in operations(document):
        for code, response in operation["responses"].items():
            for slug, example in (
                response.get("content", {}).get("application/problem+json", {}).get("examples", {}).items()
            ):
                seen.add(slug)
                assert ALL_PROBLEMS[slug].status == int(code) == example["value"]["status"], path
                assert example["value"]["type"] == TYPE_PREFIX + slug
    unsaid = {"method-not-allowed", "client-disconnected"}  # of no route in particular
    assert seen == ALL_PROBLEMS.keys() - unsaid


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    references = {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}
    assert references <= document["components"]["schemas"].keys()
    assert "HTTPValidationError" not in text
    assert '"$defs"' not in text
    assert document["openapi"].startswith("3.1")
    assert "no liveness detection" in document["info"]["description"]


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/embeddings", EmbeddingsBody),
        ("/v1/verify", VerifyBody),
        ("/v1/collections/{name}/people", PersonBody),
        ("/v1/collections/{name}/people/{person_id}/faces", EnrolBody),
        ("/v1/collections/{name}/search", SearchBody),
    ],
)
def test_examples_of_bodies_are_taken(document: dict[str, Any], path: str, model: Any) -> None:
    content = document["paths"][path]["post"]["requestBody"]["content"]
    example = json.loads(json.dumps(content["application/json"]["example"]).replace("...", ""))
    TypeAdapter(model).validate_python(example)
    if model is not PersonBody:
        fields = content["multipart/form-data"]["schema"]["properties"]
        assert "embedding" not in fields
        assert fields.keys() <= model.model_fields.keys()
        assert "contentEncoding" not in json.dumps(fields)


def test_examples_of_replies_have_the_fields_of_the_replies(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for path, method, operation in operations(document):
        for code, response in operation["responses"].items():
            content = response.get("content", {}).get("application/json")
            if code.startswith("2") and content and "example" in content:
                schema = schemas[content["schema"]["$ref"].rsplit("/", 1)[1]]
                assert content["example"].keys() <= schema["properties"].keys(), f"{method} {path}"
                for left_out in schema["properties"].keys() - content["example"].keys():  # FastAPI leaves null out
                    assert {"type": "null"} in schema["properties"][left_out]["anyOf"], f"{method} {path} {left_out}"


def test_docs_page_is_off_unless_asked_for(make_api: Any, tmp_path: Any) -> None:
    assert make_api().get("/docs").status_code == 404
    assert make_api(docs=True, store=tmp_path / "other").get("/docs").status_code == 200
