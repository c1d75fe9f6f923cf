"""The OpenAPI document against a real service: whatever schemathesis makes of it, the replies are those it promises.

Requests that fit the document and requests that break it, to every operation; then every status, content type, header
and body is compared with the document. The slow form makes many more.
"""

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from facemargin.bundle import Bundle
from facemargin.preprocessing import encode_png
from training.demo.service_process import ServiceProcess

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
SECONDS = 20.0
CROP = encode_png(np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8))
BOTH = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


@pytest.fixture(scope="module")
def process(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("schemathesis")
    with ServiceProcess(tiny_bundle.path, folder / "store", folder / "service.log") as running:
        yield running


def attack(process: ServiceProcess, mode: GenerationMode, examples: int) -> dict[str, set[int]]:
    """Send so many requests of a mode to every operation; the statuses that came back, by operation."""
    schema = schemathesis.openapi.from_url(f"{process.url}/openapi.json")
    schema.config.generation.update(with_security_parameters=False)  # a made-up key would be all that is looked at
    seen: dict[str, set[int]] = {}
    with requests.Session() as session:
        session.trust_env = False  # the service is on this machine: no proxy
        for result in schema.get_all_operations():
            operation = result.ok()
            if mode is GenerationMode.POSITIVE or _takes_something(operation.definition.raw):
                seen[operation.label] = _attack(operation, mode, examples, session, _something(session, process.url))
    return seen


def _takes_something(definition: dict[str, Any]) -> bool:
    return bool(definition.keys() & {"parameters", "requestBody"})


def _something(session: requests.Session, url: str) -> dict[str, str]:
    """Ids of a collection, a person and a face that exist, as path parameters."""
    collection = f"{url}/v1/collections/staff"
    model = session.put(collection, timeout=SECONDS).json()["model"]
    person = session.post(f"{collection}/people", json={"name": "Ada"}, timeout=SECONDS).json()["id"]
    body = {"embedding": [1.0] * 32, "model": model}
    face = session.post(f"{collection}/people/{person}/faces", json=body, timeout=SECONDS).json()["id"]
    return {"name": "staff", "person_id": person, "face_id": face}


def _attack(
    operation: Any, mode: GenerationMode, examples: int, session: requests.Session, known: dict[str, str]
) -> set[int]:
    """Every other request is about somebody who exists, where its path says about whom."""
    seen: set[int] = set()

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), exists=st.booleans())
    def send(case: Any, exists: bool) -> None:
        if exists and case.path_parameters:
            case.path_parameters |= {name: known[name] for name in case.path_parameters.keys() & known.keys()}
        if exists and mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body |= _pictures(case.body, json=case.media_type == "application/json")
        reply = case.call(session=session, timeout=SECONDS)
        seen.add(reply.status_code)
        assert reply.status_code < 500 or _is_without_a_detector(reply), f"{case.as_curl_command()}: {reply.text}"
        case.validate_response(reply, checks=CHECKS)

    send()
    return seen


def _pictures(body: dict[str, Any], *, json: bool) -> dict[str, Any]:
    """A good crop for every image of a body, said to be one."""
    crop: Any = b64encode(CROP).decode() if json else CROP
    found = {name: crop for name in ("image", "image_a", "image_b") if body.get(name) is not None}
    found |= {"images": [crop]} if "images" in body else {}
    return found | ({"aligned": True if json else "true"} if found else {})


def _is_without_a_detector(reply: Any) -> bool:
    return bool(reply.status_code == 503 and reply.json()["type"].endswith(":detector-missing"))


def is_alive(process: ServiceProcess) -> bool:
    with requests.Session() as session:
        session.trust_env = False
        ready = session.get(f"{process.url}/health/ready", timeout=SECONDS).status_code == 200
    return ready and "Traceback" not in Path(process.log).read_text()


@pytest.mark.parametrize("mode", BOTH, ids=lambda mode: mode.value)
def test_replies_are_as_documented(process: ServiceProcess, mode: GenerationMode) -> None:
    seen = attack(process, mode, 8)
    assert len(seen) >= 12, sorted(seen)
    statuses = set().union(*seen.values())
    assert {404, 422} <= statuses
    if mode is GenerationMode.POSITIVE:
        assert {200, 201, 204} <= statuses
        assert 200 in seen["POST /v1/embeddings"] & seen["POST /v1/verify"]
    assert is_alive(process)


@pytest.mark.slow
@pytest.mark.parametrize("mode", BOTH, ids=lambda mode: mode.value)
def test_many_replies_are_as_documented(process: ServiceProcess, mode: GenerationMode) -> None:
    attack(process, mode, 100)
    assert is_alive(process)
