"""The service under load, beside the network alone: ``python -m service.bench.load``, or ``make bench-service``.

For each bundle, in every repetition one after the other: ONNX Runtime on ready arrays, the service with its batches,
and the service with batches of one, the latter two with 16 clients that each send an aligned crop as soon as they have
the answer to the last. A busy machine slows all three, so ratios are of figures of one repetition. Then requests at
random moments at a quarter to five times the capacity found, whatever the answers do, until enough are accepted for a
p99 or `MOST_SECONDS` are over. All four bundles take under nine minutes on two cores. Client, service and the network
share the cores of the machine.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from facemargin.bundle import MODEL_NAME, library_versions
from facemargin.onnx_model import available_cores
from service.bench.client import Form, Measurement, closed_loop, embedding_request, open_loop
from service.bench.page import write_page
from service.bench.process import Served, serving
from service.bench.raw import best_way, images_per_second
from service.bench.verdicts import ENOUGH

CLIENTS = 16
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0)
"""Offered load in the open loop, as shares of the capacity."""

MOST_SECONDS = 20.0
"""Of one load in the open loop; a slow network has fewer requests then, and the page says how many."""

BUNDLES = ("iresnet18", "iresnet18-int8", "mobilefacenet", "mobilefacenet-int8")

_log = Console(stderr=True)


def measure_bundle(
    bundle: Path, crops: Sequence[bytes], *, form: Form, seconds: float, repetitions: int, max_wait_ms: int
) -> dict[str, Any]:
    """Everything about one bundle, as JSON values.

    Args:
        bundle: the model.
        crops: aligned crops as files.
        form: how requests carry them.
        seconds: of each measurement.
        repetitions: of the comparison.
        max_wait_ms: the service's stated limit.
    """
    way = best_way(bundle / MODEL_NAME, seconds=seconds / 10)
    with ExitStack() as stack:
        batched = stack.enter_context(serving(bundle, max_wait_ms=max_wait_ms))
        unbatched = stack.enter_context(serving(bundle, max_wait_ms=max_wait_ms, max_batch=1))
        for server in (batched, unbatched):
            _closed(server, crops, form, seconds / 4)  # caches and the estimate of the wait
        rows: list[dict[str, Any]] = []
        for number in range(repetitions):
            raw = images_per_second(bundle / MODEL_NAME, way, seconds=seconds)
            kinds = [("batched", batched), ("unbatched", unbatched)][:: 1 if number % 2 else -1]  # neither always first
            rows.append({"raw": raw} | {kind: _closed(server, crops, form, seconds) for kind, server in kinds})
            _log.print(f"{bundle.name}: raw {raw:.0f}/s, service {rows[-1]['batched']['per_second']:.0f}/s")
        capacity = statistics.median(row["batched"]["per_second"] for row in rows)
        load = [_open(batched, crops, form, seconds, factor, capacity) for factor in FACTORS]
    return {"bundle": bundle.name, "way": asdict(way), "repetitions": rows, "capacity": capacity, "load": load}


def _closed(server: Served, crops: Sequence[bytes], form: Form, seconds: float) -> dict[str, Any]:
    used = server.processor_seconds()
    found = closed_loop(_requests(server, crops, form), port=server.port, clients=CLIENTS, seconds=seconds)
    return _figures(found) | {"server_seconds": server.processor_seconds() - used}


def _open(
    server: Served, crops: Sequence[bytes], form: Form, seconds: float, factor: float, capacity: float
) -> dict[str, Any]:
    used, rate = server.processor_seconds(), factor * capacity
    seconds = max(seconds, min(MOST_SECONDS, ENOUGH / min(rate, capacity)))
    found = open_loop(_requests(server, crops, form), port=server.port, per_second=rate, seconds=seconds, seed=0)
    figures = _figures(found) | {"server_seconds": server.processor_seconds() - used}
    return {"factor": factor, "offered_per_second": rate} | figures


def _requests(server: Served, crops: Sequence[bytes], form: Form) -> list[bytes]:
    return [embedding_request(crop, port=server.port, form=form) for crop in crops]


def _figures(found: Measurement) -> dict[str, Any]:
    return {
        "per_second": found.accepted_per_second,
        "refused": found.refused,
        "accepted": len(found.latencies),
        "failed": sum(count for status, count in found.statuses.items() if status not in (200, 429)),
        "latency_ms": {name: 1000 * found.latency(share) for name, share in _SHARES.items()},
        "wall_seconds": found.wall_seconds,
        "client_seconds": found.client_seconds,
    }


_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    cores = available_cores()
    return {"processor": names[0] if names else platform.machine(), "cores": cores, "versions": library_versions()}


def main(
    output: Annotated[Path, typer.Option(help="Folder of service.json, service.md and service.svg.")] = Path(
        "docs/benchmarks"
    ),
    bundles: Annotated[
        Path | None, typer.Option(help="Folder that training.bench.service_bundles wrote; by default it is written.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Measure only these bundles. Repeatable.")] = None,
    form: Annotated[str, typer.Option(help="How requests carry the crop: multipart or json.")] = "multipart",
    seconds: Annotated[float, typer.Option(min=0.2, help="Of each measurement.")] = 4.0,
    repetitions: Annotated[int, typer.Option(min=1, help="Of the comparison.")] = 3,
    max_wait_ms: Annotated[int, typer.Option(min=1, help="The service's stated limit.")] = 1000,
) -> None:
    """Measure the service under load and write the figures, the page and the picture."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = bundles or _written(Path(scratch))
        crops = [path.read_bytes() for path in sorted((folder / "crops").iterdir())]
        settings = {"form": form, "seconds": seconds, "repetitions": repetitions, "max_wait_ms": max_wait_ms}
        found = [measure_bundle(folder / name, crops, **settings) for name in only or BUNDLES]  # type: ignore[arg-type]
    named = bundles.name if bundles is not None else None  # the whole path says more of the machine than is asked
    conditions = {"only": only or [], "bundles": named, "clients": CLIENTS, "most_seconds": MOST_SECONDS}
    output.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "settings": settings | conditions, "bundles": found}
    (output / "service.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_page(content, output)


def _written(folder: Path) -> Path:
    """Made in a process of its own: the service knows nothing of training."""
    environment = os.environ | {"OMP_NUM_THREADS": str(available_cores())}
    subprocess.run([sys.executable, "-m", "training.bench.service_bundles", str(folder)], check=True, env=environment)
    return folder


if __name__ == "__main__":
    typer.run(main)
