"""Partitions: how the sum over C classes is paid for. One strategy a file; any head works with any of them.

To add one, write ``partitions/<name>.py`` with a `Partition` subclass and add one line to `PARTITIONS`.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from .adaptive import Adaptive
from .base import Partition, SampleLosses
from .class_based import ClassBased
from .dense import Dense
from .factorised import Factorised
from .flat import ClassRows, ClassSums, Flat
from .hierarchical import Hierarchical
from .nce import NCE
from .proposals import Frequency, Proposal, Uniform
from .sampled import Sampled
from .sharded import Sharded
from .streaming import Streaming

PARTITIONS: dict[str, type[Partition]] = {
    "dense": Dense,
    "streaming": Streaming,
    "sharded": Sharded,
    "sampled": Sampled,
    "class-based": ClassBased,
    "hierarchical": Hierarchical,
    "adaptive": Adaptive,
    "nce": NCE,
}
"""Every partition by its name."""


def make_partition(partition: str | Mapping[str, Any] | Partition) -> Partition:
    """A partition by name with its defaults, by ``Partition.options()``, or the instance itself.

    Raises:
        ValueError: there is no partition of that name, or an option is unknown, where the known ones are listed; or a
            value is out of its range.

    >>> make_partition("dense").options()
    {'name': 'dense', 'self_normalize': 0.0}
    """
    if isinstance(partition, Partition):
        return partition
    options = dict(partition) if isinstance(partition, Mapping) else {"name": partition}
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in PARTITIONS:
        raise ValueError(
            f"partition={name!r} is unknown; known partitions: {', '.join(PARTITIONS)}; give a name, a mapping with a "
            "name and options, or an instance"
        )
    for option, value in options.items():
        _check_option(name, option, value)
    return PARTITIONS[name](**options)


def partition_options(name: str) -> tuple[str, ...]:
    """The options that a partition takes.

    >>> partition_options("dense")
    ('self_normalize',)
    """
    return tuple(inspect.signature(PARTITIONS[name]).parameters)


def _check_option(name: str, option: str, value: object) -> None:
    known = partition_options(name)
    if option in known:
        return
    if option != "self_normalize":
        raise ValueError(f"{option}={value!r}: partition {name!r} takes no {option}; its options: {', '.join(known)}")
    why = "Z is 1 by construction" if PARTITIONS[name].factorised else "Z is only estimated"
    raise ValueError(
        f"self_normalize={value!r}: with partition {name!r} {why}; use partition 'dense', 'streaming' or 'sharded'"
    )


__all__ = [
    "NCE",
    "PARTITIONS",
    "Adaptive",
    "ClassBased",
    "ClassRows",
    "ClassSums",
    "Dense",
    "Factorised",
    "Flat",
    "Frequency",
    "Hierarchical",
    "Partition",
    "Proposal",
    "SampleLosses",
    "Sampled",
    "Sharded",
    "Streaming",
    "Uniform",
    "make_partition",
    "partition_options",
]
