"""The benchmark of heads and partitions: figures that mean what they say, and a page made of them."""

import json
from pathlib import Path

import pytest
import torch

from facemargin.errors import ConfigError
from facemargin.partitions import PARTITIONS
from training.bench.heads import main
from training.bench.report import Figures, write_report
from training.bench.steps import Cost, gradient_bias, make_batch, measure, new_head, peak_extra_mb


@pytest.mark.parametrize("partition", PARTITIONS)
def test_every_partition_can_be_measured(partition: str) -> None:
    cost = measure("arcface", partition, classes=40, dim=8, batch=6, repeats=2, bias=True)
    assert len(cost.loss_ms) == len(cost.step_ms or []) == 2
    assert min(cost.loss_ms) > 0
    assert (cost.bias is None) == PARTITIONS[partition].factorised
    if PARTITIONS[partition].exact:
        assert cost.bias == pytest.approx(0, abs=1e-5)


def test_the_bias_of_a_gradient_is_told_from_its_noise() -> None:
    head = new_head("am-softmax", "dense", 300, 8)
    x, y = make_batch(300, 8, 6)
    few = new_head("am-softmax", "sampled", 300, 8)
    few.partition.samples = 20
    assert gradient_bias(head, x, y) == pytest.approx((0, 1, 0), abs=1e-6)
    bias, cosine, noise = gradient_bias(few, x, y)
    assert noise > bias > noise / 20
    assert 0.8 < cosine < 1


def test_labels_are_within_range_and_skewed() -> None:
    _, labels = make_batch(1000, 2, 5000)
    assert int(labels.min()) == 0
    assert int(labels.max()) < 1000
    assert float((labels < 100).float().mean()) > 0.5


def test_peak_memory_sees_what_is_freed_again() -> None:
    measured = peak_extra_mb(lambda: torch.ones(20_000_000).sum().item() and None)
    if measured is None:
        pytest.skip("this system has no /proc/self/clear_refs")
    assert 70 < measured < 200


def record(partition: str, classes: int, loss_ms: float) -> dict[str, object]:
    known = partition in ("dense", "sampled")
    cost = Cost("am-softmax", partition, classes, 4, 2, [loss_ms, 2 * loss_ms, 9 * loss_ms], None, 12.0)
    return vars(cost) | ({"bias": 0.25, "cosine": 0.5, "noise": 1.0} if known else {})


def test_the_page_is_made_of_the_figures(tmp_path: Path) -> None:
    costs = {f"{p}-{c}": [record(p, c, c / 100)] for p in ("dense", "sampled", "peer") for c in (1000, 10_000)}
    machine = {"hardware": "a machine", "threads": 2, "torch": "2"}
    settings = {"dim": 4, "batch": 2, "repeats": 3, "heads": ["am-softmax"]}
    streaming = {
        "settings": {"classes": 5000, "dim": 4, "batch": 2, "threads": 2, "repeats": 1, "hardware": "a machine"},
        "seconds": {"three bare products": [2.0], "streaming": [3.0], "pytorch-metric-learning": [9.0]},
        "extra_memory_mb": 7.0,
        "has_bfloat16": False,
    }
    (tmp_path / "streaming.json").write_text(json.dumps(streaming), encoding="utf-8")
    settings_of = {"classes": 10_000_000, "dim": 4, "batch": 2, "samples": 9, "proposal": "uniform", "threads": 2}
    sampled = {
        "settings": settings_of | {"hardware": "a machine"},
        "seconds": [5.0, 1.0, 3.0, 2.0],
        "losses": [9.0, 8.0, 7.0, 6.0],
        "weight_gb": 1.5,
        "peak_gb": 2.5,
    }
    (tmp_path / "sampled.json").write_text(json.dumps(sampled), encoding="utf-8")
    found = {"settings": settings, "machine": machine, "costs": costs}
    write_report(found, tmp_path)
    page = (tmp_path / "heads.md").read_text(encoding="utf-8")
    assert "| `dense` | 20.0 (10.0–90.0); 12 MB | 200 (100–900); 12 MB |" in page
    assert "| am-softmax | sampled | 10,000 | 0.25 | 0.5000 | 1 |" in page
    assert "takes 1.50 times" in page
    assert "3.00 times as fast as pytorch-metric-learning" in page
    assert "Training with 10,000,000 classes" in page
    assert "| step, median after the first | 2.00 s (1.00–3.00) |" in page
    assert "| loss | 9.00 to 6.00 |" in page
    for picture in ("heads-time.png", "heads-memory.png"):
        assert picture in page
        assert (tmp_path / picture).stat().st_size > 10_000
    assert Figures(found).number("dense", "am-softmax", 1000, "loss_ms") == 20


def test_what_was_measured_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def fake(way: str, heads: list[str], classes: int, settings: object) -> list[dict[str, object]]:
        asked.append((way, classes))
        return [record(way, classes, 1.0)]

    monkeypatch.setattr("training.bench.heads._in_own_process", fake)
    options = {"output": tmp_path, "heads": "am-softmax", "partitions": "dense,nce", "dim": 4, "batch": 2, "repeats": 1}
    main(classes="10", again=False, one=None, **options)
    main(classes="10,20", again=False, one=None, **options)
    assert asked == [("dense", 10), ("nce", 10), ("dense", 20), ("nce", 20)]
    with pytest.raises(ConfigError, match=r"other settings or another machine.*--again"):
        main(classes="10", again=False, one=None, **options | {"repeats": 2})
    assert len(json.loads((tmp_path / "heads.json").read_text(encoding="utf-8"))["costs"]) == 4
    main(classes="10", again=True, one=None, **options)
    assert len(asked) == 6
