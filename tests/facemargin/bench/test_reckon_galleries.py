"""Fleets, against sums done by hand."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemargin.bench.prices import Prices
from facemargin.bench.reckon_galleries import Demand, EngineLaw, Machine, fleet, law_of

MACHINE = Machine(vcpus=10, ram_gb=100.0, ram_share=0.8, cpu_share=0.5)
PRICES = Prices(vcpu_hour=0.1, ram_gb_hour=0.01, disk_gb_month=1.0)
SCAN = EngineLaw(
    engine="faiss:segmented",
    measured=1_000_000,
    bytes_each=2000.0,
    disk_bytes_each=0.0,
    cpu_s=0.05,
    exponent=1.0,
    cores_of_a_search=2,
    load_core_s=3.6e-5,
)


def row(engine: str, count: int, cpu_ms: float, p50_ms: float = 1.0, **changes: Any) -> dict[str, Any]:
    searches = [{"clients": n, "cpu_ms": [cpu_ms, cpu_ms, 9e9], "p50_ms": [p50_ms]} for n in (1, 2)]
    found = {"engine": engine, "count": count, "memory_bytes": 7 * count, "disk_bytes": 11 * count, "load_s": 3.0}
    return found | {"searches": searches} | changes


def test_a_fleet_by_hand() -> None:
    # 100 million × 2,000 bytes = 200 GB, 80 GB a machine: 3 shards of 33.3 million, 1.667 CPU seconds a search each;
    # 12 searches a second / 0.5 = 40 cores: 4 machines of 10 for each shard
    found = fleet(SCAN, Demand(1e8, 12.0), MACHINE, PRICES)
    assert (found.shards, found.copies, found.machines) == (3, 4, 12)
    assert found.beyond == pytest.approx(33.333, abs=0.001)
    assert found.search_ms == pytest.approx(1666.67 / 10, abs=0.01)  # ten cores on one search
    assert found.cores == pytest.approx(60.0)  # 12 · 0.05 · 100: the whole gallery's scan
    assert found.usd_month == pytest.approx(12 * 2.0 * 730)
    assert found.load_core_hours == pytest.approx(4.0)


def test_a_small_gallery_still_has_its_copies_and_a_graph_one_core_a_search() -> None:
    graph = EngineLaw("pgvector:", 1_000_000, 2000.0, 5000.0, 0.004, 0.2, 1, 0.0)
    found = fleet(graph, Demand(1000.0, 1.0, replicas=3), MACHINE, PRICES)
    assert (found.shards, found.copies) == (1, 3)
    assert found.search_ms == pytest.approx(4.0)  # never less than measured
    assert found.usd_month == pytest.approx(3 * 2.0 * 730 + 3 * 1000 * 5000 / 1e9)
    assert graph.search_cpu_s(32e6) == pytest.approx(0.008)  # 32^0.2 = 2


@given(st.floats(1e3, 1e10), st.floats(0.1, 1e4), st.floats(0, 1))
def test_a_fleet_holds_the_gallery_and_its_searches(faces: float, queries: float, exponent: float) -> None:
    law = EngineLaw("faiss:x", 1_000_000, 2000.0, 0.0, 0.05, exponent, 2, 1e-5)
    found = fleet(law, Demand(faces, queries), MACHINE, PRICES)
    assert found.shards * 80e9 >= faces * 2000.0 * (1 - 1e-9)
    assert found.machines * MACHINE.vcpus * MACHINE.cpu_share >= found.cores * (1 - 1e-9)
    assert found.copies >= 2
    more = fleet(law, Demand(2 * faces, queries), MACHINE, PRICES)
    assert more.shards >= found.shards
    assert more.cores >= found.cores * (1 - 1e-9)


def test_a_law_is_read_from_the_largest_points() -> None:
    rows = [row("faiss:flat", 10, 500.0), row("faiss:flat", 1000, 2.0), row("faiss:flat", 100_000, 20.0)]
    law = law_of(rows, cores=2)
    assert law.measured == 100_000
    assert law.cpu_s == pytest.approx(0.02)
    assert law.exponent == pytest.approx(0.5)
    assert (law.bytes_each, law.disk_bytes_each) == (7, 11)
    assert law.load_core_s == pytest.approx(2 * 3.0 / 100_000)


def test_a_database_needs_its_files_in_memory_and_a_parallel_scan_is_told_from_a_serial_one() -> None:
    assert law_of([row("pgvector:", 10, 4.0)], cores=2).bytes_each == 11
    assert law_of([row("pgvector:", 10, 4.0)], cores=2).cores_of_a_search == 1
    assert law_of([row("faiss:segmented", 10, 4.0, 2.1)], cores=2).cores_of_a_search == 2
    assert law_of([row("faiss:flat", 10, 4.0, 3.9)], cores=2).cores_of_a_search == 1


def test_a_law_is_careful_with_few_points() -> None:
    assert law_of([row("faiss:flat", 10, 4.0)], cores=2).exponent == 1.0
    assert law_of([row("faiss:flat", 10, 4.0), row("faiss:flat", 20, 3.0)], cores=2).exponent == 0.0
    assert law_of([row("faiss:flat", 10, 4.0), row("faiss:flat", 20, 99.0)], cores=2).exponent == 1.0
    assert math.isfinite(law_of([row("faiss:flat", 10, 0.0), row("faiss:flat", 20, 0.0)], cores=2).cpu_s)
    with pytest.raises(ValueError, match="rows are empty"):
        law_of([], cores=2)
