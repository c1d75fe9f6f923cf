"""What values options of partitions may have: whole numbers, numbers, flags, lists, and class counts."""

import numbers
from collections.abc import Sequence
from typing import Any, TypeGuard

from torch import Tensor


def is_integer(value: object) -> bool:
    """Whether a value is a whole number, NumPy's among them, and not a bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number, NumPy's among them, and not a bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_flag(name: str, value: object) -> None:
    """Refuse a flag that is not a bool: the string ``"false"`` would count as true.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is out of range: it must be True or False")


def plain_list(name: str, values: Sequence[Any] | Tensor) -> list[Any]:
    """A list of Python values from a list, an array or a tensor.

    Raises:
        ValueError: it is none of them.
    """
    as_list: Any = getattr(values, "tolist", None)
    found = values if as_list is None else as_list()
    if isinstance(found, str | bytes) or not isinstance(found, Sequence):
        raise ValueError(f"{name}={values!r} is out of range: it must be a list, an array or a tensor with one axis")
    return [int(value) if is_integer(value) else value for value in found]


def checked_counts(class_counts: Sequence[int] | Tensor, num_classes: int | None = None) -> list[int]:
    """How many training samples each class has, as ints.

    Args:
        class_counts: (C,) whole numbers ≥ 0, of any numeric type.
        num_classes: C where it is known.

    Raises:
        ValueError: they are not one whole number ≥ 0 a class.

    >>> checked_counts([3, 0.0, 5.0])
    [3, 0, 5]
    """
    counts = plain_list("class_counts", class_counts)
    if num_classes is not None and len(counts) != num_classes:
        raise ValueError(f"class_counts has {len(counts)} entries; {num_classes} are needed, one a class")
    for j, count in enumerate(counts):
        if not (is_number(count) and count >= 0 and float(count).is_integer()):
            raise ValueError(f"class_counts[{j}]={count!r} is out of range: a count is an integer ≥ 0")
    return [int(count) for count in counts]
