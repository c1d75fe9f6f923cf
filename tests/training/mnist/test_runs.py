"""A whole recipe over drawn digits: files, resumption, refusal of other settings, interruption, and the tables."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import training.mnist.runs as runs
from facemargin.errors import CheckpointError, ConfigError, DataError
from training.mnist import MnistResult, results_markdown, results_table, run_recipe
from training.mnist.report import title

HEADS, SEEDS = ["softmax", "l-softmax:2"], [0, 1]


def quiet() -> Console:
    return Console(file=io.StringIO())


def run(data: Path, output: Path, **changes: Any) -> list[MnistResult]:
    given = {
        "heads": HEADS, "seeds": SEEDS, "full": False, "steps": 3, "console": quiet(),
        "command": "facemargin compare <digits>", **changes,
    }  # fmt: skip
    return run_recipe("mnist-2d", given.pop("heads"), given.pop("seeds"), data, output, **given)


@pytest.fixture(scope="module")
def finished(drawn_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[MnistResult]]:
    output = tmp_path_factory.mktemp("runs")
    return output, run(drawn_mnist, output)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(runs, "train_digits", refuse)


def test_every_head_and_seed_has_a_result_and_the_first_seed_a_picture(
    finished: tuple[Path, list[MnistResult]],
) -> None:
    output, results = finished
    assert [(result.head, result.seed) for result in results] == [(head, seed) for head in HEADS for seed in SEEDS]
    assert all(result.error == result.errors / 200 for result in results)
    assert all(result.form == "short" and result.steps == 3 and result.images == 200 for result in results)
    assert [MnistResult(**row) for row in json.loads((output / "results.json").read_text())] == results
    rows = list(csv.reader((output / "results.csv").read_text(encoding="utf-8").splitlines()))
    assert [row[0] for row in rows] == ["head", *HEADS]
    assert (output / "results.md").read_text(encoding="utf-8").startswith("mnist-2d, short form: 3 steps, 200 test")
    assert (output / "features.png").stat().st_size > 10_000
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "facemargin compare &lt;digits&gt;" in page
    assert page.count('role="img"') == page.count('href="data:image/png;base64,') == len(HEADS)
    assert all(f"{100 * result.error:.2f}" in page for result in results if result.seed == 0)
    assert (output / "l-softmax-m2-seed1" / "result.json").is_file()
    assert not list(output.rglob("*.partial"))


def test_a_second_call_trains_nothing(
    finished: tuple[Path, list[MnistResult]], drawn_mnist: Path, no_training: None
) -> None:
    output, results = finished
    assert run(drawn_mnist, output) == results


@pytest.mark.parametrize("changes", [{"steps": 4}, {"heads": ["softmax"], "steps": 9}])
def test_results_of_other_settings_are_not_taken(
    finished: tuple[Path, list[MnistResult]], drawn_mnist: Path, no_training: None, changes: dict[str, Any]
) -> None:
    output, _ = finished
    with pytest.raises(CheckpointError, match=r"softmax-seed0 belongs to a run with other settings of: .*steps"):
        run(drawn_mnist, output, **changes)


def test_an_interruption_keeps_what_is_done(drawn_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = runs.train_digits, []

    def interrupted(*given: Any, **options: Any) -> Any:
        calls.append(options["seed"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*given, **options)

    monkeypatch.setattr(runs, "train_digits", interrupted)
    console = quiet()
    assert len(run(drawn_mnist, tmp_path, heads=["softmax"], console=console)) == 1
    assert "interrupted" in console.file.getvalue()  # type: ignore[attr-defined]
    assert len(run(drawn_mnist, tmp_path, heads=["softmax"])) == 2
    assert calls == [0, 1, 1]


def test_the_output_says_which_form_runs(drawn_mnist: Path, tmp_path: Path) -> None:
    console = quiet()
    run(drawn_mnist, tmp_path, heads=["softmax"], seeds=[0], steps=1, console=console)
    assert "mnist-2d (short form): softmax, seed 0" in console.file.getvalue()  # type: ignore[attr-defined]


def test_wrong_input_is_an_error_before_anything_is_trained(
    drawn_mnist: Path, tmp_path: Path, no_training: None
) -> None:
    with pytest.raises(ConfigError, match="head 'sofmax' is unknown"):
        run(drawn_mnist, tmp_path, heads=["softmax", "sofmax"])
    with pytest.raises(ConfigError, match="steps=0"):
        run(drawn_mnist, tmp_path, steps=0)
    with pytest.raises(DataError, match="has no train-images"):
        run(tmp_path, tmp_path)
    with pytest.raises(DataError, match="leaves none"):
        run(drawn_mnist, tmp_path, held_out=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "head"), [("mnist", "l-softmax:4"), ("mnist-2d", "arcface")])
def test_a_step_of_the_full_form_runs(drawn_mnist: Path, tmp_path: Path, recipe: str, head: str) -> None:
    (result,) = run_recipe(recipe, [head], [0], drawn_mnist, tmp_path, full=True, steps=1, console=quiet())
    assert result.form == "full"
    assert result.settings["width"] in (32, 64)


def test_a_damaged_plane_is_named(drawn_mnist: Path, tmp_path: Path) -> None:
    run(drawn_mnist, tmp_path, heads=["softmax"], seeds=[0], steps=1)
    (tmp_path / "softmax-seed0" / "plane.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"plane\.npz cannot be read: .*delete its folder"):
        run(drawn_mnist, tmp_path, heads=["softmax"], seeds=[0], steps=1)


def made_up(head: str, seed: int, errors: int, **changes: Any) -> MnistResult:
    values = {
        "recipe": "mnist", "form": "full", "head": head, "seed": seed, "steps": 20_000, "measured_on": "test",
        "images": 10_000, "errors": errors, "error": errors / 10_000, "seconds": 60.0,
        "mean_angle_rad": 0.2, "first_loss": 2.0, "last_loss": 0.125, "hardware": "none", "settings": {},
    }  # fmt: skip
    return MnistResult(**{**values, **changes})


def test_the_table_has_mean_spread_and_the_published_figure() -> None:
    results = [made_up("l-softmax:2", seed, errors) for seed, errors in enumerate((30, 34, 35))]
    results.append(made_up("arcface", 0, 40))
    lines = results_markdown(results).splitlines()
    assert lines[2] == "| l-softmax:2 | 3 | 0.33 ± 0.03 | 0.30–0.35 | 0.32 | 11.5 | 0.125 | 60 |"
    assert lines[3] == "| arcface | 1 | 0.40 | 0.40–0.40 |  | 11.5 | 0.125 | 60 |"
    assert results_table(results).row_count == 2


def test_the_title_says_the_form() -> None:
    assert title([made_up("softmax", 0, 1)]) == "mnist, full form, as published: 20,000 steps, 10,000 test images"
    short = made_up("softmax", 0, 1, form="short", steps=900, measured_on="held-out", images=5000)
    assert title([short]) == ("mnist, short form, not the published one: 900 steps, 5,000 held-out training images")
