"""What a run came to, for people and for programs."""

from collections.abc import Iterator
from typing import Any

from training.bulk.job import Job
from training.bulk.output import ERRORS, Manifest
from training.bulk.run import Run


def summary(job: Job, run: Run, manifest: Manifest | None) -> dict[str, Any]:
    """Counts and rates, ready for JSON; the network alone is timed here, where something was embedded.

    Args:
        job: what was to be done.
        run: what this process did.
        manifest: of the whole; None while parts are missing.
    """
    report: dict[str, Any] = {
        "output": str(job.output.folder),
        "complete": manifest is not None,
        "rank": job.rank.number,
        "world_size": job.rank.of,
        "before": run.before,
        "pictures": run.pictures,
        "faces": run.faces,
        "failed": dict(sorted(run.failed.items())),
        "seconds": round(run.seconds, 3),
    }
    if manifest is None:
        report["missing_parts"] = job.output.missing()
    else:
        report["total"] = manifest.model_dump(include={"pictures", "faces", "failed"}) | {"parts": len(manifest.parts)}
    if run.faces:
        report["rate"] = _rate(job, run)
    return report


def _rate(job: Job, run: Run) -> dict[str, float]:
    raw = job.raw_rate(run)
    return {
        "pictures_per_second": round(run.pictures / run.seconds, 1),
        "faces_per_second": round(run.faces_per_second, 1),
        "network_alone_per_second": round(raw, 1),
        "ratio": round(run.faces_per_second / raw, 4),
        "network_share_of_time": round(run.network_share, 4),
        "threads": job.threads,
        "batch": job.output.plan.options.batch,
    }


def summary_lines(report: dict[str, Any]) -> Iterator[str]:
    """The same for a terminal."""
    counts = "".join(f", {count:,} {status.replace('_', ' ')}" for status, count in report["failed"].items())
    before = f"; {report['before']:,} pictures were done before" if report["before"] else ""
    yield f"{report['pictures']:,} pictures in {report['seconds']:,.1f} s: {report['faces']:,} faces{counts}{before}"
    if rate := report.get("rate"):
        yield (
            f"{rate['faces_per_second']:,.0f} faces a second; the network alone "
            f"{rate['network_alone_per_second']:,.0f} ({rate['threads']} at a time, batch {rate['batch']}); "
            f"ratio {rate['ratio']:.2f}; {rate['network_share_of_time']:.0%} of the time was the network's, the rest "
            "reading's"
        )
    if total := report.get("total"):
        failed = sum(total["failed"].values())
        listed = f"; {failed:,} pictures gave none ({ERRORS})" if failed else ""
        yield f"{report['output']} is complete: {total['faces']:,} faces of {total['pictures']:,} pictures{listed}"
    else:
        yield f"rank {report['rank']} is done; parts of other ranks that are missing: {report['missing_parts']:,}"
