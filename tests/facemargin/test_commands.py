import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from facemargin import commands
from facemargin.bundle import Bundle, load_bundle
from facemargin.errors import ConfigError, FacemarginError, UnsupportedImageError
from facemargin.preprocessing import PRESETS, Preprocessing, encode_png

runner = CliRunner()


def run(function: Any, *arguments: object) -> str:
    """What a command prints on stdout; its error is raised as it is."""
    if isinstance(function, typer.Typer):
        app = function
    else:
        app = typer.Typer(rich_markup_mode=None)
        app.command()(function)
    result = runner.invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, FacemarginError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def crops(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    paths = tmp_path / "a.png", tmp_path / "b.png"
    for path in paths:
        path.write_bytes(encode_png(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)))
    return paths


def test_verify_prints_what_the_similarity_means(tiny_bundle: Bundle, crops: tuple[Path, Path]) -> None:
    same = run(commands.verify, crops[0], crops[0], "--bundle", tiny_bundle.path, "--aligned")
    assert "similarity   1.0000" in same
    assert tiny_bundle.model_id in same
    assert "match at fmr <= 0.001: threshold 0.5" in same
    assert "(extrapolated)" in same
    other = run(commands.verify, *crops, "--bundle", tiny_bundle.path, "--aligned", "--max-fmr", "0.01")
    assert "no match at fmr <= 0.01" in other


def test_verify_in_json(tiny_bundle: Bundle, make_tiny_bundle: Any, crops: tuple[Path, Path]) -> None:
    found = json.loads(run(commands.verify, *crops, "--bundle", tiny_bundle.path, "--aligned", "--json"))
    assert set(found) == {"similarity", "model_id", "decision"}
    assert found["decision"]["match"] is False
    assert 0 < found["decision"]["probability"] < 1
    bare = make_tiny_bundle(calibrated=False).path
    found = json.loads(run(commands.verify, *crops, "--bundle", bare, "--aligned", "--json"))
    assert found["decision"] is None
    assert "no calibration" in run(commands.verify, *crops, "--bundle", bare, "--aligned")


def test_verify_on_photographs(tiny_bundle: Bundle, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    person = shared_data / "lfw" / "images" / "Aaron_Peirsol"
    photographs = person / "Aaron_Peirsol_0001.jpg", person / "Aaron_Peirsol_0002.jpg"
    monkeypatch.setenv("FACEMARGIN_MODELS", str(shared_data / "models"))
    by_default = run(commands.verify, *photographs, "--bundle", tiny_bundle.path, "--json", "--face", "largest")
    detector = shared_data / "models" / "yunet_n_dynamic.onnx"
    named = run(
        commands.verify,
        *photographs,
        "--bundle",
        tiny_bundle.path,
        "--json",
        "--face",
        "largest",
        "--detector",
        detector,
    )
    assert by_default == named
    assert -1 <= json.loads(named)["similarity"] <= 1


def test_verify_names_what_is_wrong(tiny_bundle: Bundle, crops: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--max-fmr must be above 0 and at most 1, got 2"):
        run(commands.verify, *crops, "--bundle", tiny_bundle.path, "--aligned", "--max-fmr", 2)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(UnsupportedImageError, match=r"notes\.txt: not an image"):
        run(commands.verify, text, crops[0], "--bundle", tiny_bundle.path, "--aligned")


def test_import_by_preset(tiny_bundle: Bundle, tmp_path: Path) -> None:
    printed = run(commands.import_, tiny_bundle.model_path, "--preset", "insightface", "--output", tmp_path / "b")
    bundle = load_bundle(tmp_path / "b")
    assert bundle.model_id in printed
    assert "facemargin calibrate" in printed
    assert bundle.manifest.preprocessing == PRESETS["insightface"]


def test_import_by_every_option(tiny_bundle: Bundle, tmp_path: Path) -> None:
    options = (
        "--size 112 112 --template arcface-112 --colour bgr --mean 1,2,3 --std 128 --flip-sum --licence MIT --json"
    )
    printed = run(commands.import_, tiny_bundle.model_path, "--output", tmp_path / "b", *options.split())
    manifest = load_bundle(tmp_path / "b").manifest
    assert manifest.preprocessing == Preprocessing(colour="bgr", mean=(1.0, 2.0, 3.0), std=128.0)
    assert (manifest.flip_sum, manifest.licence) == (True, "MIT")
    assert json.loads(printed)["embedding_dim"] == 32


def test_an_option_overrules_the_preset(tiny_bundle: Bundle, tmp_path: Path) -> None:
    run(commands.import_, tiny_bundle.model_path, "--preset", "opencv-sface", "--std", 2, "--output", tmp_path / "b")
    assert load_bundle(tmp_path / "b").manifest.preprocessing == Preprocessing(mean=0.0, std=2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "say how the model wants its crops.*--size, --template, --colour, --mean, --std"),
        ("--size 112 112 --colour rgb --mean 0 --std 1", "or also --template"),
        ("--preset arcface", "--preset must be one of insightface, sphereface, opencv-sface; got 'arcface'"),
        ("--preset insightface --mean many", "--mean must be one number, or three with commas; got 'many'"),
        ("--preset insightface --std 1,2", "--std must be one number, or three with commas; got 2"),
        ("--preset insightface --std 0", "std must be above 0"),
        ("--preset insightface --size 112 96", "would distort"),
        ("--preset insightface --size 8 8", "--size: Input should be greater"),
        ("--preset insightface --template nose", "template must be one of"),
        ("--preset insightface --backbone iresnet18", "--backbone is for torch checkpoints"),
    ],
)
def test_import_names_the_wrong_option(tiny_bundle: Bundle, tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(commands.import_, tiny_bundle.model_path, "--output", tmp_path / "b", *options.split())
    assert not (tmp_path / "b").exists()


def test_other_files_need_a_backbone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"only \.onnx files can be imported without --backbone"):
        run(commands.import_, tmp_path / "m.pt", "--preset", "insightface", "--output", tmp_path / "b")


def test_models_list_and_pull(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEMARGIN_MODELS", str(tmp_path / "models"))

    def listed() -> dict[str, Any]:
        return json.loads(run(commands.models, "list", "--json"))["models"][0]

    assert listed()["present"] is False
    source = shared_data / "models" / "yunet_n_dynamic.onnx"
    assert str(tmp_path / "models") in run(commands.models, "pull", "yunet", "--from", source)
    assert listed()["present"] is True
    assert (listed()["name"], listed()["licence"]) == ("yunet", "Apache-2.0")
    table = run(commands.models, "list")
    assert "yunet" in table
    assert "Apache-2.0" in table


def test_an_unknown_model_is_a_one_line_error() -> None:
    with pytest.raises(ConfigError, match="one of yunet; got 'nose'"):
        run(commands.models, "pull", "nose")


def test_the_exit_code_is_2_with_one_line_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from facemargin.cli import main

    arguments = ["verify", "a.jpg", "b.jpg", "--bundle", str(tmp_path / "nothing")]
    monkeypatch.setattr(sys, "argv", ["facemargin", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("facemargin: error: a.jpg: cannot be read")
    assert output.err.count("\n") == 1
