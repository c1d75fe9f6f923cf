"""A comparison trains and tests every head, skips what is done, survives a kill and a diverging run, and reports."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from rich.console import Console

import training.compare as comparison
import training.report.run as runs
from facemargin.bundle import load_bundle
from facemargin.errors import CheckpointError, ConfigError, DataError, ExportRefusedError, NonFiniteLossError
from training.checkpoint import checkpoints_in
from training.cli.comparison import compare as compare_command
from training.compare import Outcome, compare, report_again
from training.config import TrainConfig, make_config
from training.data.pairs import read_pairs
from training.evaluate import evaluate_bundle
from training.report.results import FailedRun, HeadResult, save
from training.report.results import finished as finished_runs
from training.trainer import train

QUIET = Console(quiet=True)
FOLDS, PEOPLE, IMAGES = 3, 24, 4
HEADS, WAYS = ["a-softmax"], ["dense", "sampled"]


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


def results_of(outcome: Outcome) -> list[HeadResult]:
    assert all(isinstance(run, HeadResult) for run in outcome.runs)
    return list(finished_runs(outcome.runs))


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("trained or measured again")


@pytest.fixture(scope="module")
def finished(
    drawn_people: Path, protocol: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainConfig, Outcome]:
    """A comparison of two partitions, with averaged weights: read it, or work on a copy."""
    images, pairs = protocol
    people = shutil.copytree(drawn_people, tmp_path_factory.mktemp("training") / "people")
    part: dict[str, Any] = {"images": images, "pairs": pairs}
    values: dict[str, Any] = {
        "output": tmp_path_factory.mktemp("comparison"), "epochs": 1, "batch_size": 8, "device": "cpu",
        "precision": "float32", "data": {"folders": [people], "workers": 0}, "ema_decay": 0.5,
        "preprocessing": {"size": [32, 32]}, "backbone": {"name": "iresnet18", "width": 0.0625, "embedding_dim": 16},
        "validation": part | {"folds": "1"}, "test": part | {"folds": "2-3", "flip_sum": True},
    }  # fmt: skip
    config = make_config(values, "test")
    return config, compare(config, HEADS, [0], partitions=WAYS, command="facemargin compare <x>", console=QUIET)


@pytest.fixture
def copied(finished: tuple[TrainConfig, Outcome], tmp_path: Path) -> TrainConfig:
    """A copy of the finished comparison."""
    config = finished[0]
    return config.model_copy(update={"output": shutil.copytree(config.output, tmp_path / "copy")})


def test_a_comparison_writes_its_results(finished: tuple[TrainConfig, Outcome]) -> None:
    config, outcome = finished
    results = results_of(outcome)
    assert [(r.head, r.partition, r.seed) for r in results] == [("a-softmax", way, 0) for way in WAYS]
    assert outcome.finished
    assert not outcome.failed
    rows = json.loads((config.output / "results.json").read_text(encoding="utf-8"))
    assert [HeadResult(**row) for row in rows] == results
    assert rows[0]["test"]["protocol"] == "all, folds 2-3"
    assert rows[0]["test"]["genuine_pairs"] == 16
    with (config.output / "results.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in table] == [result.test.accuracy.value for result in results]
    assert (config.output / "results.md").read_text(encoding="utf-8").count("\n") == 4
    assert (config.output / "roc.png").stat().st_size > 10_000
    rows = (config.output / "seeds.md").read_text(encoding="utf-8").splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| dense", "| sampled"]
    summary = json.loads((config.output / "summary.json").read_text(encoding="utf-8"))
    assert [(row["name"], row["seeds"]) for row in summary["rows"]] == [("dense", [0]), ("sampled", [0])]
    assert len(summary["differences"]) == 1
    manifest = load_bundle(config.output / "a-softmax-sampled-seed0" / "bundle").manifest
    assert manifest.head["partition"]["name"] == "sampled"
    assert "class_counts" not in manifest.head["partition"]
    assert manifest.flip_sum
    assert manifest.calibration is not None
    assert manifest.calibration.people == 8
    assert {metric.name for metric in manifest.metrics} >= {"accuracy", "eer"}
    assert outcome.report == config.output / "report.html"
    page = outcome.report.read_text(encoding="utf-8")
    assert "facemargin compare &lt;x&gt;" in page
    assert "averaged weights" in page
    assert not list(config.output.rglob("*.partial"))


def test_a_result_holds_all_that_the_report_needs(finished: tuple[TrainConfig, Outcome]) -> None:
    first = results_of(finished[1])[0]
    assert first.data is not None
    assert (first.data.people, first.data.images) == (8, 48)
    assert first.cost is not None
    assert first.cost.images_per_second == pytest.approx(first.images / (60 * first.minutes))
    assert first.cost.step_ms is not None
    assert first.cost.head_parameters == 8 * 16
    assert first.curve is not None
    assert first.curve.step == tuple(range(1, first.steps + 1))
    assert first.angles is not None
    assert (len(first.angles.own), first.angles.people) == (48, 8)
    assert first.annealing is not None
    assert first.annealing["minimum"] > 0
    assert first.variants is not None
    assert {(v.average, v.flip_sum) for v in first.variants.variants} == {(a, f) for a in (0, 1) for f in (0, 1)}
    assert len({v.similarity for v in first.variants.variants}) == 4


def test_the_variant_that_is_configured_is_what_the_bundle_does(finished: tuple[TrainConfig, Outcome]) -> None:
    config, outcome = finished
    variants, validation = results_of(outcome)[0].variants, config.validation
    assert variants is not None
    assert validation is not None
    bundle, pairs = load_bundle(config.output / "a-softmax-seed0" / "bundle"), read_pairs(validation.pairs or Path())
    exported = evaluate_bundle(bundle, pairs, validation.images, folds=(1,), aligned=True, console=QUIET)
    configured = variants.similarity(average=True, flip_sum=True)
    assert configured == pytest.approx(exported.similarity, abs=1e-4)


def test_what_is_done_is_not_done_again(
    finished: tuple[TrainConfig, Outcome], copied: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "train", refuse)
    monkeypatch.setattr(runs, "evaluate_bundle", refuse)
    assert compare(copied, HEADS, [0], partitions=WAYS, console=QUIET).runs == finished[1].runs
    page = copied.output / "report.html"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    assert report_again(copied.output) == Outcome(finished[1].runs, True, page)
    assert page.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": 2}, "epochs"),
        ({"test": {"flip_sum": False}}, "test.flip_sum"),
        ({"test": {"folds": "2"}}, "test.folds"),
    ],
)
def test_a_finished_run_of_other_settings_is_refused(
    change: dict[str, Any], named: str, copied: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "train", refuse)
    with pytest.raises(CheckpointError, match=f"a-softmax-seed0 belongs to a run with other settings of: {named};"):
        compare(with_changes(copied, change), HEADS, [0], console=QUIET)


def with_changes(config: TrainConfig, change: dict[str, Any]) -> TrainConfig:
    """The config with other values, of `[test]` only those that are named."""
    values = config.model_dump()
    return make_config({**values, **change, "test": {**values["test"], **change.get("test", {})}}, "test")


def test_a_finished_run_on_other_data_is_refused(copied: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "train", refuse)
    person = next(copied.data.folders[0].iterdir())
    added = Path(shutil.copy(next(person.iterdir()), person / "added.png"))
    try:
        with pytest.raises(CheckpointError, match=r"on other training data \(sha256 \w+…, now \w+…\); compare"):
            compare(copied, HEADS, [0], console=QUIET)
    finally:
        added.unlink()


def test_a_bundle_of_another_test_is_exported_and_calibrated_again(
    finished: tuple[TrainConfig, Outcome], copied: TrainConfig
) -> None:
    folder = copied.output / "a-softmax-seed0"
    before = load_bundle(folder / "bundle").manifest
    (folder / "result.json").unlink()
    (again,) = results_of(compare(with_changes(copied, {"test": {"flip_sum": False}}), HEADS, [0], console=QUIET))
    after = load_bundle(folder / "bundle").manifest
    assert (before.flip_sum, after.flip_sum, again.test.flip_sum) == (True, False, False)
    assert again.recipe["test"]["flip_sum"] is False
    assert None not in (before.calibration, after.calibration)
    assert after.calibration != before.calibration
    assert again.test.similarity != results_of(finished[1])[0].test.similarity
    with pytest.raises(DataError, match=r"a-softmax, seed 0 and a-softmax, sampled, seed 0 differ in test\.flip_sum"):
        report_again(copied.output)


def test_an_export_that_was_refused_is_tried_again(copied: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise ExportRefusedError("the two disagree")

    folder = copied.output / "a-softmax-seed0"
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "bundle")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "publish", refused)
        (failed,) = compare(copied, HEADS, [0], console=QUIET).runs
    assert isinstance(failed, FailedRun)
    assert (failed.failure, failed.advice) == ("export refused", "the two disagree")
    assert (folder / "failure.json").exists()
    (again,) = results_of(compare(copied, HEADS, [0], console=QUIET))
    assert again.test.flip_sum
    assert not (folder / "failure.json").exists()


def test_an_error_in_one_run_leaves_the_report_of_the_others(
    copied: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(config: TrainConfig, *others: Any, **options: Any) -> object:
        if config.partition == "sampled":
            raise DataError("a picture that cannot be read")
        return runs.make_run(config, *others, **options)

    for name in ("report.html", "results.json"):
        (copied.output / name).unlink()
    monkeypatch.setattr(comparison, "make_run", failing)
    with pytest.raises(DataError, match="a picture that cannot be read"):
        compare(copied, HEADS, [0], partitions=WAYS, console=QUIET)
    assert len(json.loads((copied.output / "results.json").read_text(encoding="utf-8"))) == 1
    assert "a-softmax" in (copied.output / "report.html").read_text(encoding="utf-8")


def test_runs_of_two_recipes_have_no_common_report(copied: TrainConfig) -> None:
    twin = shutil.copytree(copied.output / "a-softmax-seed0", copied.output / "again")
    before = (copied.output / "results.json").read_bytes()
    with pytest.raises(DataError, match="two results of a-softmax, seed 0"):
        report_again(copied.output)
    result = json.loads((twin / "result.json").read_text(encoding="utf-8"))
    other = {"seed": 1, "epochs": 99, "recipe": {**result["recipe"], "epochs": 99}}
    (twin / "result.json").write_text(json.dumps(result | other), encoding="utf-8")
    with pytest.raises(DataError, match=r"a-softmax, seed 0 and a-softmax, seed 1 differ in epochs \(1 and 99\)"):
        report_again(copied.output)
    assert (copied.output / "results.json").read_bytes() == before


def test_a_run_that_diverges_is_recorded_and_the_others_go_on(
    copied: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(config: TrainConfig, **options: Any) -> None:
        (config.output / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
        raise NonFiniteLossError(step=12, head="a-softmax", advice="lower <it>")

    (copied.output / "a-softmax-seed0" / "result.json").unlink()
    monkeypatch.setattr(runs, "train", diverging)
    outcome = compare(copied, HEADS, [0], partitions=WAYS, console=QUIET)
    failed, done = outcome.runs
    assert outcome.finished
    assert isinstance(failed, FailedRun)
    assert (failed.head, failed.step, failed.failure) == ("a-softmax", 12, "diverged at step 12")
    assert isinstance(done, HeadResult)
    assert outcome.failed == (failed,)
    for name in ("results.json", "results.csv", "results.md", "report.html"):
        assert "diverged at step 12" in (copied.output / name).read_text(encoding="utf-8"), name
    monkeypatch.setattr(runs, "train", refuse)
    assert compare(copied, HEADS, [0], partitions=WAYS, console=QUIET).runs == outcome.runs
    alone = compare(copied, HEADS, [0], console=QUIET)
    assert (alone.runs, alone.report) == ((failed,), None)


def test_the_command_reports_again_and_its_exit_code_tells_of_failures(
    copied: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    compare_command(output=copied.output, report_only=True, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert [(row["head"], row["partition"]) for row in printed] == [("a-softmax", way) for way in WAYS]
    assert "similarity" not in printed[0]["test"]
    result = copied.output / "a-softmax-seed0" / "result.json"
    result.unlink()
    failed = FailedRun(head="a-softmax", partition="dense", seed=0, step=3, failure="diverged at step 3", advice="x")
    save(failed, result.with_name("failure.json"))
    with pytest.raises(typer.Exit) as ended:
        compare_command(output=copied.output, report_only=True)
    assert ended.value.exit_code == 1
    shown = capsys.readouterr()
    assert "a-softmax, dense, seed 0 has no result: diverged at step 3; x" in shown.err
    assert "report.html" in shown.out.replace("\n", "")
    for wrong in ({"report_only": True}, {"report_only": True, "output": copied.output, "epochs": 3}):
        with pytest.raises(ConfigError, match="--report-only takes --output DIR alone"):
            compare_command(**wrong)


def test_torn_files_are_made_again_and_foreign_ones_named(
    finished: tuple[TrainConfig, Outcome], copied: TrainConfig
) -> None:
    result, folder = results_of(finished[1])[0], copied.output / "a-softmax-seed0"
    for name in ("results.json", "results.csv", "report.html"):
        (copied.output / name).write_bytes(b"{")
    whole = (folder / "result.json").read_text(encoding="utf-8")
    (folder / "result.json").write_text(whole[: len(whole) // 2], encoding="utf-8")
    (again,) = results_of(compare(copied, HEADS, [0], console=QUIET))
    assert again.test == result.test
    assert (again.curve, again.variants, again.angles) == (result.curve, result.variants, result.angles)
    assert json.loads((copied.output / "results.json").read_text(encoding="utf-8"))[0]["steps"] == result.steps
    (folder / "result.json").write_text('{"head": "softmax"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"result\.json is of another version"):
        compare(copied, HEADS, [0], console=QUIET)
    with pytest.raises(DataError, match="holds no finished run"):
        report_again(folder)


def test_a_result_of_an_earlier_version_is_read(copied: TrainConfig) -> None:
    path = copied.output / "a-softmax-seed0" / "result.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    newer = {"people", "variants", "angles", "curve", "annealing", "cost", "data", "recipe", "command", "versions"}
    path.write_text(json.dumps({key: values[key] for key in values.keys() - newer - {"finished_at"}}), encoding="utf-8")
    read, whole = results_of(report_again(copied.output))
    assert (read.people, read.cost, read.data) == (whole.people, None, None)
    assert read.curve == HeadResult(**values).curve


@pytest.mark.slow
def test_a_killed_comparison_goes_on_with_the_same_command(recipe: TrainConfig, tmp_path: Path) -> None:
    config = recipe.model_copy(update={"epochs": 12, "checkpoint_minutes": 1e-9})
    (tmp_path / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
    script = (
        "import sys; from pathlib import Path; from training.compare import compare;"
        "from training.config import TrainConfig;"
        "compare(TrainConfig.model_validate_json(Path(sys.argv[1]).read_text()), ['softmax'], [0])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "config.json")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    folder = config.output / "softmax-seed0"
    deadline = time.monotonic() + 240
    try:
        while not checkpoints_in(folder / "checkpoints") and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoints_in(folder / "checkpoints")
    assert not (folder / "result.json").exists()
    (resumed,) = results_of(compare(config, ["softmax"], [0], console=QUIET))
    assert resumed.steps == 12 * 6
    unbroken = config.model_copy(update={"head": "softmax", "output": tmp_path / "unbroken"})
    train(unbroken, console=QUIET)
    assert (folder / "loss.csv").read_bytes() == (unbroken.output / "loss.csv").read_bytes()


def test_what_cannot_be_compared_is_refused(recipe: TrainConfig, tiny_config: Callable[..., TrainConfig]) -> None:
    with pytest.raises(ConfigError, match="unknown heads: cosface; known heads: softmax"):
        compare(recipe, ["cosface"], [0], console=QUIET)
    with pytest.raises(ConfigError, match="unknown partitions: sparse; known partitions: dense"):
        compare(recipe, ["softmax"], [0], partitions=["sparse"], console=QUIET)
    with pytest.raises(ConfigError, match=r"softmax, dense, seed -1: seed: .*greater than or equal to 0"):
        compare(recipe, ["softmax"], [0, -1], console=QUIET)
    for seeds in ("-1", "0,one", "0,,1", "1_0"):
        with pytest.raises(ConfigError, match="--seeds must be numbers from 0 separated by commas"):
            compare_command(seeds=seeds)
    with pytest.raises(ConfigError, match=r"needs \[test\]"):
        compare(tiny_config(), ["softmax"], [0], console=QUIET)
    assert not recipe.output.exists()
