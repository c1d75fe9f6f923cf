"""Figures are what happened, labels are bounded, and whoever may not read them does not."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from sqlalchemy.exc import OperationalError

from service.security import Scope, create_key
from service.store.keys import KeyLimits

ALIGNED = {"aligned": "true"}
Figures = Callable[..., float | None]


def figures_of(text: str) -> Figures:
    """Looks a sample up by its name and some of its labels; the sum of those that fit, None where none does."""
    samples = [sample for family in parse(text) for sample in family.samples]

    def look_up(name: str, **labels: str) -> float | None:
        fitting = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
        return sum(fitting) if fitting else None

    return look_up


@pytest.fixture
def figures(api: Any) -> Callable[[], Figures]:
    def read() -> Figures:
        answer = api.get("/metrics")
        assert answer.status_code == 200, answer.text
        return figures_of(answer.text)

    return read


def test_requests_are_counted_by_route_method_and_class_of_status(api: Any, figures: Any) -> None:
    person = api.person()
    for name in ("staff", "staff", "nobody"):
        api.get(f"/v1/collections/{name}/people/{person}")
    api.post("/v1/verify", content=b"{", headers={"Content-Type": "application/json"})
    now, one = figures(), "/v1/collections/{name}/people/{person_id}"
    assert now("facemargin_request_seconds_count", route=one, method="GET", status="2xx") == 2
    assert now("facemargin_request_seconds_count", route=one, method="GET", status="4xx") == 1
    assert now("facemargin_request_seconds_count", route="/v1/verify", status="4xx") == 1
    assert now("facemargin_request_seconds_bucket", route=one, status="2xx", le="+Inf") == 2
    assert 0 < now("facemargin_request_seconds_sum", route=one) < 10
    assert now("facemargin_requests_in_flight") == 1  # the one that asks
    assert now("facemargin_problems_total", type="not-found") == 1
    assert now("facemargin_problems_total", type="invalid-json") == 1


def test_decisions_give_the_match_rate(api: Any, figures: Any, crop: Any, vector: Any) -> None:
    person = api.person()
    images = [("image_a", crop(1)), ("image_b", crop(1))], [("image_a", crop(1)), ("image_b", crop(2))]
    for files in images:
        for threshold in ("-1", "1"):
            assert api.post("/v1/verify", files=files, data=ALIGNED | {"threshold": threshold}).status_code == 200
    api.enrol(person, vector(1))
    enrolled = ALIGNED | {"collection": "staff", "person": person, "threshold": "-1"}
    assert api.post("/v1/verify", files={"image_a": crop(1)}, data=enrolled).json()["match"] is True
    for number in (1, 2, 3):
        api.find(vector(number), threshold=0.9)
    now = figures()
    assert now("facemargin_decisions_total", kind="verify") == 4
    assert now("facemargin_decisions_total", kind="verify", outcome="match") >= 2
    assert now("facemargin_decisions_total", kind="verify-enrolled", outcome="match") == 1
    assert now("facemargin_decisions_total", kind="search", outcome="match") == 1
    assert now("facemargin_decisions_total", kind="search", outcome="no-match") == 2


def test_stages_and_batches_are_timed_where_the_work_is_done(api: Any, figures: Any, crop: Any, vector: Any) -> None:
    person = api.person()
    writes = 2  # the collection and the person
    api.enrol(person, vector(1))
    api.find(vector(1))
    assert api.post("/v1/embeddings", files=[("images", crop(n)) for n in range(3)], data=ALIGNED).status_code == 200
    now = figures()
    counts = {
        stage: now("facemargin_stage_seconds_count", stage=stage)
        for stage in ("wait", "decode", "detect", "embed", "commit")
    }
    assert counts == {"wait": 1, "decode": 3, "detect": None, "embed": 1, "commit": writes + 1}
    assert now("facemargin_stage_seconds_count", stage="search") == 2  # the enrolment looks for others
    assert now("facemargin_batch_crops_sum") == 3
    assert 1 <= now("facemargin_batch_crops_count") == now("facemargin_batch_seconds_count") <= 3
    assert now("facemargin_stage_seconds_sum", stage="embed") >= now("facemargin_batch_seconds_sum") / 3


def test_failed_detections_are_counted_by_kind(photo_api: Any, crop: Any) -> None:
    for _ in range(2):
        assert photo_api.post("/v1/verify", files={"image_a": crop(1), "image_b": crop(1)}).status_code == 422
    now = figures_of(photo_api.get("/metrics").text)
    assert now("facemargin_problems_total", type="no-face") == 2
    assert now("facemargin_stage_seconds_count", stage="detect") == 2
    assert now("facemargin_check_ok", check="detector") == 1


def test_the_state_is_what_is_there(make_api: Any, vector: Any) -> None:
    api = make_api(snapshot_faces=1, snapshot_seconds=3600)
    for name, collection in (("Ada", "staff"), ("Bob", "staff"), ("Eve", "guests")):
        api.enrol(api.person(name, collection), vector(len(name + collection)), collection)
    now = figures_of(api.get("/metrics").text)
    assert [now(f"facemargin_{what}") for what in ("collections", "people", "faces", "index_vectors")] == [2, 3, 3, 3]
    assert now("facemargin_snapshots_due") == 2
    assert now("facemargin_snapshot_age_seconds") is None
    assert now("facemargin_model_info", model=api.model, default="true") == 1
    assert now("facemargin_build_info") == 1
    assert now("facemargin_admitted_requests") == now("facemargin_waiting_crops") == now("facemargin_wait_seconds") == 0
    assert now("process_resident_memory_bytes") > 1e6
    assert now("facemargin_store_free_bytes") > 1e6
    assert now("facemargin_housekeeping_age_seconds") < 60
    for number in api.service.gallery.unsaved(1):
        assert api.service.gallery.save(api.service.store, number)
    now = figures_of(api.get("/metrics").text)
    assert now("facemargin_snapshots_due") == 0
    assert 0 <= now("facemargin_snapshot_age_seconds") < 60


def test_jobs_that_fail_and_requests_that_are_refused(make_api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api = make_api(housekeeping_seconds=30, requests_per_minute=6)
    monkeypatch.setitem(api.service.housekeeping._jobs, "dropping old replies", lambda: 1 // 0)
    for _ in range(2):
        api.service.housekeeping.round()
    with api.service.store.write() as session:
        key = create_key(session, label="", scopes=[Scope.READ, Scope.METRICS], limits=KeyLimits(requests_per_minute=6))
        other = create_key(session, label="", scopes=[Scope.METRICS])
    for _ in range(5):
        last = api.get("/v1/collections", headers={"X-API-Key": key})
    assert last.status_code == 429
    now = figures_of(api.get("/metrics", headers={"X-API-Key": other}).text)
    failed = now("facemargin_housekeeping_failures_total", job="dropping old replies")
    assert 2 <= failed == api.service.housekeeping.failed["dropping old replies"]  # by its own thread perhaps once more
    assert now("facemargin_housekeeping_failures_total") == failed
    assert now("facemargin_problems_total", type="rate-limited") >= 1


def test_hostile_paths_and_methods_make_no_new_labels(api: Any, figures: Any) -> None:
    figures()
    before = set(api.get("/metrics").text.split("\n# HELP facemargin_requests")[0].splitlines())
    for number in range(300):
        api.get(f"/v1/{number}?name=Ada")
        api.get(f"/v1/collections/ada-{number}")
        api.request(f"METHOD{number}", f"/v1/collections/ada-{number}/people/p_{number}")
    text = api.get("/metrics").text
    assert "ada-" not in text
    assert "METHOD" not in text
    routes = {s.labels["route"] for f in parse(text) for s in f.samples if "route" in s.labels}
    assert routes == {"/metrics", "unknown", "/v1/collections/{name}", "/v1/collections/{name}/people/{person_id}"}
    assert len(text.splitlines()) < len(before) + 200
    assert figures_of(text)("facemargin_request_seconds_count", route="unknown") == 300


def test_figures_are_given_while_the_store_does_not_answer(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: Any) -> None:
        raise OperationalError("SELECT secret", {}, Exception("database is locked"))

    monkeypatch.setattr("service.gauges.totals", locked)
    monkeypatch.setattr(api.service.store, "check", locked)
    now = figures_of(api.get("/metrics").text)
    assert now("facemargin_people") is None
    assert now("facemargin_check_ok", check="store") == 0
    assert now("facemargin_check_ok", check="index") == 1


def test_prometheus_chooses_its_format(api: Any) -> None:
    plain = api.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    modern = api.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert modern.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in parse_openmetrics(modern.text)}
    assert {"facemargin_request_seconds", "facemargin_model", "facemargin_problems"} <= names


def test_only_keys_for_it_and_for_all_collections_read_the_figures(api: Any, problem: Any) -> None:
    with api.service.store.write() as session:
        keys = {scope: create_key(session, label="", scopes=[scope]) for scope in Scope}
        limited = create_key(session, label="", scopes=[Scope.ADMIN], limits=KeyLimits(collections=("staff",)))
    problem(api.get("/metrics"), "unauthenticated", 401)
    for scope, key in keys.items():
        status = api.get("/metrics", headers={"X-API-Key": key}).status_code
        assert status == (200 if scope in (Scope.METRICS, Scope.ADMIN) else 403), scope
    problem(api.get("/metrics", headers={"X-API-Key": limited}), "forbidden", 403)


def test_two_services_in_one_process_count_apart(make_api: Any, tmp_path: Any) -> None:
    one, other = make_api(), make_api(store=tmp_path / "other")
    one.get("/v1/models")
    for api, count in ((one, 1), (other, None)):
        assert figures_of(api.get("/metrics").text)("facemargin_request_seconds_count", route="/v1/models") == count


def test_counting_costs_a_request_little(api: Any) -> None:
    """Measured 2026 on two shared cores: see docs/observability.md; here only that it is not milliseconds."""
    metrics, times = api.service.metrics, 2000
    started = time.perf_counter()
    for _ in range(times):
        metrics.request("/v1/verify", "POST", 200, 0.01, None)
        metrics.stage("decode", 0.001)
    assert (time.perf_counter() - started) / times < 5e-4
