"""A finished run becomes a bundle that says what it is and embeds like the network."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from facemargin.bundle import load_bundle
from facemargin.embedder import Embedder
from facemargin.errors import BundleError, CheckpointError
from facemargin.preprocessing import read_image
from training.averaging import averaged_weights
from training.checkpoint import load_checkpoint
from training.cli import export
from training.config import TrainConfig
from training.publish import publish
from training.trainer import restore_model, train
from training.validation import network_embedder

QUIET = Console(quiet=True)


@pytest.fixture
def run(tiny_config: Callable[..., TrainConfig]) -> Path:
    return train(tiny_config(head="a-softmax", epochs=1), console=QUIET).checkpoint.parents[1]


def test_the_bundle_embeds_like_the_network(run: Path, tmp_path: Path, other_people: Path) -> None:
    bundle = publish(run, tmp_path / "bundle", flip_sum=True)
    backbone, config, _ = restore_model(run)
    crops = np.stack([read_image(path) for path in sorted(other_people.rglob("*.png"))])
    expected = network_embedder(backbone, config.preprocessing, device=torch.device("cpu"), flip_sum=True)(crops)
    found = Embedder(load_bundle(bundle.path)).embed(crops)
    assert (found * expected).sum(1) == pytest.approx(np.ones(len(crops)), abs=1e-4)


def test_the_manifest_tells_head_backbone_and_data(run: Path, tmp_path: Path) -> None:
    manifest = publish(run, tmp_path / "bundle", licence="CC-BY-4.0").manifest
    assert manifest.licence == "CC-BY-4.0"
    assert manifest.backbone is not None
    assert manifest.head is not None
    assert manifest.data is not None
    assert (manifest.backbone["name"], manifest.head["name"]) == ("iresnet18", "a-softmax")
    assert (manifest.data["people"], manifest.data["images"]) == (8, 48)
    assert "no liveness detection" in manifest.card
    assert manifest.preprocessing.size == (32, 32)


@pytest.mark.parametrize("average", [True, False])
def test_the_average_is_exported_unless_told(
    tiny_config: Callable[..., TrainConfig], tmp_path: Path, average: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("training.publish.export_bundle", lambda model, *_, **fields: given.update(fields, model=model))
    config = tiny_config(epochs=1, ema_decay=0.9)
    state = load_checkpoint(train(config, console=QUIET).checkpoint).state
    publish(config.output, tmp_path / "bundle", average=average)
    expected = averaged_weights(state["average"]) if average else state["backbone"]
    assert all(torch.equal(value, expected[name]) for name, value in given["model"].state_dict().items())
    assert ("averaged with decay 0.9" in given["card"]) == average


@pytest.mark.parametrize("flag", [True, False])
def test_the_command_takes_the_last_steps_weights_on_request(
    tmp_path: Path, flag: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def answer(*_: Path, **options: Any) -> SimpleNamespace:
        asked.update(options)
        return SimpleNamespace(path=tmp_path, manifest=SimpleNamespace(name="x", calibration=None), model_id="0")

    monkeypatch.setattr("training.publish.publish", answer)
    export(tmp_path, tmp_path, no_average=flag)
    assert asked["average"] is not flag


def test_parity_needs_crops(run: Path, tmp_path: Path, other_people: Path) -> None:
    backbone, resolved, checkpoint = restore_model(run)
    gone = resolved.model_copy(update={"data": resolved.data.model_copy(update={"folders": (tmp_path / "gone",)})})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.publish.restore_model", lambda _, average: (backbone, gone, checkpoint))
        with pytest.raises(CheckpointError, match="pass --crops DIR"):
            publish(run, tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()
        assert publish(run, tmp_path / "bundle", crops=other_people).path.is_dir()


def test_an_existing_bundle_is_kept_unless_told(run: Path, tmp_path: Path) -> None:
    first = publish(run, tmp_path / "bundle")
    with pytest.raises(BundleError):
        publish(run, tmp_path / "bundle", name="second")
    assert load_bundle(tmp_path / "bundle").manifest.name == first.manifest.name
    assert publish(run, tmp_path / "bundle", name="second", overwrite=True).manifest.name == "second"


def test_a_run_without_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        publish(tmp_path / "run", tmp_path / "bundle")
