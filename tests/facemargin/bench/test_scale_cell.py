"""One engine at one size: every engine can be measured, and the figures are those of a slow, independent count."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import URL

from facemargin.bench.people_gallery import PeopleGallery
from facemargin.bench.scale_cell import Cell, load, measure, recall, search_once
from facemargin.bench.scale_subjects import SUBJECTS, Place, opened
from facemargin.index import Index, NumpyIndex, SearchResult, make_index

QUICK = {"queries": 6, "repeats": 2, "writes": 3, "seconds": 5.0}


@pytest.mark.parametrize("scheme", SUBJECTS)
def test_every_engine_can_be_measured(scheme: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    postgres = None
    if scheme == "pgvector":
        url: URL = request.getfixturevalue("postgres_url")
        postgres = url.render_as_string(hide_password=False)
    if scheme == "milvus":
        pytest.importorskip("milvus_lite")
    found = measure(Cell(f"{scheme}:", 300, 16, **QUICK, folder=str(tmp_path), postgres=postgres))
    assert found["recall"] > 0.95
    assert found["add"]["count"] == found["remove"]["count"] == 3
    assert [one["clients"] for one in found["searches"]] == [1, 2]
    for one in found["searches"]:
        assert one["searches"] == [6 * one["clients"]] * 2
        assert all(0 < p50 <= p99 for p50, p99 in zip(one["p50_ms"], one["p99_ms"], strict=True))
        assert min(one["per_second"]) > 0
    assert found["memory_bytes"] >= 0
    assert found["load_s"] > 0
    assert (found["disk_bytes"] > 300 * 2 * 16) == (scheme != "faiss")
    assert found["peak_bytes"] > 0
    assert found["growing_s"] + found["fixed_s"] < 60
    assert all(version != "?" for version in found["notes"].values())


def test_postgres_counts_the_work_of_its_server(postgres_url: URL, tmp_path: Path) -> None:
    place = Place(tmp_path, postgres_url.render_as_string(hide_password=False))
    with opened("pgvector:", place) as subject:
        assert not subject.remote
        assert len(subject.servers()) > 3  # the postmaster, its helpers, and a connection
        index = subject.engine.index("scale", 16)
        load(index, PeopleGallery(16, queries=2), 2000)
        before, start = subject.cpu_seconds(0.0), time.monotonic()
        while subject.cpu_seconds(0.0) < before + 0.05:  # ticks are of 10 ms
            search_once(index, PeopleGallery(16, queries=200).queries, 1.0)
            assert time.monotonic() < start + 30
        assert subject.notes["pgvector"] >= "0.8"
        assert subject.notes["synchronous_commit"] == "on"


class Forgetful(NumpyIndex):
    """Finds only what it was given last, and builds something when loading ends."""

    built = 0.0

    def search(self, queries: NDArray[np.float32], k: int) -> SearchResult:
        similarities, ids = super().search(queries, k)
        return SearchResult(similarities, np.where(ids % 2 == 0, ids, -1))

    def loading(self) -> Iterator[None]:
        from contextlib import contextmanager

        @contextmanager
        def block() -> Iterator[None]:
            yield
            time.sleep(0.1)
            self.built = 0.1

        return block()


def test_recall_is_the_share_of_the_best_that_is_found() -> None:
    gallery = PeopleGallery(16, queries=40)
    index = Forgetful(16)
    _, exact = load(index, gallery, 500)
    found = search_once(index, gallery.queries, 60.0)
    slow = [len(set(map(int, mine)) & set(map(int, best))) / 5 for mine, best in zip(found, exact.ids, strict=True)]
    assert recall(found, exact.ids) == pytest.approx(np.mean(slow), abs=1e-4)
    assert recall(found, exact.ids) == pytest.approx((exact.ids % 2 == 0).mean(), abs=1e-4)
    assert recall(exact.ids[:3], exact.ids) == 1.0


def test_the_exact_best_are_those_of_an_exact_index_and_loading_includes_what_is_built_at_its_end() -> None:
    gallery = PeopleGallery(16, queries=10)
    exact_index: Index = make_index("exact", 16)
    seconds, exact = load(exact_index, gallery, 500)
    np.testing.assert_array_equal(exact.ids, exact_index.search(gallery.queries, 5).ids)
    slow = Forgetful(16)
    assert load(slow, gallery, 500)[0] > seconds + 0.05
    assert slow.built


def test_time_limits_what_is_searched() -> None:
    gallery = PeopleGallery(16, queries=200)
    index = make_index("exact", 16)
    load(index, gallery, 100)
    assert len(search_once(index, gallery.queries, 0.0)) == 1
    assert len(search_once(index, gallery.queries, 60.0)) == 200
