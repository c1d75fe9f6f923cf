"""The Kubernetes examples fit the service: probes, time to finish, settings, secrets, labels."""

from typing import Any

import pytest
import yaml
from sqlalchemy import URL

from service.server import GRACE_SECONDS
from service.settings import Settings, read_settings
from service.store.location import parse_location

from .compose import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
PARTS: dict[str, Any] = {
    part["kind"]: part
    for file in FOLDER.glob("*.yaml")
    for part in yaml.safe_load_all(file.read_text())
    if part is not None
}
DEPLOYMENT = PARTS["Deployment"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
(SERVING,) = POD["containers"]
BACKUP_POD = PARTS["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
SETTINGS = dict(
    line.split("=", 1) for line in (FOLDER / "settings.env").read_text().splitlines() if not line.startswith("#")
)
PODS = pytest.mark.parametrize("pod", [POD, BACKUP_POD], ids=["serving", "backup"])


def test_the_small_set_is_complete() -> None:
    assert set(PARTS) == {
        "Kustomization",
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "CronJob",
    }
    listed = PARTS["Kustomization"]["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(file.name for file in FOLDER.glob("*.yaml"))
    assert DEPLOYMENT["replicas"] >= 3


def test_probes_ask_the_right_question_of_a_name_that_is_always_answered() -> None:
    paths = {name: SERVING[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {
        "startupProbe": "/health/ready",
        "readinessProbe": "/health/ready",
        "livenessProbe": "/health/live",  # a database that is away is no reason to restart
    }
    for name in paths:
        assert SERVING[name]["httpGet"]["httpHeaders"] == [{"name": "Host", "value": "localhost"}]
        assert SERVING[name]["httpGet"]["port"] == SERVING["ports"][0]["name"] == "http"


def test_a_replica_that_ends_has_the_time_that_the_service_takes() -> None:
    pause = int(SERVING["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] >= pause + GRACE_SECONDS + 5
    assert DEPLOYMENT["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert PARTS["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


@PODS
def test_pods_are_closed(pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"USER {pod['securityContext']['runAsUser']}:" in (ROOT / "Dockerfile").read_text()
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    assert "cpu" not in container["resources"]["limits"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@PODS
def test_secrets_are_referred_to_and_never_written_down(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    (password,) = container["env"]
    assert password == {
        "name": "PGPASSWORD",
        "valueFrom": {"secretKeyRef": {"name": "facemargin", "key": "postgres-password"}},
    }
    assert container["envFrom"] == [{"configMapRef": {"name": "facemargin"}}]
    assert "Secret" not in PARTS
    assert not any(word in name for name in SETTINGS for word in ("PASSWORD", "TOKEN"))
    assert ":" not in SETTINGS["FACEMARGIN_STORE"].split("@")[0].removeprefix("postgresql:")


def test_settings_exist_and_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SETTINGS.keys() <= {f"FACEMARGIN_{name.upper()}" for name in Settings.model_fields}
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(bundle=ROOT)
    assert settings.log_format == "json"
    (secret,) = [volume["secret"] for volume in POD["volumes"] if "secret" in volume]
    (mount,) = [mount for mount in SERVING["volumeMounts"] if mount["name"] == "secrets"]
    assert str(settings.master_key_file) == f"{mount['mountPath']}/{secret['items'][0]['path']}"


def test_labels_agree() -> None:
    labels = {"app.kubernetes.io/name": "facemargin"}
    assert DEPLOYMENT["selector"]["matchLabels"] == DEPLOYMENT["template"]["metadata"]["labels"] == labels
    assert PARTS["Service"]["spec"]["selector"] == labels
    assert PARTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    (spread,) = POD["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    backup = PARTS["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    (who,) = PARTS["NetworkPolicy"]["spec"]["podSelector"]["matchExpressions"]
    assert set(who["values"]) == {"facemargin", backup["app.kubernetes.io/name"]}
    assert backup != labels  # it must not get the Service's requests
    assert PARTS["Service"]["spec"]["ports"][0]["targetPort"] == "http"


def test_only_the_services_own_traffic_passes() -> None:
    policy = PARTS["NetworkPolicy"]["spec"]
    store = parse_location(SETTINGS["FACEMARGIN_STORE"])
    assert isinstance(store, URL)
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (entry,) = policy["ingress"]
    assert entry["ports"] == [{"port": "http"}]
    assert [*entry["from"][0]] == ["namespaceSelector"]
    names, database = policy["egress"]
    assert [(port["port"], port["protocol"]) for port in names["ports"]] == [(53, "UDP"), (53, "TCP")]
    assert database["ports"] == [{"port": store.port}]
    assert database["to"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": store.host}}}]


def test_the_port_is_that_of_the_image() -> None:
    (port,) = SERVING["ports"]
    assert f"\nEXPOSE {port['containerPort']}\n" in (ROOT / "Dockerfile").read_text()


def test_both_pods_run_the_image_that_kustomize_names() -> None:
    (image,) = PARTS["Kustomization"]["images"]
    assert {SERVING["image"], BACKUP_POD["containers"][0]["image"]} == {image["name"]}
