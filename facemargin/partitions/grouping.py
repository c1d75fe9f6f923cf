"""Ways to put C classes into groups: by frequency, by similarity, or as given. Each returns a group number a class."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .option_values import is_integer

ROWS_AT_ONCE = 4096
COLUMNS_AT_ONCE = 32


def groups_of_equal_size(frequencies: Sequence[float], num_groups: int) -> Tensor:
    """Frequency bins with the same number of classes, to within one; the most frequent classes are group 0.

    Args:
        frequencies: C weights ≥ 0; equal ones stay in the order of labels.
        num_groups: G in [1, C].

    Returns:
        (C,) int64 in [0, G).

    >>> groups_of_equal_size([5, 1, 9, 3], 2).tolist()
    [0, 1, 0, 1]
    """
    order = by_frequency(frequencies)
    ranks = torch.arange(len(order))
    return torch.empty_like(order).scatter(0, order, ranks * num_groups // max(len(order), 1))


def groups_of_equal_mass(frequencies: Sequence[float], num_groups: int) -> Tensor:
    """Frequency bins with about the same share of the samples: at most 1/G plus the share of one class.

    A class belongs to the bin that the middle of its share falls into. A class with more than 1/G of all samples may
    leave its neighbours' bins empty; these are left out, so that there may be fewer than G. A class without samples
    counts as one sample, or all of them would fall into one bin.

    Args:
        frequencies: C weights ≥ 0, counts or relative ones.
        num_groups: G in [1, C].

    Returns:
        (C,) int64 in [0, G' ≤ G), every group with at least one class.

    >>> groups_of_equal_mass([6, 1, 1, 2, 2], 2).tolist()
    [0, 1, 1, 1, 1]
    """
    order = by_frequency(frequencies)
    shares = torch.tensor(frequencies, dtype=torch.float64)
    shares = shares.where(shares > 0, 1.0)[order]
    shares = shares / shares.sum()
    middles = shares.cumsum(0) - shares / 2
    bins = (middles * num_groups).long().clamp(0, num_groups - 1)
    return torch.empty_like(order).scatter(0, order, _renumbered(bins))


def groups_by_similarity(vectors: Tensor, num_groups: int) -> Tensor:
    """Groups of classes whose vectors point the same way, of the same size to within one.

    Balanced bisecting 2-means: a set is halved by sorting it along the difference of its halves' means, which for fixed
    sizes is the best assignment to two means, ten times over; then each half again. O(C·D·log G) operations. Memory
    beside the vectors: one float32 copy of them on the CPU, and buffers of 32 of its columns or 4,096 of its rows.

    Args:
        vectors: (C, any) floating; only directions count.
        num_groups: G in [1, C].

    Returns:
        (C,) int64 in [0, G).

    Raises:
        ValueError: the vectors are not finite rows of numbers, or G is out of its range.

    >>> groups_by_similarity(torch.tensor([[1.0, 0.1], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.1]]), 2).unique().tolist()
    [0, 1]
    """
    check_vectors(vectors)
    check_num_groups(num_groups, len(vectors))
    unit = _unit_copy(vectors)
    classes, groups = torch.arange(len(unit)), torch.empty(len(unit), dtype=torch.int64)
    pending = [(0, num_groups)]
    while pending:
        first, count = pending.pop()
        start, stop = _end(first, len(unit), num_groups), _end(first + count, len(unit), num_groups)
        if count == 1:
            groups[classes[start:stop]] = first
            continue
        middle = first + count // 2
        part = unit[start:stop]
        order = _halves(part, _end(middle, len(unit), num_groups) - start)
        # Each set lies together from here on, so that the next ones are views.
        classes[start:stop] = classes[start:stop][order]
        for columns in torch.split(part, COLUMNS_AT_ONCE, 1):
            columns.copy_(columns[order])
        pending += [(first, middle - first), (middle, first + count - middle)]
    return groups


def check_vectors(vectors: Tensor) -> None:
    """Refuse class vectors that are not finite rows of numbers.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(vectors, Tensor):
        raise ValueError(f"class_vectors={vectors!r}: a tensor of finite floating (C, any) rows is needed")
    valid = vectors.ndim == 2 and vectors.is_floating_point()
    if not valid or not all(bool(part.isfinite().all()) for part in torch.split(vectors, ROWS_AT_ONCE)):
        raise ValueError(f"class_vectors of shape {tuple(vectors.shape)}: finite floating (C, any) rows are needed")


def given_groups(groups: Sequence[Any], num_classes: int) -> Tensor:
    """Check one group number a class, and renumber the groups 0, 1, … in rising order.

    Raises:
        ValueError: the length is wrong, or a number is not an integer.

    >>> given_groups([7, 3, 7], 3).tolist()
    [1, 0, 1]
    """
    if len(groups) != num_classes:
        raise ValueError(f"grouping has {len(groups)} entries; {num_classes} are needed, a group number a class")
    for j, group in enumerate(groups):
        if not is_integer(group):
            raise ValueError(f"grouping[{j}]={group!r}: a group number is an integer")
    return _renumbered(torch.tensor(groups, dtype=torch.int64))


def by_frequency(frequencies: Sequence[float]) -> Tensor:
    """(C,) the classes from the most frequent to the least, equal ones in the order of labels.

    >>> by_frequency([1, 5, 5]).tolist()
    [1, 2, 0]
    """
    return torch.tensor(sorted(range(len(frequencies)), key=lambda j: -frequencies[j]), dtype=torch.int64)


def check_num_groups(num_groups: int, num_classes: int) -> None:
    """Refuse a number of groups that leaves one empty.

    Raises:
        ValueError: it is not in [1, C].
    """
    if not is_integer(num_groups) or not 1 <= num_groups <= num_classes:
        raise ValueError(f"num_groups={num_groups!r} is out of range: it must be an integer in [1, {num_classes}]")


def _renumbered(groups: Tensor) -> Tensor:
    """0, 1, … for the numbers that occur, in rising order."""
    places: Tensor = torch.unique(groups, return_inverse=True)[1]
    return places


def _end(group: int, num_classes: int, num_groups: int) -> int:
    """How many classes the groups before ``group`` have together."""
    return group * num_classes // num_groups


def _halves(vectors: Tensor, size: int) -> Tensor:
    """An order of the vectors whose first ``size`` are one half and the rest the other. Moves their mean to 0."""
    vectors -= vectors.mean(0)
    axis = vectors[torch.linalg.vector_norm(vectors, dim=1).argmax()]
    for _ in range(10):
        order = (vectors @ axis).argsort(descending=True, stable=True)
        signed = torch.full((len(vectors),), -1 / (len(vectors) - size)).index_fill(0, order[:size], 1 / size)
        axis = signed @ vectors  # the difference of the halves' means, without a copy of either
    return order


def _unit_copy(vectors: Tensor) -> Tensor:
    """Directions in float32 on the CPU."""
    unit = torch.empty(vectors.shape)
    for part, into in zip(torch.split(vectors.detach(), ROWS_AT_ONCE), torch.split(unit, ROWS_AT_ONCE), strict=True):
        into.copy_(torch.nn.functional.normalize(part.double(), dim=1))
    return unit
