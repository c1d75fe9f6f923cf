"""Readiness, the model, latency and the service's own figures in the browser."""

import re
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest


def test_readiness_and_the_model_card(console: Any, open_page: Any) -> None:
    model = console.client.get("/v1/models").json()["models"][0]
    page = open_page(console.url, "#/status")
    page.get_by_role("heading", name="The service is ready").wait_for()
    assert "missing: only aligned crops" in page.locator("#status-ready").inner_text()
    page.get_by_role("heading", name=model["name"]).wait_for()
    shown = page.locator("#status-model")
    assert model["card"] in shown.inner_text()
    rows = shown.get_by_role("table", name=f"Thresholds of {model['name']}").locator("tbody tr")
    assert rows.count() == len(model["calibration"]["thresholds"])
    first = model["calibration"]["thresholds"][0]
    assert rows.first.locator("td").first.inner_text() == f"{first['threshold']:.4f}"


def test_a_service_that_is_not_ready_says_why(console: Any, open_page: Any) -> None:
    page = open_page(console.url)
    checks = [
        {"name": "store", "ok": False, "detail": "the disk is full"},
        {"name": "model", "ok": True, "detail": None},
    ]
    problem = {"type": "urn:facemargin:problem:store-unavailable", "status": 503, "detail": "not now", "checks": checks}
    page.route("**/health/ready", lambda route: route.fulfill(status=503, json=problem))
    page.get_by_role("link", name="Status").click()
    page.get_by_role("heading", name="The service is not ready").wait_for()
    said = page.locator("#status-ready").inner_text()
    assert "not now" in said
    assert re.search(r"store\s+does not work: the disk is full\s+model\s+works", said)


def test_round_trips_are_measured(console: Any, open_page: Any) -> None:
    page = open_page(console.url, "#/status")
    page.get_by_role("button", name="Measure 40 requests").click()
    said = page.locator("#status-latency p", has_text="40 requests").inner_text()
    half, most, slowest = (float(value) for value in re.findall(r"([\d.]+) ms", said))
    assert 0 < half <= most <= slowest < 5000
    row = page.get_by_role("row", name="GET /health/live")
    assert row.locator("td").first.inner_text() == "40"


@pytest.fixture
def published() -> str:
    """What prometheus-client writes for 100 requests: 90 took 15 ms, 10 took 3 s."""
    registry = CollectorRegistry()
    histogram = Histogram(
        "made_up_request_seconds", "Time.", ["route", "odd"], registry=registry, buckets=(0.01, 0.02, 1.0)
    )
    for seconds in [0.015] * 90 + [3.0] * 10:
        histogram.labels(route="/v1/verify", odd='a "b" \\ {c}, d').observe(seconds)
    return generate_latest(registry).decode()


def test_figures_of_the_service(console: Any, open_page: Any, published: str) -> None:
    page = open_page(console.url)
    page.route("**/metrics", lambda route: route.fulfill(status=200, body=published, content_type="text/plain"))
    page.get_by_role("link", name="Status").click()
    row = page.locator("#status-metrics tbody tr")
    row.wait_for()
    name, *cells = row.locator("th, td").all_inner_texts()
    assert name == 'made_up_request a "b" \\ {c}, d /v1/verify'
    # rank 50 of 90 in a bucket from 10 to 20 ms: 10 + 10 * 50 / 90; rank 95 lies beyond the last bound
    assert cells == ["100", "15.6 ms", "beyond the last bucket"]


@pytest.mark.parametrize(
    ("status", "detail", "place"),
    [
        (404, "there is no such path", "This service publishes no figures at /metrics."),
        (403, "this key does not have the scope 'metrics'", "this key does not have the scope 'metrics'"),
    ],
)
def test_a_service_that_shows_no_figures(console: Any, open_page: Any, status: int, detail: str, place: str) -> None:
    page = open_page(console.url)
    page.route("**/metrics", lambda route: route.fulfill(status=status, json={"detail": detail, "status": status}))
    page.get_by_role("link", name="Status").click()
    page.locator("#status-metrics", has_text=place).wait_for()
