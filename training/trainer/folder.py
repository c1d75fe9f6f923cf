"""The output folder of a run: whether it can be used, and the config in it."""

from pathlib import Path

from facemargin.errors import ConfigError
from training.checkpoint import checkpoints_in, newest_checkpoint
from training.config import TrainConfig
from training.whole_file import write_whole


def checkpoint_folder(config: TrainConfig, resume: bool) -> Path:
    """Where a run's checkpoints lie.

    Raises:
        ConfigError: another run lies there, and it is not to be resumed.
        CheckpointError: there is no checkpoint to resume from.
    """
    checkpoints = config.output / "checkpoints"
    if checkpoints_in(checkpoints) and not resume:
        raise ConfigError(f"{config.output} already holds a run; pass --resume to go on with it, or another --output")
    if resume:
        newest_checkpoint(checkpoints)
    return checkpoints


def write_config(config: TrainConfig) -> None:
    """Keep the resolved config beside the checkpoints, as ``config.json``."""
    config.output.mkdir(parents=True, exist_ok=True)
    write_whole(config.output / "config.json", config.model_dump_json(indent=2) + "\n")
