"""The output folder of a run: whether it can be used, and the config in it."""

from facemargin.errors import ConfigError
from training.checkpoint import checkpoints_in
from training.config import TrainConfig
from training.whole_file import write_whole


def require_unused(config: TrainConfig) -> None:
    """Refuse to start where a run lies already.

    Raises:
        ConfigError: naming what to do.
    """
    if checkpoints_in(config.output / "checkpoints"):
        raise ConfigError(f"{config.output} already holds a run; pass --resume to go on with it, or another --output")


def write_config(config: TrainConfig) -> None:
    """Keep the resolved config beside the checkpoints, as ``config.json``."""
    config.output.mkdir(parents=True, exist_ok=True)
    write_whole(config.output / "config.json", config.model_dump_json(indent=2) + "\n")
