"""The page and the picture of the benchmark of the service, from the stored figures alone."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from service.bench.verdicts import ENOUGH, SHARES, verdicts

_OPTIONS = ("form", "seconds", "repetitions", "max_wait_ms")
_COLOURS = {"p50": "#2a8c5a", "p95": "#1f5fa8", "p99": "#c8501e"}


def write_page(found: dict[str, Any], folder: Path) -> None:
    """Write ``service.md`` and ``service.svg``."""
    (folder / "service.md").write_text(_page(found), encoding="utf-8")
    _draw(found, folder / "service.svg")


def _page(found: dict[str, Any]) -> str:
    machine, settings = found["machine"], found["settings"]
    versions = machine["versions"]
    conditions = (
        f"Networks at 112x112 with random weights, aligned crops as JPEG, {settings['clients']} clients, "
        f"{settings['repetitions']} repetitions of {settings['seconds']:g} s: median (lowest–highest). Points of the "
        f"second table are single measurements of {settings['seconds']:g} to {settings['most_seconds']:g} s."
    )
    hardware = (
        f"{machine['processor']}, {machine['cores']} cores, onnxruntime {versions['onnxruntime']}, "
        f"Python {versions['python']}"
    )
    return f"""# The service under load

Written by `{_command(settings)}` (`make bench-service`) from `service.json`. {hardware}. Client, service and network
share these cores. {conditions} How it works: [serving-speed.md](../serving-speed.md).

## Beside the network alone

*Raw* is ONNX Runtime on ready arrays in the fastest way that was found, in the same run. *Share* is of figures of one
repetition.

| bundle | raw, images/s | fastest raw way | service, images/s | share | target | batches of one, images/s |
|---|---|---|---|---|---|---|
{_lines(found, _rate_row)}

Latency in ms; processor time of service and client in ms a request.

| bundle | p50 | p95 | p99 | p99, batches of one | service CPU | client CPU |
|---|---|---|---|---|---|---|
{_lines(found, _latency_row)}

## Against load

![latency and refusals against offered load](service.svg)

Requests at random moments; latency from the moment at which a request was due, accepted requests only. The stated limit
of the wait is {settings["max_wait_ms"]} ms; beyond it requests are refused with 429. *Failed* is every other
answer, and connections that were cut off. A point lasts until about {ENOUGH} requests are accepted, but no longer than
is said above; where there are fewer, p99 is little more than the slowest.

| bundle | of capacity | offered/s | accepted/s | accepted | failed | p50, ms | p95, ms | p99, ms | refused |
|---|---|---|---|---|---|---|---|---|---|
{_lines(found, _load_rows)}

## Against the targets

{_verdicts(found)}
"""


def _command(settings: dict[str, Any]) -> str:
    options = [f"--bundles {settings['bundles']}"] if settings["bundles"] else []
    options += [f"--only {name}" for name in settings["only"]]
    options += [f"--{name.replace('_', '-')} {settings[name]}" for name in _OPTIONS]
    return " ".join(("python -m service.bench.load", *options))


def _lines(found: dict[str, Any], row: Callable[[dict[str, Any]], str]) -> str:
    return "\n".join(row(bundle) for bundle in found["bundles"])


def _spread(values: list[float], form: str = ",.0f") -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def _rate_row(bundle: dict[str, Any]) -> str:
    rows, way = bundle["repetitions"], bundle["way"]
    raw, batched = [row["raw"] for row in rows], [row["batched"]["per_second"] for row in rows]
    share = [service / network for service, network in zip(batched, raw, strict=True)]
    target = SHARES.get(bundle["bundle"])
    cells = [
        bundle["bundle"],
        _spread(raw),
        f"{way['calls']} at a time, {way['threads']} thread(s), batch {way['batch']}",
        _spread(batched),
        _spread(share, ".0%"),
        f"{target:.0%}" if target else "",
        _spread([row["unbatched"]["per_second"] for row in rows]),
    ]
    return f"| {' | '.join(cells)} |"


def _latency_row(bundle: dict[str, Any]) -> str:
    rows = bundle["repetitions"]
    latencies = [_spread([row["batched"]["latency_ms"][name] for row in rows]) for name in _COLOURS]
    unbatched = _spread([row["unbatched"]["latency_ms"]["p99"] for row in rows])
    costs = [_spread([_per_request(row["batched"], name) for row in rows], ".2f") for name in ("server", "client")]
    return f"| {' | '.join([bundle['bundle'], *latencies, unbatched, *costs])} |"


def _per_request(figures: dict[str, Any], whose: str) -> float:
    """Processor milliseconds of the server or the client for one answer."""
    return float(1000 * figures[f"{whose}_seconds"] / (figures["per_second"] * figures["wall_seconds"]))


def _load_rows(bundle: dict[str, Any]) -> str:
    return "\n".join(
        f"| {bundle['bundle']} | {row['factor']:g} | {row['offered_per_second']:,.0f} | {row['per_second']:,.0f} | "
        f"{row['accepted']:,} | {row['failed']} | "
        + " | ".join(f"{row['latency_ms'][name]:,.0f}" for name in _COLOURS)
        + f" | {row['refused']:.0%} |"
        for row in bundle["load"]
    )


def _verdicts(found: dict[str, Any]) -> str:
    failed = sum(row["failed"] for bundle in found["bundles"] for row in _measurements(bundle))
    lines = [
        *verdicts(found),
        f"failed requests in all measurements: {failed}" + (", MISSED: none wanted" if failed else ""),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _measurements(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    return [*bundle["load"], *(row[kind] for row in bundle["repetitions"] for kind in ("batched", "unbatched"))]


def _draw(found: dict[str, Any], path: Path) -> None:
    bundles = found["bundles"]
    figure = Figure(figsize=(4.2 * len(bundles), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, bundle in zip(figure.subplots(1, len(bundles), squeeze=False)[0], bundles, strict=True):
        offered = [row["factor"] for row in bundle["load"]]
        for name, colour in _COLOURS.items():
            axes.plot(offered, [row["latency_ms"][name] for row in bundle["load"]], "o-", color=colour, label=name)
        axes.axhline(2 * found["settings"]["max_wait_ms"], color="#8a8f98", linestyle="--", label="2 x the limit")
        axes.set(xscale="log", yscale="log", xlabel="offered load / capacity", ylabel="latency of accepted, ms")
        axes.set_xticks(offered, [f"{factor:g}" for factor in offered], minor=False)
        axes.minorticks_off()
        shed = axes.twinx()
        shed.bar(offered, [row["refused"] for row in bundle["load"]], width=[0.15 * x for x in offered], alpha=0.2)
        shed.set(ylim=(0, 1), ylabel="share refused (bars)")
        axes.set_title(f"{bundle['bundle']}, {bundle['capacity']:,.0f}/s")
        axes.legend(loc="upper left", fontsize="small")
    figure.savefig(path, metadata={"Date": None})
