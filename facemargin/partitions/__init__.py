"""Partitions: how the sum over C classes is paid for. One strategy a file; any head works with any of them.

To add one, write ``partitions/<name>.py`` with a `Partition` subclass and add one line to `PARTITIONS`.
"""

from collections.abc import Mapping
from typing import Any

from .base import Partition, SampleLosses
from .dense import Dense
from .flat import ClassRows, ClassSums, Flat

PARTITIONS: dict[str, type[Partition]] = {
    "dense": Dense,
}
"""Every partition by its name."""


def make_partition(partition: str | Mapping[str, Any] | Partition) -> Partition:
    """A partition by name with its defaults, by ``Partition.options()``, or the instance itself.

    Raises:
        ValueError: there is no partition of that name, or an option is unknown; the known ones are listed.

    >>> make_partition("dense").options()
    {'name': 'dense', 'self_normalize': 0.0}
    """
    if isinstance(partition, Partition):
        return partition
    options = {"name": partition} if isinstance(partition, str) else dict(partition)
    name = options.pop("name", None)
    if name not in PARTITIONS:
        raise ValueError(f"partition={name!r} is unknown; known partitions: {', '.join(PARTITIONS)}")
    try:
        return PARTITIONS[name](**options)
    except TypeError as error:
        raise ValueError(f"partition {name!r} does not take these options: {error}") from error


__all__ = ["PARTITIONS", "ClassRows", "ClassSums", "Dense", "Flat", "Partition", "SampleLosses", "make_partition"]
