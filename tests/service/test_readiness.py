"""Ready means that each part works: broken one by one, each is named, and asking often costs no inference."""

import os
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from facemargin.errors import BundleError
from facemargin.preprocessing import Detector
from service import readiness


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(api: Any) -> Clock:
    """The clock of the readiness of `api`."""
    made = Clock()
    ready = api.service.readiness
    ready._clock, ready._since, ready._until = made, made.now, made.now
    return made


def failing(api: Any, problem: Any) -> dict[str, str]:
    """The checks that fail, and why."""
    body = problem(api.get("/health/ready"), "not-ready", 503)
    found = {check["name"]: check["detail"] for check in body["checks"] if not check["ok"]}
    assert body["detail"] == "; ".join(found.values())
    return found


def test_all_checks_are_named(photo_api: Any) -> None:
    checks = photo_api.get("/health/ready").json()["checks"]
    wanted = ["store", "index", "disk", "housekeeping", f"model {photo_api.model}", "detector"]
    assert [check["name"] for check in checks] == wanted
    assert all(check["ok"] and check["detail"] is None for check in checks)


def test_the_drawing_is_found_by_the_detector(photo_api: Any) -> None:
    detector: Detector = photo_api.service.engine.detector
    assert len(detector.detect(readiness.drawing((240, 320)))) == 1  # so that the check sees more than an empty list


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        (lambda first: -first, "another than at the start (cosine -1.0000)"),
        (lambda first: first * np.float32(1.01), "another than at the start (cosine 1.0100)"),
        (lambda first: first * np.float32("nan"), "cosine nan"),
    ],
    ids=["opposite", "too long", "not a number"],
)
def test_a_model_that_embeds_otherwise_than_at_the_start(
    api: Any, clock: Clock, problem: Any, monkeypatch: pytest.MonkeyPatch, vector: Any, words: str
) -> None:
    embedder = api.service.models.default.embedder
    inner = embedder.embed
    monkeypatch.setattr(embedder, "embed", lambda crops: np.stack([vector(row) for row in inner(crops)]))
    assert words in failing(api, problem)[f"model {api.model}"]
    monkeypatch.undo()
    assert api.get("/health/ready").status_code == 503  # remembered
    clock.now += 6
    assert api.get("/health/ready").status_code == 200


@pytest.mark.parametrize("error", [BundleError("/secret/model.onnx is bad"), RuntimeError("/secret"), MemoryError()])
def test_a_model_that_fails(
    api: Any, clock: Clock, problem: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(_: Any) -> None:
        raise error

    monkeypatch.setattr(api.service.models.default.embedder, "embed", broken)
    assert failing(api, problem) == {f"model {api.model}": "it fails; the log says how"}


def test_each_model_is_checked(make_api: Any, make_tiny_bundle: Any, problem: Any) -> None:
    second = make_tiny_bundle(seed=5)
    api = make_api(more_bundles=[second.path])
    api.service.readiness._until = 0
    api.service.models[second.model_id].embedder._model = None
    assert failing(api, problem) == {f"model {second.model_id}": "it fails; the log says how"}


def test_a_detector_that_finds_nothing_any_more(photo_api: Any, problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    photo_api.service.readiness._until = 0
    monkeypatch.setattr(photo_api.service.engine.detector, "detect", lambda _: [])
    assert failing(photo_api, problem) == {"detector": "it finds other faces than at the start"}


def test_a_disk_without_room(make_api: Any, problem: Any) -> None:
    api = make_api(min_free_bytes=2**60)
    assert "less than 1,152,921,504,606,846,976 bytes left" in failing(api, problem)["disk"]


def test_a_disk_that_cannot_be_written_to(api: Any, problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimpleNamespace(f_flag=os.ST_RDONLY, f_bavail=2**40, f_frsize=4096)
    monkeypatch.setattr(readiness.os, "statvfs", lambda _: disk)
    assert failing(api, problem) == {"disk": "the store's disk cannot be written to"}


def test_a_store_folder_that_is_gone(api: Any, problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.service.store, "folder", api.service.store.folder / "gone")
    assert failing(api, problem) == {"disk": "the store's folder is gone"}


def test_a_store_that_takes_no_writes(api: Any, problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.service.store, "probe", lambda: None)  # else the housekeeping would find that it does
    api.service.store.outage = "the disk is full"
    assert failing(api, problem)["store"] == "the database takes no writes: the disk is full"


def test_an_index_apart_from_the_store(api: Any, problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.service.gallery, "repair", lambda _: None)  # else the housekeeping would mend it
    api.service.gallery.stale.add(1)
    assert "being rebuilt" in failing(api, problem)["index"]


def test_a_housekeeping_that_has_ended(api: Any, problem: Any) -> None:
    api.service.housekeeping.stop()
    assert failing(api, problem) == {"housekeeping": "it is not running"}


def test_many_probes_run_the_model_once(api: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder, runs = api.service.models.default.embedder, list[int]()
    inner = embedder.embed
    monkeypatch.setattr(embedder, "embed", lambda crops: (runs.append(1), inner(crops))[1])
    for _ in range(20):
        assert api.get("/health/ready").status_code == 200
    assert len(runs) == 1
    clock.now += 6
    api.get("/metrics")
    api.get("/health/ready")
    assert len(runs) == 2


def test_a_model_that_hangs_holds_up_one_probe_only(
    api: Any, clock: Clock, problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder, go, begun = api.service.models.default.embedder, threading.Event(), threading.Event()
    inner = embedder.embed
    monkeypatch.setattr(embedder, "embed", lambda crops: (begun.set(), go.wait(20), inner(crops))[2])
    first = threading.Thread(target=api.service.readiness.checks)
    first.start()
    assert begun.wait(10)
    assert api.get("/health/ready").status_code == 200  # as found before
    clock.now += 11
    assert failing(api, problem) == {f"model {api.model}": "the check has not ended for 11 s"}
    go.set()
    first.join()
    assert api.get("/health/ready").status_code == 200


def test_liveness_asks_nobody(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.service.readiness, "checks", lambda: 1 // 0)
    assert api.get("/health/live").json() == {"status": "live"}
