"""Reading a run back: the model that a checkpoint holds, and whether a config is that of a saved run."""

import json
from pathlib import Path
from typing import Any

import torch

from facemargin.backbones import Backbone
from facemargin.errors import CheckpointError, ConfigError
from training.averaging import averaged_weights
from training.checkpoint import Checkpoint, open_checkpoint
from training.config import TrainConfig, make_config
from training.freezing import frozen_names
from training.trainer.build import build_backbone

_FREE = ("output", "accumulate", "checkpoint_minutes", "keep_checkpoints", "test")
_FREE_OF_DATA = ("workers", "cache", "on_bad_image", "max_bad_share")


def restore_model(path: Path, *, average: bool = True) -> tuple[Backbone, TrainConfig, Checkpoint]:
    """The trained backbone of a checkpoint, in eval mode on the CPU, with the config it was trained with.

    Args:
        path: a checkpoint folder, or a run's output folder (its newest checkpoint is taken).
        average: take the averaged weights where the run kept them; False takes those of the last step.

    Raises:
        CheckpointError: no or a damaged checkpoint, or one that does not fit its own config.
    """
    checkpoint = open_checkpoint(path)
    try:
        config = make_config(checkpoint.state["config"], str(checkpoint.path))
        backbone = build_backbone(config)
        backbone.load_state_dict(trained_weights(checkpoint.state, average=average))
    except (ConfigError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint.path} does not hold the model that its config describes: {error}"
        ) from error
    return backbone.eval(), config, checkpoint


def trained_weights(state: dict[str, Any], *, average: bool = True) -> dict[str, torch.Tensor]:
    """The backbone's weights in a checkpoint's state.

    Args:
        state: of `training.checkpoint.Checkpoint`; one that was written before runs could average has no ``average``.
        average: as in `restore_model`.
    """
    kept = state.get("average") if average else None
    weights: dict[str, torch.Tensor] = state["backbone"] if kept is None else averaged_weights(kept)
    return weights


def require_same_run(config: TrainConfig, saved: dict[str, Any], path: Path) -> None:
    """Compare a config with the saved one of a run.

    Where it lies, how often it saves, in how many parts it computes a batch, how its pictures are fetched, what happens
    to unreadable ones, how the same frozen parts are written down, and the options of heads and partitions that it does
    not use may differ. So may the number of ranks, which is no setting.

    Raises:
        CheckpointError: naming the settings that differ.
    """
    now = _deciding(config)
    before = _deciding(make_config(saved, str(path)))  # settings that are newer than it have defaults
    changed = sorted(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
    if changed:
        raise CheckpointError(
            f"{path} belongs to a run with other settings of: {', '.join(changed)}; "
            "resume with the saved config.json's values, or start a new run in another output folder"
        )


def _deciding(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide what a run computes."""
    values: dict[str, Any] = {
        key: value for key, value in json.loads(config.model_dump_json()).items() if key not in _FREE
    }
    values["data"] = {key: value for key, value in values["data"].items() if key not in _FREE_OF_DATA}
    values["heads"] = values["heads"].get(config.head, {})
    values["partitions"] = values["partitions"].get(config.partition, {})
    values["freeze"] = _frozen(config)
    return values


def _frozen(config: TrainConfig) -> list[str]:
    """Names of the frozen parts, whether the config names or counts them."""
    if not config.freeze:
        return []
    with torch.device("meta"):  # for the names alone
        backbone = build_backbone(config)
    return frozen_names(list(backbone.parts()), config.freeze, backbone.name)
