"""How flags, config files and saved runs become one config; and the commands end to end on drawn people."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facemargin.errors import ConfigError
from training.cli.options import resolve_config
from training.config import TrainConfig
from training.mnist import write_idx


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "facemargin", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


@pytest.fixture
def saved(tiny_config: Callable[..., TrainConfig]) -> TrainConfig:
    config = tiny_config()
    config.output.mkdir()
    (config.output / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
    return config


def test_resume_takes_the_saved_config_and_lays_flags_over_it(saved: TrainConfig) -> None:
    assert resolve_config(None, True, output=saved.output) == saved
    changed = resolve_config(None, True, output=saved.output, data__workers=3, backbone__name="iresnet34")
    assert changed.data == saved.data.model_copy(update={"workers": 3})
    assert changed.backbone == saved.backbone.model_copy(update={"name": "iresnet34"})


def test_a_torn_saved_config_is_a_clear_error(saved: TrainConfig) -> None:
    (saved.output / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="pass the run's --config"):
        resolve_config(None, True, output=saved.output)


def test_train_export_and_calibrate_by_command(
    tiny_config: Callable[..., TrainConfig], drawn_people: Path, other_people: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "run.toml"
    recipe.write_text(
        'epochs = 1\nbatch_size = 8\ndevice = "cpu"\n[preprocessing]\nsize = [32, 32]\n'
        '[backbone]\nname = "iresnet18"\nwidth = 0.0625\nembedding_dim = 16\n',
        encoding="utf-8",
    )
    output = tmp_path / "run"
    trained = run(
        "train", "--config", recipe, "--data", drawn_people, "--output", output, "--head", "normface", "--json"
    )
    assert trained.returncode == 0, trained.stderr
    report: dict[str, Any] = json.loads(trained.stdout)
    assert (report["step"], report["finished"], report["people"]) == (6, True, 8)
    assert "normface (dense) on iresnet18" in trained.stderr
    assert "align-report.json" in trained.stderr  # the note that these were taken as aligned crops

    again = run("train", "--config", recipe, "--data", drawn_people, "--output", output)
    assert (again.returncode, again.stdout) == (2, "")
    assert "already holds a run" in again.stderr

    exported = run("export", "--run", output, "--output", tmp_path / "bundle", "--json")
    assert exported.returncode == 0, exported.stderr
    assert len(json.loads(exported.stdout)["model_id"]) == 16
    calibrated = run("calibrate", "--bundle", tmp_path / "bundle", "--images", other_people, "--aligned")
    assert calibrated.returncode == 2  # four people are too few
    assert calibrated.stderr.startswith("facemargin: error: ")
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text(encoding="utf-8"))["calibration"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "--bundle", "x", "--images", "x", "--prior", "2"], "--prior"),
        (["data", "align", "a", "b", "--score-threshold", "2"], "--score-threshold"),
        (["data", "align", "a", "b", "--workers", "-1"], "--workers"),
        (["train", "--output", "x", "--device", "cuda:abc"], "device must be auto"),
        (["demo", "--seed", "-1"], "--seed"),
    ],
)
def test_values_out_of_range_are_refused(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_digits_are_compared_by_their_own_recipes(tmp_path: Path) -> None:
    for name, count in (("train", 6000), ("t10k", 100)):
        images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(tmp_path / f"{name}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    common = ("compare", "--recipe", "mnist-2d", "--data", tmp_path, "--output", tmp_path / "out", "--short")
    done = run(*common, "--heads", "softmax", "--steps", "3", "--json")
    assert done.returncode == 0, done.stderr
    assert [(row["head"], row["steps"]) for row in json.loads(done.stdout)] == [("softmax", 3)]
    assert (tmp_path / "out" / "features.png").exists()
    for arguments, message in (
        ((*common, "--epochs", "3"), "--epochs cannot go with --recipe"),
        ((*common[:3], "--output", "x"), "--recipe needs one --data DIR"),
        (("compare", "--steps", "3", "--output", "x"), "belong to --recipe"),
        ((*common, "--seeds", "one"), "--seeds must be numbers"),
    ):
        refused = run(*arguments)
        assert (refused.returncode, message in refused.stderr) == (2, True), refused.stderr


def test_inspect_counts_people_sizes_and_what_cannot_be_read(drawn_people: Path, tmp_path: Path) -> None:
    people = shutil.copytree(drawn_people, tmp_path / "people")
    (people / "person00" / "0.png").write_bytes(b"x")
    found = json.loads(run("data", "inspect", people, "--json").stdout)
    assert (found["people"], found["images"], found["sizes"]) == (8, 48, {"32x32": 47})
    (bad,) = found["unreadable"]
    assert bad["row"] == 0
    assert bad["name"].endswith("person00/0.png")
    assert "not an image" in bad["reason"]
