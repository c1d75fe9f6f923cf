"""The moving average against an independent loop, and wherever a run uses it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from facemargin.backbones import make_backbone
from facemargin.errors import CheckpointError
from training.averaging import averaged, averaged_weights, decay_at
from training.checkpoint import load_checkpoint, open_checkpoint, save_checkpoint
from training.config import TrainConfig
from training.data.loader import Batch
from training.trainer import Trainer, restore_model, train, training_images
from training.validation import Validator

MakeConfig = Callable[..., TrainConfig]
QUIET = Console(quiet=True)


def small() -> Any:
    return make_backbone("iresnet18", embedding_dim=8, width=0.0625, input_size=(32, 32))


def test_the_decay_by_hand() -> None:
    assert [decay_at(0.99, t) for t in (1, 2, 8)] == pytest.approx([2 / 11, 3 / 12, 9 / 18])
    assert decay_at(0.99, 890) == pytest.approx(891 / 900)  # the last below 0.99
    assert decay_at(0.99, 10**6) == 0.99
    assert decay_at(0.1, 1) == 0.1


def test_it_is_the_average_of_an_independent_loop_with_its_buffers() -> None:
    torch.manual_seed(0)
    network = small()
    average = averaged(network, 0.4)
    expected: dict[str, torch.Tensor] = {}
    for t in range(6):
        network(torch.randn(4, 3, 32, 32))  # moves the running statistics
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update_parameters(network)
        decay = 0.0 if t == 0 else min(0.4, (1 + t) / (10 + t))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected.get(name, 0) + (1 - decay) * value.double()
            else:
                expected[name] = value.clone()
    found = averaged_weights(average.state_dict())
    assert found.keys() == expected.keys()
    assert any(name.endswith("running_var") for name in found)
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-5, atol=1e-6)
    assert int(found["norm.num_batches_tracked"]) == 6
    assert not torch.allclose(found["norm.running_mean"], network.norm.running_mean)


def test_what_does_not_change_is_averaged_to_the_last_bit() -> None:
    network = small()
    average = averaged(network, 0.9)
    for _ in range(20):
        average.update_parameters(network)
    found = averaged_weights(average.state_dict())
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in found.items())


def test_a_run_validates_and_restores_its_average(
    tiny_config: MakeConfig, other_people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[dict[str, torch.Tensor]] = []

    def measure(self: Validator, network: torch.nn.Module, *_: object) -> dict[str, float]:
        measured.append({name: value.clone() for name, value in network.state_dict().items()})
        return {}

    monkeypatch.setattr(Validator, "measure", measure)
    config = tiny_config(epochs=1, ema_decay=0.9, validation={"images": other_people})
    state = load_checkpoint(train(config, console=QUIET).checkpoint).state
    average, last = averaged_weights(state["average"]), state["backbone"]
    assert int(state["average"]["n_averaged"]) == 6
    assert not torch.equal(average["projection.weight"], last["projection.weight"])
    for weights, expected in (
        (measured[0], average),
        (restore_model(config.output)[0].state_dict(), average),
        (restore_model(config.output, average=False)[0].state_dict(), last),
    ):
        assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def test_averaging_changes_nothing_of_the_run_itself(tiny_config: MakeConfig, tmp_path: Path) -> None:
    with_average, without = (
        load_checkpoint(
            train(tiny_config(epochs=1, ema_decay=decay, output=tmp_path / str(decay)), console=QUIET).checkpoint
        ).state["backbone"]
        for decay in (0.9, None)
    )
    assert all(torch.equal(value, without[name]) for name, value in with_average.items())


def test_another_decay_is_another_run(tiny_config: MakeConfig) -> None:
    train(tiny_config(epochs=1, ema_decay=0.9), console=QUIET)
    for other in (0.99, None):
        with pytest.raises(CheckpointError, match="other settings of: ema_decay"):
            train(tiny_config(epochs=1, ema_decay=other), resume=True, console=QUIET)


def test_checkpoints_from_before_averaging_still_load(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(epochs=1)
    train(config, console=QUIET)
    checkpoint = open_checkpoint(config.output)
    old = {key: value for key, value in checkpoint.state.items() if key != "average"}
    for key in ("ema_decay", "freeze", "freeze_epochs"):
        del old["config"][key]
    del old["config"]["optimizer"]["layer_decay"]
    for key in ("step_ms", "peak_memory_bytes", "unreadable", "unreadable_in_epoch"):
        del old["history"][key]
    save_checkpoint(tmp_path / "old", checkpoint.step, old, keep=1)
    path = tmp_path / "old" / checkpoint.path.name
    expected = old["backbone"]
    assert all(torch.equal(value, expected[name]) for name, value in restore_model(path)[0].state_dict().items())
    trainer = Trainer(config, training_images(config))
    trainer.restore(load_checkpoint(path))
    assert (trainer.step, trainer.history.unreadable, trainer.history.step_ms) == (6, 0, None)


@pytest.mark.slow
def test_a_compiled_run_averages_the_plain_network(tiny_config: MakeConfig) -> None:
    backbone = {"name": "iresnet18", "width": 0.0625, "embedding_dim": 16}
    config = tiny_config(compile=True, ema_decay=0.5, backbone=backbone)
    trainer = Trainer(config, training_images(config))
    expected: dict[str, torch.Tensor] = {}
    for t in range(3):
        trainer.train_step(Batch(torch.randn(8, 3, 32, 32), torch.arange(8)))
        decay = 0.0 if t == 0 else (1 + t) / (10 + t)
        for name, value in trainer.backbone.state_dict().items():
            expected[name] = decay * expected.get(name, 0) + (1 - decay) * value.double()
    found = trainer.measured.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
