from collections import Counter

import pytest

from tests.training.bulk.conftest import Asked, run
from training.bulk.job import Job
from training.bulk.run import Run
from training.bulk.summary import summary, summary_lines


def test_rates_are_of_this_run_beside_the_network_alone(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "raw_rate", lambda job, done: 50.0)
    job, _ = run(asked())
    done = Run(
        pictures=90, faces=80, failed=Counter(unreadable=4, no_face=6), before=10, seconds=2.0, reading_s=1, network_s=3
    )
    report = summary(job, done, job.output.finish())
    assert report["rate"] == {
        "pictures_per_second": 45.0, "faces_per_second": 40.0, "network_alone_per_second": 50.0, "ratio": 0.8,
        "network_share_of_time": 0.75, "threads": 2, "batch": 2,
    }  # fmt: skip
    assert report["total"] == {"pictures": 24, "faces": 24, "failed": {}, "parts": 5}
    assert list(summary_lines(report)) == [
        "90 pictures in 2.0 s: 80 faces, 6 no face, 4 unreadable; 10 pictures were done before",
        "40 faces a second; the network alone 50 (2 at a time, batch 2); ratio 0.80; 75% of the time was the "
        "network's, the rest reading's",
        f"{asked().output} is complete: 24 faces of 24 pictures",
    ]


def test_a_run_without_work_measures_nothing(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Job, "raw_rate")
    job, _ = run(asked(rank=1, world_size=2))
    report = summary(job, Run(before=10), None)
    assert (report["missing_parts"], report["complete"], "rate" in report) == (3, False, False)
    assert list(summary_lines(report))[1:] == ["rank 1 is done; parts of other ranks that are missing: 3"]


def test_failed_pictures_are_pointed_at(asked: Asked) -> None:
    job, _ = run(asked())
    manifest = job.output.finish()
    assert manifest is not None
    report = summary(job, Run(), manifest.model_copy(update={"failed": {"no_face": 2, "unreadable": 1}}))
    assert list(summary_lines(report))[-1].endswith("24 pictures; 3 pictures gave none (errors.jsonl)")
