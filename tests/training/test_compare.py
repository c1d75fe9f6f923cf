"""A comparison trains and tests every head, skips what is done, and writes table, JSON, CSV and picture."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from facemargin.bundle import load_bundle
from facemargin.errors import CheckpointError, ConfigError
from training.compare import compare
from training.config import TrainConfig

QUIET = Console(quiet=True)
FOLDS, PEOPLE, IMAGES = 3, 24, 4


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Aligned crops of 24 drawn people as LFW lays them out, and a pairs file of three folds of eight people each."""
    root = tmp_path_factory.mktemp("protocol")
    random = np.random.default_rng(7)
    names = [f"Person_{number:02}" for number in range(PEOPLE)]
    for name in names:
        (root / "images" / name).mkdir(parents=True)
        base = cv2.resize(random.integers(0, 256, (4, 4, 3), dtype=np.uint8), (112, 112)).astype(float)
        for number in range(1, IMAGES + 1):
            noisy = np.clip(base + random.normal(0, 20, base.shape), 0, 255).astype(np.uint8)
            assert cv2.imwrite(str(root / "images" / name / f"{name}_{number:04}.png"), noisy)
    lines = [f"{FOLDS}\t8"]
    for fold in range(FOLDS):
        members = names[fold * 8 : fold * 8 + 8]
        lines += [f"{name}\t1\t2" for name in members]
        lines += [f"{a}\t1\t{b}\t3" for a, b in zip(members, members[1:] + members[:1], strict=True)]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "images", root / "pairs.txt"


@pytest.fixture
def recipe(tiny_config: Callable[..., TrainConfig], protocol: tuple[Path, Path]) -> TrainConfig:
    images, pairs = protocol
    part: dict[str, Any] = {"images": images, "pairs": pairs}
    return tiny_config(epochs=1, validation=part | {"folds": "1"}, test=part | {"folds": "2-3", "flip_sum": True})


def test_a_comparison_writes_its_results_and_skips_what_is_done(recipe: TrainConfig) -> None:
    results = compare(recipe, ["softmax", "am-softmax"], [0], console=QUIET)
    assert [(result.head, result.seed) for result in results] == [("softmax", 0), ("am-softmax", 0)]
    rows = json.loads((recipe.output / "results.json").read_text(encoding="utf-8"))
    assert [row["head"] for row in rows] == ["softmax", "am-softmax"]
    assert rows[0]["test"]["protocol"] == "all, folds 2-3"
    assert rows[0]["test"]["genuine_pairs"] == 16
    with (recipe.output / "results.csv").open(encoding="utf-8") as file:
        assert [row["head"] for row in csv.DictReader(file)] == ["softmax", "am-softmax"]
    assert (recipe.output / "results.md").read_text(encoding="utf-8").count("\n") == 4
    assert (recipe.output / "roc.png").stat().st_size > 10_000
    manifest = load_bundle(recipe.output / "softmax-seed0" / "bundle").manifest
    assert manifest.flip_sum
    assert manifest.calibration is not None
    assert manifest.calibration.people == 8
    assert {metric.name for metric in manifest.metrics} >= {"accuracy", "eer"}

    before = (recipe.output / "softmax-seed0" / "loss.csv").stat().st_mtime_ns
    again = compare(recipe, ["softmax", "am-softmax"], [0], console=QUIET)
    assert [result.test.accuracy for result in again] == [result.test.accuracy for result in results]
    assert (recipe.output / "softmax-seed0" / "loss.csv").stat().st_mtime_ns == before

    with pytest.raises(CheckpointError, match="other settings of: epochs"):
        compare(recipe.model_copy(update={"epochs": 2}), ["softmax"], [0], console=QUIET)


def test_partitions_and_seeds_are_compared_with_the_first(recipe: TrainConfig) -> None:
    results = compare(recipe, ["am-softmax"], [0, 1], partitions=["dense", "sampled"], console=QUIET)
    assert [(r.partition, r.seed) for r in results] == [("dense", 0), ("dense", 1), ("sampled", 0), ("sampled", 1)]
    assert (recipe.output / "am-softmax-seed1" / "result.json").exists()
    assert (recipe.output / "am-softmax-sampled-seed1" / "result.json").exists()
    manifest = load_bundle(recipe.output / "am-softmax-sampled-seed0" / "bundle").manifest
    assert manifest.head["partition"]["name"] == "sampled"
    assert "class_counts" not in manifest.head["partition"]
    rows = (recipe.output / "seeds.md").read_text(encoding="utf-8").splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| am-softmax, dense", "| am-softmax, sampled"]


def test_what_cannot_be_compared_is_refused(recipe: TrainConfig, tiny_config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(ConfigError, match="unknown heads: cosface; known heads: softmax"):
        compare(recipe, ["cosface"], [0], console=QUIET)
    with pytest.raises(ConfigError, match="unknown partitions: sparse; known partitions: dense"):
        compare(recipe, ["softmax"], [0], partitions=["sparse"], console=QUIET)
    with pytest.raises(ConfigError, match=r"needs \[test\]"):
        compare(tiny_config(), ["softmax"], [0], console=QUIET)
    assert not recipe.output.exists()
