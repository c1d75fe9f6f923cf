"""Prometheus and Grafana of the compose file find the service, the rules and the dashboard of the docs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from .compose import ROOT, read

GRAFANA = {mount["target"]: mount["source"] for mount in read()["services"]["grafana"]["volumes"]}


def load(file: str | Path) -> Any:
    return yaml.safe_load((ROOT / file).read_text())


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("single", {"facemargin"}),
        ("scale", {"replica-1", "replica-2"}),
        ("milvus", {"facemargin-milvus"}),
    ],
)
def test_targets_are_the_services_of_a_profile(targets: str, expected: set[str]) -> None:
    (group,) = load(f"deploy/prometheus/targets/{targets}.yml")
    assert set(group["targets"]) == {f"{name}:8000" for name in expected}
    services = read()["services"]
    assert all("default" in services[name].get("networks", ["default"]) for name in expected)


def test_prometheus_reads_what_is_mounted() -> None:
    config = load("deploy/prometheus/prometheus.yml")
    mounted = {mount["target"]: mount["source"] for mount in read()["services"]["prometheus"]["volumes"]}
    (job,) = config["scrape_configs"]
    assert config["rule_files"] == ["/etc/prometheus/alerts.yml"]
    assert mounted["/etc/prometheus/alerts.yml"] == "./docs/observability/alerts.yml"
    assert job["file_sd_configs"] == [{"files": ["/etc/prometheus/targets.yml"]}]
    assert mounted["/etc/prometheus/targets.yml"] == "./deploy/prometheus/targets/single.yml"
    assert job["authorization"] == {"credentials_file": "/run/secrets/metrics_key"}


def test_the_job_has_the_name_and_interval_that_the_rules_and_the_example_speak_of() -> None:
    (job,) = load("deploy/prometheus/prometheus.yml")["scrape_configs"]
    (example,) = load("docs/observability/prometheus.yml")["scrape_configs"]
    same = ("job_name", "scrape_interval", "honor_labels")
    assert [job[key] for key in same] == [example[key] for key in same]
    rules = [rule["expr"] for group in load("docs/observability/alerts.yml")["groups"] for rule in group["rules"]]
    assert f'up{{job="{job["job_name"]}"}} == 0' in rules


def test_grafana_has_the_datasource_that_the_dashboard_asks_for() -> None:
    (source,) = load(GRAFANA["/etc/grafana/provisioning/datasources/facemargin.yml"])["datasources"]
    assert (source["url"], source["isDefault"]) == ("http://prometheus:9090", True)
    dashboard = json.loads((ROOT / GRAFANA["/etc/grafana/dashboards/facemargin.json"]).read_text())
    (choice,) = [item for item in dashboard["templating"]["list"] if item["type"] == "datasource"]
    assert choice["query"] == source["type"] == "prometheus"
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {f"${{{choice['name']}}}"}


def test_panels_tell_replicas_apart_or_put_them_together() -> None:
    dashboard = json.loads((ROOT / "docs" / "observability" / "dashboard.json").read_text())
    shown = [target for panel in dashboard["panels"] for target in panel["targets"]]
    for target in shown:
        together = re.match(r"(sum|max|histogram_quantile)\(|sum by", target["expr"])
        named = re.search(r"\{\{(instance|model)\}\}", target["legendFormat"])
        assert together or named, target["expr"]
    totals = {"people", "faces", "collections", "index_vectors"}  # of the store: every replica gives the same
    assert {f"max(facemargin_{name})" for name in totals} <= {target["expr"] for target in shown}


def test_grafana_looks_where_the_dashboard_is() -> None:
    (provider,) = load(GRAFANA["/etc/grafana/provisioning/dashboards/facemargin.yml"])["providers"]
    assert f"{provider['options']['path']}/facemargin.json" in GRAFANA
    home = read()["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in GRAFANA
