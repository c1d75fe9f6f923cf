"""The Dockerfile and the compose file say what they must; there is no Docker engine here to build them with."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.server import GRACE_SECONDS

ROOT = Path(__file__).parents[2]
SECRET = re.compile(r"(?i)(api_?key|password|secret|token)\s*[:=]\s*\S")


@pytest.fixture
def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line and line[0] != "#")
    ]


@pytest.fixture
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


def test_dockerfile_has_two_stages_and_leaves_the_tools_in_the_first(instructions: list[tuple[str, str]]) -> None:
    stages = [rest for word, rest in instructions if word == "FROM"]
    assert len(stages) == 2
    assert all(re.fullmatch(r"python:3\.\d+-slim( AS build)?", stage) for stage in stages)
    last = instructions[[n for n, (word, _) in enumerate(instructions) if word == "FROM"][-1] :]
    assert not any("pip" in rest for _, rest in last)
    assert ("COPY", "--from=build /opt/facemargin /opt/facemargin") in last


def test_dockerfile_installs_serving_only(instructions: list[tuple[str, str]]) -> None:
    installs = [rest for word, rest in instructions if word == "RUN" and "pip install" in rest]
    assert len(installs) == 1
    assert installs[0].endswith('pip install --constraint constraints.txt ".[serve]"')
    assert any("find_spec('torch') is None" in rest for _, rest in instructions)


def test_dockerfile_runs_as_nobody_special_with_a_health_check_and_a_volume(
    instructions: list[tuple[str, str]],
) -> None:
    words = dict(instructions)
    assert words["USER"] == "facemargin"
    assert words["VOLUME"] == "/data"
    assert "/health/ready" in words["HEALTHCHECK"]
    assert "ProxyHandler({})" in words["HEALTHCHECK"]
    assert words["ENTRYPOINT"] == '["facemargin"]'
    assert '"--host", "0.0.0.0"' in words["CMD"]
    order = [word for word, _ in instructions]
    assert order.index("USER") > max(number for number, word in enumerate(order) if word == "RUN")


def test_everything_copied_is_sent_to_the_builder(instructions: list[tuple[str, str]]) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name for word, rest in instructions if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]
    }
    assert copied == allowed
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_compose_is_closed(compose: dict[str, Any]) -> None:
    service = compose["services"]["facemargin"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert "privileged" not in service
    assert "network_mode" not in service
    assert [port.rsplit(":", 1)[0].split(":")[0] for port in service["ports"]] == ["127.0.0.1"]
    assert "/health/ready" in " ".join(service["healthcheck"]["test"])
    assert "ProxyHandler({})" in " ".join(service["healthcheck"]["test"])
    assert int(service["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS


def test_compose_mounts_and_fails_loudly(compose: dict[str, Any]) -> None:
    mounts = {mount["target"]: mount for mount in compose["services"]["facemargin"]["volumes"]}
    assert mounts["/data"] == {"type": "volume", "source": "store", "target": "/data"}
    assert "store" in compose["volumes"]
    for target, variable in (("/bundle", "FACEMARGIN_BUNDLE"), ("/models/yunet_n_dynamic.onnx", "FACEMARGIN_DETECTOR")):
        assert mounts[target]["read_only"] is True
        assert re.fullmatch(rf"\$\{{{variable}:\?.+\}}", mounts[target]["source"])
    assert compose["services"]["facemargin"]["environment"]["FACEMARGIN_DETECTOR"] in mounts


@pytest.mark.parametrize("name", ["Dockerfile", "docker-compose.yml"])
def test_no_default_secrets(name: str) -> None:
    assert SECRET.search((ROOT / name).read_text()) is None
