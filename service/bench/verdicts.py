"""What was aimed at, and whether the figures of the benchmark of the service meet it: a line for each."""

import statistics
from collections.abc import Iterator
from typing import Any

SHARES = {"iresnet18": 0.85, "mobilefacenet": 0.60}
"""Least share of the raw runtime's images per second, of the median repetition."""

ENOUGH = 300
"""Accepted requests from which a p99 is called one; with fewer it is little more than the slowest."""


def verdicts(found: dict[str, Any]) -> Iterator[str]:
    """Each target of each bundle, its figures, and "met" or "MISSED by" how much."""
    limit_ms = 2 * found["settings"]["max_wait_ms"]
    for bundle in found["bundles"]:
        name = bundle["bundle"]
        for line in (*_share(bundle), _rate(bundle), _latency(bundle), _overload(bundle, limit_ms)):
            yield f"{name}: {line}"


def _share(bundle: dict[str, Any]) -> Iterator[str]:
    target = SHARES.get(bundle["bundle"])
    if target is not None:
        share = statistics.median(row["batched"]["per_second"] / row["raw"] for row in bundle["repetitions"])
        told = f"{share:.0%} of the raw runtime's images a second, at least {target:.0%} wanted"
        yield f"{told}: {_outcome(target - share, f'{100 * (target - share):.1f} points')}"


def _rate(bundle: dict[str, Any]) -> str:
    batched, alone = ([row[kind]["per_second"] for row in bundle["repetitions"]] for kind in ("batched", "unbatched"))
    short = min(alone) - max(batched)
    told = f"{statistics.median(batched):,.0f} requests/s, with batches of one {statistics.median(alone):,.0f}"
    return f"{told}, never fewer wanted within the spread: {_outcome(short, f'{short:,.1f} requests/s')}"


def _latency(bundle: dict[str, Any]) -> str:
    batched, alone = (
        [row[kind]["latency_ms"]["p99"] for row in bundle["repetitions"]] for kind in ("batched", "unbatched")
    )
    over = min(batched) - max(alone)
    told = f"p99 {statistics.median(batched):,.0f} ms, with batches of one {statistics.median(alone):,.0f} ms"
    return f"{told}, never more wanted within the spread: {_outcome(over, f'{over:,.0f} ms')}"


def _overload(bundle: dict[str, Any], limit_ms: float) -> str:
    last = bundle["load"][-1]
    p99 = last["latency_ms"]["p99"]
    told = f"accepted p99 {p99:,.0f} ms at {last['factor']:g} times the capacity ({last['accepted']:,} requests)"
    few = f"; only {last['accepted']} requests" if last["accepted"] < ENOUGH else ""
    return f"{told}, at most {limit_ms:,} ms wanted: {_outcome(p99 - limit_ms, f'{p99 - limit_ms:,.0f} ms')}{few}"


def _outcome(missing: float, shown: str) -> str:
    return "met" if missing <= 0 else f"MISSED by {shown}"
