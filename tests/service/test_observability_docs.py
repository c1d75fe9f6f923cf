"""The dashboard, the alerts and the page speak of figures that exist, by the labels that they have."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from service.request_log import UNKNOWN

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "observability.md").read_text()
DASHBOARD = json.loads((DOCS / "observability" / "dashboard.json").read_text())
ALERTS = yaml.safe_load((DOCS / "observability" / "alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
QUERIES += [rule["expr"] for rule in RULES]
NAME = re.compile(r"\b(?:facemargin|process)_[a-z_]+")
SELECTED = re.compile(r"\b(facemargin_[a-z_]+)\{([^}]*)\}")


@pytest.fixture(scope="module")
def samples(shared_api: Any) -> dict[str, set[str]]:
    """Names of the labels of every sample that a service gives once it has done something of everything."""
    shared_api.enrol(shared_api.person(), np.ones(32))
    shared_api.find(np.ones(32))
    shared_api.get("/nowhere")
    shared_api.service.metrics.batch(1, 0.1)
    for number in shared_api.service.gallery.unsaved(1):
        shared_api.service.gallery.save(shared_api.service.store, number)
    text = shared_api.get("/metrics").text
    found: dict[str, set[str]] = {}
    for family in parse(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def labels_of(query: str) -> Iterator[tuple[str, str]]:
    for name, inner in SELECTED.findall(query):
        yield from ((name, label) for label in re.findall(r"(\w+)\s*[!=]~?=?", inner))


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_uses_figures_and_labels_that_exist(samples: dict[str, set[str]], query: str) -> None:
    names = set(NAME.findall(query))
    assert names or query.startswith("up{")
    assert names <= samples.keys()
    for name, label in labels_of(query):
        assert label in samples[name], f"{name} has no label {label}"
    grouped = {label.strip() for part in re.findall(r"by \(([^)]*)\)", query) for label in part.split(",")}
    assert grouped <= set().union(*(samples[name] for name in names)) | {"instance"} if names else True


def test_the_page_names_every_figure_and_no_other(samples: dict[str, set[str]]) -> None:
    mine = {name for name in samples if name.startswith("facemargin_") and not name.endswith("_created")}
    given = {re.sub(r"_(bucket|count|sum)$", "", name) for name in mine}
    named = set(re.findall(r"`(facemargin_[a-z_]+)`", PAGE))
    assert named == given


def test_labels_are_never_somebodys(samples: dict[str, set[str]]) -> None:
    mine = {label for name, labels in samples.items() if name.startswith("facemargin_") for label in labels}
    bounded = {"route", "method", "status", "type", "stage", "kind", "outcome", "job", "check", "le"}
    assert mine == bounded | {"model", "default", "name", "version"}  # of what is loaded
    assert UNKNOWN in PAGE


def test_alerts_and_panels_are_complete() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 10
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["title"] and panel["targets"] for panel in DASHBOARD["panels"])
