"""What a new run can start with: runs, their averages, bundles; and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from rich.console import Console

from facemargin.backbones import make_backbone
from facemargin.bundle import Manifest, write_bundle
from facemargin.errors import BundleError, CheckpointError
from facemargin.preprocessing import Preprocessing
from training.averaging import averaged_weights
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.export import weights_of
from training.trainer import Trainer, open_source, train, training_images

MakeConfig = Callable[..., TrainConfig]
QUIET = Console(quiet=True)
NETWORK = {"name": "iresnet18", "width": 0.0625, "embedding_dim": 16}


def bundle(path: Path, *, files: dict[str, bytes] | None = None, **fields: Any) -> Path:
    """A bundle of an untrained network; its ONNX file is never run here."""
    torch.manual_seed(7)
    network = make_backbone(**NETWORK, input_size=(32, 32))
    fields = {"preprocessing": Preprocessing(size=(32, 32)), "backbone": network.options()} | fields
    content = {"weights.safetensors": weights_of(network)} if files is None else files
    manifest = Manifest(name="test", embedding_dim=16, opset=18, **fields)
    return write_bundle(path, manifest, {"model.onnx": b"onnx"} | content).path


def start(config: TrainConfig) -> Trainer:
    trainer = Trainer(config, training_images(config))
    assert config.start_from is not None
    trainer.start_from(open_source(config.start_from))
    return trainer


def test_a_bundle_gives_its_backbone(tiny_config: MakeConfig, tmp_path: Path) -> None:
    source = bundle(tmp_path / "bundle")
    trainer = start(tiny_config(start_from=source, reset_head=True, ema_decay=0.9))
    expected = safetensors.torch.load_file(source / "weights.safetensors")
    for network in (trainer.backbone, trainer.measured):
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    shutil.rmtree(source)  # which nothing needs any more
    assert train(tiny_config(start_from=bundle(source), reset_head=True, epochs=1), console=QUIET).finished


def test_of_a_source_with_an_average_the_average_is_taken(tiny_config: MakeConfig, tmp_path: Path) -> None:
    state = load_checkpoint(train(tiny_config(epochs=1, ema_decay=0.9), console=QUIET).checkpoint).state
    average = averaged_weights(state["average"])
    trainer = start(tiny_config(start_from=tmp_path / "run", output=tmp_path / "next"))
    assert all(torch.equal(value, average[name]) for name, value in trainer.backbone.state_dict().items())
    assert not torch.equal(average["projection.weight"], state["backbone"]["projection.weight"])
    assert torch.equal(trainer.head.weight, state["head"]["weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": NETWORK | {"name": "iresnet34"}}, "backbone.name is 'iresnet18' there and 'iresnet34' here; set"),
        ({"backbone": NETWORK | {"embedding_dim": 8}}, "backbone.embedding_dim is 16 there and 8 here; set them as"),
        ({"backbone": NETWORK | {"width": 0.25}}, "backbone.width is 0.0625 there and 0.25 here"),
        ({"preprocessing": {"size": [48, 48]}}, r"preprocessing.size is \[32, 32\] there and \[48, 48\] here"),
    ],
)
@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_another_backbone_is_refused_naming_what_differs(
    tiny_config: MakeConfig, tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    source = bundle(tmp_path / "source")
    if kind == "run":
        untrained = tiny_config(output=tmp_path / "source-run", epochs=1)
        save_untrained(untrained)
        source = untrained.output
    with pytest.raises(CheckpointError, match=f"has another backbone than this run: .*{message}"):
        train(tiny_config(start_from=source, reset_head=True, **changes), console=QUIET)
    assert not (tmp_path / "run").exists()


def save_untrained(config: TrainConfig) -> None:
    from training.checkpoint import save_checkpoint

    trainer = Trainer(config, training_images(config))
    save_checkpoint(config.output / "checkpoints", 0, trainer.state(), keep=1)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"backbone": None}, "is a bundle of a foreign model, which runs as ONNX only and cannot be trained on"),
        ({"files": {}}, "holds no weights.safetensors, and an ONNX model cannot be trained on; start from the run"),
        ({"files": {"weights.safetensors": b"none"}}, "weights.safetensors cannot be read"),
        ({"files": {"weights.safetensors": safetensors.torch.save({"a": torch.ones(1)})}}, "has another backbone than"),
    ],
)
def test_a_bundle_that_cannot_be_trained_on_says_why(
    tiny_config: MakeConfig, tmp_path: Path, made: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        start(tiny_config(start_from=bundle(tmp_path / "bundle", **made), reset_head=True))


def test_a_bundle_holds_no_head(tiny_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="which holds no head; --reset-head takes over its backbone alone"):
        start(tiny_config(start_from=bundle(tmp_path / "bundle")))


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    source = bundle(tmp_path / "bundle")
    (source / "weights.safetensors").write_bytes(b"changed")
    with pytest.raises(BundleError, match="was changed or damaged"):
        open_source(source)


def test_what_is_no_source_says_what_is(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(CheckpointError, match="is no folder; start_from takes a run, a checkpoint or a bundle"):
        open_source(tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        open_source(tmp_path)


def test_weights_for_other_input_are_taken_with_a_warning(tiny_config: MakeConfig, tmp_path: Path) -> None:
    source = bundle(tmp_path / "bundle", preprocessing=Preprocessing(size=(32, 32), colour="bgr"))
    with (tmp_path / "shown").open("w", encoding="utf-8") as shown:
        train(tiny_config(start_from=source, reset_head=True, epochs=1), console=Console(width=300, file=shown))
    text = (tmp_path / "shown").read_text(encoding="utf-8")
    assert "were trained on other input: preprocessing.colour was 'bgr', now 'rgb'" in text
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["start_from"] == str(source)
