"""Machines of a gallery that was not measured, from the growth of those that were. Nothing here measures."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from facemargin.bench.prices import Prices

HOURS_A_MONTH = 730.0
_PARALLEL = 1.3
"""Processor time over time by the clock, from which on a search counts as the work of several cores."""


@dataclass(frozen=True)
class Machine:
    """One machine for a shard of a gallery, or a copy of it.

    Attributes:
        vcpus: virtual processors.
        ram_gb: memory, 10^9 bytes.
        ram_share: of it that vectors and graph may take.
        cpu_share: of the processors that searches may take, so that queues stay short.
    """

    vcpus: int = 64
    ram_gb: float = 512.0
    ram_share: float = 0.8
    cpu_share: float = 0.6


@dataclass(frozen=True)
class Demand:
    """What is asked of a gallery.

    Attributes:
        faces: N.
        queries_per_second: searches, each of the whole gallery.
        replicas: copies of every shard at least, so that one may fail.
    """

    faces: float
    queries_per_second: float = 100.0
    replicas: int = 2


@dataclass(frozen=True)
class EngineLaw:
    """How an engine grows, from measured points.

    Attributes:
        engine: URL.
        measured: n₀, vectors of the largest measured point.
        bytes_each: that have to be in memory for each vector.
        disk_bytes_each: that lie on disk for each.
        cpu_s: processor seconds of one search at n₀.
        exponent: p of cpu_s·(n/n₀)^p, from the two largest points.
        cores_of_a_search: that work on one search at the measuring machine.
        load_core_s: processor seconds to load one vector, had all cores of the measuring machine been busy.
    """

    engine: str
    measured: int
    bytes_each: float
    disk_bytes_each: float
    cpu_s: float
    exponent: float
    cores_of_a_search: int
    load_core_s: float

    def search_cpu_s(self, vectors: float) -> float:
        """cpu_s · (n/n₀)^p, for n ≥ n₀."""
        return float(self.cpu_s * max(vectors / self.measured, 1.0) ** self.exponent)


@dataclass(frozen=True)
class Fleet:
    """What a gallery needs.

    Attributes:
        shards: parts of the gallery, each in the memory of one machine.
        copies: of each shard.
        beyond: how many times as many vectors a shard has as the largest measured gallery.
        search_ms: processor time of one search in one shard, divided by the cores that work on it: a lower bound of
            its latency, without network, merging and queues.
        cores: busy with searches, all machines together.
        usd_month: of machines and disks.
        load_core_hours: to load everything once into every copy.
    """

    shards: int
    copies: int
    beyond: float
    search_ms: float
    cores: float
    usd_month: float
    load_core_hours: float

    @property
    def machines(self) -> int:
        """shards · copies."""
        return self.shards * self.copies


def law_of(rows: Sequence[dict[str, Any]], cores: int) -> EngineLaw:
    """Read an engine's growth from its measured points.

    p = ln(t₁/t₀)/ln(n₁/n₀) of the two largest, between 0 and 1: one point alone counts as a scan, p = 1.

    Args:
        rows: cells of one engine and one dimension, by ascending ``count``.
        cores: of the measuring machine.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("rows are empty; an engine's growth needs at least one measured point")
    last = rows[-1]
    times = [_cpu_s(row) for row in rows]
    exponent = 1.0
    if len(rows) > 1:
        exponent = math.log(times[-1] / times[-2]) / math.log(last["count"] / rows[-2]["count"])
    disk = float(last["disk_bytes"] or 0)
    held = disk if last["engine"].startswith("pgvector") else float(last["memory_bytes"] or 0)
    alone = next(one for one in last["searches"] if one["clients"] == 1)
    parallel = statistics.median(alone["cpu_ms"]) > _PARALLEL * statistics.median(alone["p50_ms"])
    return EngineLaw(
        engine=last["engine"],
        measured=last["count"],
        bytes_each=held / last["count"],
        disk_bytes_each=disk / last["count"],
        cpu_s=times[-1],
        exponent=min(max(exponent, 0.0), 1.0),
        cores_of_a_search=cores if parallel and last["engine"].startswith("faiss") else 1,
        load_core_s=cores * last["load_s"] / last["count"],
    )


def fleet(law: EngineLaw, demand: Demand, machine: Machine, prices: Prices) -> Fleet:
    """Machines for a gallery.

    - shards S = ⌈N·bytes / (RAM·share)⌉, each with n = N/S vectors
    - cores of a shard = queries/s · search_cpu(n) / share; copies R = max(replicas, ⌈cores of a shard / vCPUs⌉)
    - USD a month = S·R·(vCPUs·price + RAM·price)·730 + R·N·disk bytes·price
    - load, core hours = R·N·core seconds of one vector / 3,600; a graph takes more than that as it grows
    """
    shards = max(1, math.ceil(demand.faces * law.bytes_each / (machine.ram_gb * 1e9 * machine.ram_share)))
    vectors = demand.faces / shards
    one = law.search_cpu_s(vectors)
    wanted = demand.queries_per_second * one / machine.cpu_share
    copies = max(demand.replicas, math.ceil(wanted / machine.vcpus))
    hourly = machine.vcpus * prices.vcpu_hour + machine.ram_gb * prices.ram_gb_hour
    disk = copies * demand.faces * law.disk_bytes_each / 1e9 * prices.disk_gb_month
    threads = machine.vcpus if law.cores_of_a_search > 1 else 1
    return Fleet(
        shards=shards,
        copies=copies,
        beyond=vectors / law.measured,
        search_ms=1e3 * one / threads,
        cores=demand.queries_per_second * one * shards,
        usd_month=shards * copies * hourly * HOURS_A_MONTH + disk,
        load_core_hours=copies * demand.faces * law.load_core_s / 3600,
    )


def _cpu_s(row: dict[str, Any]) -> float:
    searches = next(one for one in row["searches"] if one["clients"] == 2)
    return max(float(statistics.median(searches["cpu_ms"])), 1e-3) / 1e3
