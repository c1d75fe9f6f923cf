"""Nothing in a frozen part moves, until the epoch from which everything does."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from facemargin.errors import ConfigError
from training.averaging import averaged_weights
from training.checkpoint import load_checkpoint
from training.cli.runs import parts_of
from training.config import TrainConfig
from training.data.loader import Batch
from training.freezing import frozen_names
from training.trainer import Trainer, train, training_images

MakeConfig = Callable[..., TrainConfig]
QUIET = Console(quiet=True)
KNOWN = ["stem", "stage1", "stage2", "stage3", "stage4", "embedding"]


def learn(trainer: Trainer, steps: int) -> None:
    for seed in range(steps):
        trainer.backbone.train()  # as validation leaves it
        crops = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        assert torch.isfinite(trainer.train_step(Batch(crops, torch.arange(8))).loss)


def frozen_trainer(make: MakeConfig, **changes: Any) -> Trainer:
    config = make(**{"start_from": "elsewhere", **changes})
    return Trainer(config, training_images(config))


def states(trainer: Trainer) -> dict[str, dict[str, torch.Tensor]]:
    """State of each part; tensors copied."""
    return {
        part: {name: value.clone() for name, value in module.state_dict().items()}
        for part, module in trainer.backbone.parts().items()
    }


def moved(before: dict[str, dict[str, torch.Tensor]], trainer: Trainer) -> list[str]:
    after = states(trainer)
    return [part for part in before if any(not torch.equal(before[part][k], after[part][k]) for k in before[part])]


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        (0, []),
        ((), []),
        (2, ["stem", "stage1"]),
        (("stage1", "stem"), ["stem", "stage1"]),
        (("embedding",), ["embedding"]),
        (6, KNOWN),
    ],
)
def test_parts_are_named_or_counted_from_the_input(freeze: Any, expected: list[str]) -> None:
    assert frozen_names(KNOWN, freeze, "iresnet18") == expected


def test_the_command_takes_names_or_a_number() -> None:
    assert parts_of("stem, stage1") == ["stem", "stage1"]
    assert parts_of("2") == 2


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (7, "freeze 7 is more than there is; the parts of iresnet18 are, from input to output: stem, stage1, .*embed"),
        (["stem", "layer1"], "freeze names the unknown layer1; the parts of iresnet18 are, from input to output: stem"),
    ],
)
def test_an_unknown_part_lists_the_known_ones(tiny_config: MakeConfig, freeze: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        frozen_trainer(tiny_config, freeze=freeze)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("backbone", ["iresnet18", "mobilefacenet", "sphereface20"])
def test_nothing_of_a_frozen_part_moves(tiny_config: MakeConfig, backbone: str, optimizer: str) -> None:
    trainer = frozen_trainer(
        tiny_config,
        freeze=2,
        backbone={"name": backbone, "width": 0.0625, "embedding_dim": 16, "dropout": 0.2},
        optimizer={"name": optimizer, "weight_decay": 0.1, "learning_rate": 0.01},
        ema_decay=0.5,
    )
    parts, before = list(trainer.backbone.parts()), states(trainer)
    learn(trainer, 3)
    assert moved(before, trainer) == parts[2:]
    average = trainer.measured.state_dict()
    still = {id(p) for part in parts[:2] for p in trainer.backbone.parts()[part].parameters()}
    for name, parameter in trainer.backbone.named_parameters():
        assert (parameter.grad is None) == (id(parameter) in still)
        assert torch.equal(average[name], parameter) == (id(parameter) in still)
    assert not still & {id(parameter) for parameter in trainer.optimizer.state}


def test_after_its_epochs_everything_trains(tiny_config: MakeConfig) -> None:
    trainer = frozen_trainer(tiny_config, freeze=["stem", "stage3"], freeze_epochs=1)
    before = states(trainer)
    learn(trainer, 6)
    assert moved(before, trainer) == ["stage1", "stage2", "stage4", "embedding"]
    learn(trainer, 1)
    assert moved(before, trainer) == KNOWN
    assert all(module.training for module in trainer.backbone.modules())
    assert all(parameter.grad is not None for parameter in trainer.parameters)


@pytest.mark.parametrize("partition", ["dense", "streaming", "hierarchical"])
def test_with_everything_frozen_only_the_head_learns(tiny_config: MakeConfig, partition: str) -> None:
    trainer = frozen_trainer(tiny_config, freeze=6, partition=partition)
    before, head = states(trainer), [p.detach().clone() for p in trainer.head.parameters()]
    learn(trainer, 2)
    assert moved(before, trainer) == []
    assert any(not torch.equal(*pair) for pair in zip(head, trainer.head.parameters(), strict=True))


def test_a_run_says_what_is_frozen_and_that_only_the_head_learns(tiny_config: MakeConfig, tmp_path: Path) -> None:
    train(tiny_config(epochs=1), console=QUIET)
    console = Console(record=True, width=200, file=(tmp_path / "shown").open("w", encoding="utf-8"))
    tuned = {"start_from": tmp_path / "run", "epochs": 1}
    train(tiny_config(output=tmp_path / "all", freeze=6, **tuned), console=console)
    assert f"frozen: {', '.join(KNOWN)}: only the head learns" in console.export_text()
    console.file.close()
    state = load_checkpoint(next((tmp_path / "all" / "checkpoints").iterdir())).state["backbone"]
    source = load_checkpoint(next((tmp_path / "run" / "checkpoints").iterdir())).state["backbone"]
    assert all(torch.equal(value, source[name]) for name, value in state.items())


@pytest.mark.parametrize("stopped_after", [4, 9], ids=["frozen", "thawed"])
def test_a_run_resumed_in_either_phase_ends_alike(
    tiny_config: MakeConfig, tmp_path: Path, other_people: Path, stopped_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = train(tiny_config(epochs=1, output=tmp_path / "source"), console=QUIET).checkpoint
    changes: dict[str, Any] = {"epochs": 3, "freeze": 2, "freeze_epochs": 1, "ema_decay": 0.9, "start_from": source}
    changes |= {"validation": {"images": other_people}, "optimizer": {"learning_rate": 0.02, "layer_decay": 0.7}}
    whole = train(tiny_config(**changes), console=QUIET)
    broken, step = tiny_config(**changes, output=tmp_path / "broken"), Trainer.train_step

    def interrupting(self: Trainer, batch: Batch) -> Any:
        losses = step(self, batch)
        if self.step == stopped_after:
            os.kill(os.getpid(), signal.SIGINT)
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupting)
        assert train(broken, console=QUIET).step == stopped_after
    resumed = train(broken, resume=True, console=QUIET)
    assert (tmp_path / "broken" / "loss.csv").read_bytes() == (tmp_path / "run" / "loss.csv").read_bytes()
    one, other = (load_checkpoint(result.checkpoint).state for result in (whole, resumed))
    assert one["history"]["validation"] == other["history"]["validation"]
    for found, expected in (
        (one["backbone"], other["backbone"]),
        (averaged_weights(one["average"]), averaged_weights(other["average"])),
    ):
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert int(one["average"]["n_averaged"]) == int(other["average"]["n_averaged"]) == 18


@pytest.mark.slow
def test_a_compiled_run_freezes_and_thaws(tiny_config: MakeConfig) -> None:
    backbone = {"name": "iresnet18", "width": 0.0625, "embedding_dim": 16}
    trainer = frozen_trainer(tiny_config, freeze=2, freeze_epochs=1, compile=True, backbone=backbone)
    before = states(trainer)
    learn(trainer, 6)
    assert moved(before, trainer) == KNOWN[2:]
    learn(trainer, 1)
    assert moved(before, trainer) == KNOWN
