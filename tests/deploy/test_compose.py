"""The compose file's profiles, secrets, hardening and mounts; there is no Docker engine here to run it with."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import URL

from facemargin.index.engines import ENGINES
from service.server import GRACE_SECONDS
from service.settings import Settings
from service.store.location import parse_location

from .compose import NEEDED, ROOT, MissingVariableError, interpolated, read, started

TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = read()
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ["facemargin", "replica-1", "replica-2", "facemargin-milvus"]
SCALE = {"replica-1", "replica-2", "postgres", "proxy"}
MILVUS = {"facemargin-milvus", "milvus", "etcd", "minio"}
OBSERVABILITY = {"prometheus", "grafana"}
SECRET_NAME = re.compile(r"(?i)password|secret|token|api_?key|access_key$")
COMMAND = re.compile(r"docker compose((?: --profile [a-z]+)*) (up -d|run --rm|down|build)((?: [a-z0-9-]+)*)")


def test_without_a_profile_there_is_one_service() -> None:
    assert started(SERVICES, []) == {"facemargin"}
    assert SERVICES["facemargin"]["environment"] == {"FACEMARGIN_DETECTOR": "/models/yunet_n_dynamic.onnx"}
    assert "secrets" not in SERVICES["facemargin"]


@pytest.mark.parametrize(
    ("profiles", "targets", "expected"),
    [
        (["scale"], ["proxy"], SCALE),
        (["milvus"], ["facemargin-milvus"], MILVUS),
        (["observability"], ["prometheus", "grafana"], OBSERVABILITY),
        (["observability"], [], OBSERVABILITY | {"facemargin"}),
        (["scale", "observability"], ["proxy", "prometheus", "grafana"], SCALE | OBSERVABILITY),
        (["milvus", "observability"], ["facemargin-milvus", "grafana"], MILVUS | OBSERVABILITY),
    ],
)
def test_a_named_service_brings_what_it_needs_and_nothing_else(
    profiles: list[str], targets: list[str], expected: set[str]
) -> None:
    assert started(SERVICES, profiles, targets) == expected
    assert started(SERVICES, [], targets or list(expected)) == expected


def test_no_two_services_want_the_same_port_of_this_machine_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)
    places = [port.split(":")[1] for port in published]
    assert len(set(places)) == len(places) == 5
    private = {"replica-1", "replica-2", "postgres", "milvus", "etcd", "minio"}
    assert not any("ports" in SERVICES[name] for name in private)


@pytest.mark.parametrize("variable", NEEDED)
def test_what_every_service_needs_is_asked_for(variable: str) -> None:
    raw = yaml.safe_load(TEXT)
    with pytest.raises(MissingVariableError, match=f"{variable}: set it to "):
        interpolated(raw, {name: value for name, value in NEEDED.items() if name != variable})
    demanded = set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    assert demanded == NEEDED.keys()
    for name in SERVICES.keys() - set(OURS):
        interpolated(raw["services"][name], {})


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_come_from_files_of_the_services_that_use_them(name: str) -> None:
    service = SERVICES[name]
    used = set(re.findall(r"/run/secrets/(\w+)", yaml.safe_dump(service) + _config_of(name)))
    assert used == set(service.get("secrets", ()))
    assert used <= COMPOSE["secrets"].keys()
    for variable, value in service.get("environment", {}).items():
        if SECRET_NAME.search(variable):
            assert value.startswith("/run/secrets/") or variable == "MINIO_ACCESS_KEY_ID", variable


def _config_of(name: str) -> str:
    sources = (mount["source"] for mount in SERVICES[name].get("volumes", ()))
    return "".join((ROOT / source).read_text() for source in sources if source.endswith("prometheus.yml"))


@pytest.mark.parametrize(
    ("name", "part", "program"), [("milvus", "command", "milvus"), ("grafana", "entrypoint", "run.sh")]
)
@pytest.mark.parametrize(("content", "begins"), [("s3cret\n", True), ("\n", False), ("", False)])
def test_an_empty_secret_does_not_become_a_programs_own_default(
    tmp_path: Path, name: str, part: str, program: str, content: str, begins: bool
) -> None:
    stand_in = tmp_path / program
    stand_in.write_text('#!/bin/sh\necho "begun $1"\n')
    stand_in.chmod(0o755)
    for secret in SERVICES[name]["secrets"]:
        (tmp_path / secret).write_text(content)
    shell, options, script = SERVICES[name][part]
    script = script.replace("/run/secrets/", f"{tmp_path}/").replace("/run.sh", str(tmp_path / "run.sh"))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([shell, options, script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0, "begun" in done.stdout) == (begins, begins), done.stderr
    assert begins or re.search(rf"{tmp_path}/\w+_password is empty", done.stderr)


def test_every_secret_is_a_file_that_is_not_delivered() -> None:
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} == {
        f"./secrets/{name}" for name in COMPOSE["secrets"]
    }
    elsewhere = read(FACEMARGIN_SECRETS="/safe")["secrets"]["postgres_password"]
    assert elsewhere == {"file": "/safe/postgres_password"}
    assert set(COMPOSE["secrets"]) == {name for service in SERVICES.values() for name in service.get("secrets", ())}


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_closed(name: str) -> None:
    service = SERVICES[name]
    writes_elsewhere = {"milvus", "minio"}
    assert service["read_only"] is (name not in writes_elsewhere)
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["restart"] == "unless-stopped"
    assert service["pids_limit"] > 0
    assert service["healthcheck"]["test"][0] == "CMD"
    assert not {"privileged", "network_mode", "pid", "ipc", "devices"} & service.keys()


@pytest.mark.parametrize("name", sorted(set(SERVICES) - set(OURS)))
def test_images_of_others_are_pinned(name: str) -> None:
    assert re.search(r":(?=[^/]*\d+\.\d+\.\d+|RELEASE\.\d)[^/]+$", SERVICES[name]["image"])


@pytest.mark.parametrize("name", OURS)
def test_services_have_what_they_serve_with_and_time_to_finish(name: str) -> None:
    service = SERVICES[name]
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    assert mounts["/bundle"]["source"] == NEEDED["FACEMARGIN_BUNDLE"]
    assert service["environment"]["FACEMARGIN_DETECTOR"] in mounts
    assert int(service["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS
    assert service["env_file"] == [{"path": "facemargin.env", "required": False}]
    assert ("/data" in mounts) is not ("postgresql" in service["environment"].get("FACEMARGIN_STORE", ""))


def test_settings_given_to_services_exist() -> None:
    known = {f"FACEMARGIN_{name.upper()}" for name in Settings.model_fields}
    tokens = {"FACEMARGIN_MILVUS_TOKEN_FILE", "PGPASSWORD_FILE"}
    given = {variable for name in OURS for variable in SERVICES[name]["environment"]}
    assert given - known == tokens
    entrypoint = (ROOT / "deploy" / "entrypoint.sh").read_text()
    assert all(name.removesuffix("_FILE") in entrypoint for name in tokens)


def test_search_engines_and_stores_that_are_named_exist() -> None:
    environments = {name: SERVICES[name]["environment"] for name in OURS}
    urls = {name: env["FACEMARGIN_INDEX"] for name, env in environments.items() if "FACEMARGIN_INDEX" in env}
    assert {name: url.partition(":")[0] for name, url in urls.items()} == {
        "replica-1": "pgvector",
        "replica-2": "pgvector",
        "facemargin-milvus": "milvus",
    }
    assert {url.partition(":")[0] for url in urls.values()} <= ENGINES.keys()
    store = parse_location(environments["replica-1"]["FACEMARGIN_STORE"])
    assert isinstance(store, URL)
    assert (store.host, store.username, store.database, store.password) == (
        "postgres",
        "facemargin",
        "facemargin",
        None,
    )


def test_replicas_are_alike_and_the_proxy_knows_them() -> None:
    assert SERVICES["replica-1"] == SERVICES["replica-2"]
    named = {key: value for key, value in SERVICES["proxy"]["environment"].items() if "REPLICA" in key}
    assert named == {"FACEMARGIN_REPLICA_1": "replica-1:8000", "FACEMARGIN_REPLICA_2": "replica-2:8000"}
    config = (ROOT / "deploy" / "haproxy.cfg").read_text()
    assert all(f'"${{{name}}}"' in config for name in named)


def test_databases_are_reached_by_their_services_only() -> None:
    inside = {name: set(service.get("networks", ["default"])) for name, service in SERVICES.items()}
    members = {network: {name for name, nets in inside.items() if network in nets} for network in COMPOSE["networks"]}
    assert members["database"] == {"postgres", "replica-1", "replica-2"}
    assert members["vectors"] == {"milvus", "facemargin-milvus"}
    assert members["milvus-parts"] == {"milvus", "etcd", "minio"}
    assert members["default"].isdisjoint({"postgres", "milvus", "etcd", "minio"})
    assert all(COMPOSE["networks"][name] == {"internal": True} for name in members.keys() - {"default"})


@pytest.mark.parametrize("targets", ["single", "scale", "milvus"])
def test_every_mount_is_there(targets: str) -> None:
    services = read(FACEMARGIN_TARGETS=targets)["services"]
    mounts = [mount for service in services.values() for mount in service["volumes"]]
    for mount in mounts:
        if mount["type"] == "volume":
            assert mount["source"] in COMPOSE["volumes"]
        else:
            assert (mount["read_only"], mount["bind"]) == (True, {"create_host_path": False})
            assert mount["source"] in NEEDED.values() or (ROOT / mount["source"]).exists(), mount["source"]
    assert {mount["source"] for mount in mounts if mount["type"] == "volume"} == set(COMPOSE["volumes"])


@pytest.mark.parametrize("page", ["docker-compose.yml", "docs/deployment.md", "docs/service.md", "docs/encryption.md"])
def test_commands_in_the_docs_name_services_and_profiles_that_exist(page: str) -> None:
    for profiles, verb, words in COMMAND.findall((ROOT / page).read_text()):
        names = [word for word in words.split() if not word.startswith("-")]
        known = {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
        active = profiles.replace("--profile", "").split()
        assert set(active) <= known
        if verb == "up -d":
            assert started(SERVICES, active, names)
        elif names:
            assert names[0] in SERVICES


def test_the_override_for_encryption_fits(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    (snippet,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "docker-compose.override.yml").write_text(snippet)
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    assert subprocess.run([*check, str(tmp_path / "docker-compose.override.yml")], check=False).returncode == 0
    override = interpolated(yaml.safe_load(snippet), {})
    assert set(override["services"]) == set(OURS)
    assert set(override["secrets"]).isdisjoint(COMPOSE["secrets"])
    for service in override["services"].values():
        assert service["environment"] == {"FACEMARGIN_MASTER_KEY_FILE": f"/run/secrets/{service['secrets'][0]}"}


def test_the_page_names_every_profile_secret_and_port() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
    ports = re.findall(r"127\.0\.0\.1:\$\{(\w+):-(\d+)\}", TEXT)
    assert all(f"| `{name}` |" in page for name in {*profiles, *COMPOSE["secrets"]})
    assert all(f"`{variable}`" in page and number in page for variable, number in ports)


def test_docker_compose_takes_the_file(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed (its schema is checked all the same)")
    command = [docker, "compose", "--file", str(ROOT / "docker-compose.yml"), "--profile", "*", "config", "--quiet"]
    done = subprocess.run(command, env=NEEDED | {"HOME": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
