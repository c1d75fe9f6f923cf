"""The Dockerfile says what it must, and the default service; there is no Docker engine here to build them with.

Profiles, secrets and what stands beside the service: tests/deploy.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.server import GRACE_SECONDS

ROOT = Path(__file__).parents[2]
SECRET = re.compile(
    r"(?i)(api_?key|password|secret|token)[ \t]*[:=][ \t]*(?!\$\$\(cat /run/secrets/\w+\)$)\S", re.MULTILINE
)


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
    assert 'pip install --constraint constraints.txt ".[${EXTRAS}]" ' in installs[0]
    assert "find_spec('torch') is None" in installs[0]


def test_extras_of_the_images_exist_and_none_is_for_training(
    instructions: list[tuple[str, str]], compose: dict[str, Any]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [rest.removeprefix("EXTRAS=") for word, rest in instructions if word == "ARG"]
    builds = [service["build"] for service in compose["services"].values() if "build" in service]
    asked += [build["args"]["EXTRAS"] for build in builds if "args" in build]
    assert len(asked) == 2
    for extras in asked:
        assert {"serve", "postgres"} <= set(extras.split(",")) <= project["optional-dependencies"].keys() - {"train"}


def test_dockerfile_runs_as_nobody_special_with_a_health_check_and_a_volume(
    instructions: list[tuple[str, str]],
) -> None:
    words = dict(instructions)
    assert re.fullmatch(r"(\d{5}):\1", words["USER"])  # a number: Kubernetes cannot tell that a name is not root's
    assert any(f"--uid {words['USER'].split(':')[0]}" in rest for word, rest in instructions if word == "RUN")
    assert words["VOLUME"] == "/data"
    assert "/health/ready" in words["HEALTHCHECK"]
    assert "ProxyHandler({})" in words["HEALTHCHECK"]
    assert words["ENTRYPOINT"] == '["facemargin-entrypoint"]'
    assert ("COPY", "--chmod=0755 deploy/entrypoint.sh /usr/local/bin/facemargin-entrypoint") in instructions
    assert '"--host", "0.0.0.0"' in words["CMD"]
    order = [word for word, _ in instructions]
    assert order.index("USER") > max(number for number, word in enumerate(order) if word == "RUN")


def test_everything_copied_is_sent_to_the_builder(instructions: list[tuple[str, str]]) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [rest.split()[:-1] for word, rest in instructions if word == "COPY" and "--from" not in rest]
    copied = {name for names in sources for name in names if not name.startswith("--")}
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
