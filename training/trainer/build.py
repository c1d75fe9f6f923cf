"""What a config describes, built: the backbone, and the head with its partition."""

from collections.abc import Sequence
from typing import Any

from facemargin.backbones import Backbone, make_backbone
from facemargin.errors import ConfigError
from facemargin.heads import HEADS, Head, make_head
from facemargin.partitions import PARTITIONS, Sharded, make_partition, partition_options
from training.config import TrainConfig

ROW_NAMES = ("weight", "bias")
"""What a flat head keeps a row a class of, as its state dict names it."""


def build_backbone(config: TrainConfig) -> Backbone:
    """The backbone of a run, with the input size of its preprocessing.

    Raises:
        ConfigError: an unknown backbone or an argument out of range.
    """
    try:
        return make_backbone(**config.backbone.model_dump(), input_size=config.preprocessing.size)
    except ValueError as error:
        raise ConfigError(f"backbone: {error}") from error


def build_head(config: TrainConfig, class_counts: Sequence[int], total_steps: int) -> Head:
    """The head of a run, its λ schedule stated for the run's length unless the config gives one.

    Args:
        config: the run.
        class_counts: training images of each person; partitions that go by frequency are told them.
        total_steps: optimizer steps of the run.

    Raises:
        ConfigError: an unknown head or partition, or an option that it refuses.
    """
    options = dict(config.head_options)
    if options.get("annealing") == "none":  # TOML has no null
        options["annealing"] = None
    elif "annealing" not in options and config.head in HEADS:
        planned = HEADS[config.head].annealing_for_run(total_steps)
        options |= {} if planned is None else {"annealing": planned}
    size = {"embedding_dim": config.backbone.embedding_dim, "num_classes": len(class_counts)}
    try:
        summing = make_partition(_with_class_counts(config.partition_options, list(class_counts)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"partitions.{config.partition}: {error}") from error
    try:
        return make_head(config.head, **size, partition=summing, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"heads.{config.head}: {error}") from error


def class_range(head: Head) -> tuple[int, int]:
    """The classes whose rows this process has: all of them, or those of its shard."""
    return head.partition.class_range if isinstance(head.partition, Sharded) else (0, head.num_classes)


def _with_class_counts(partition: Any, class_counts: list[int]) -> dict[str, Any]:
    """Options of a partition, and of the one inside it, with the counts where they are wanted and not given."""
    options = {"name": partition} if isinstance(partition, str) else dict(partition)
    if options.get("name") in PARTITIONS and "class_counts" in partition_options(options["name"]):
        options.setdefault("class_counts", class_counts)
    if "inner" in options:
        options["inner"] = _with_class_counts(options["inner"], class_counts)
    return options
