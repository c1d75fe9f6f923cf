"""Class-based softmax: first the group, then the class within it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .base import SampleLosses
from .factorised import Factorised, level_log_p, level_nll, split_features
from .grouping import (
    check_num_groups,
    check_vectors,
    given_groups,
    groups_by_similarity,
    groups_of_equal_mass,
    groups_of_equal_size,
)
from .option_values import is_integer, plain_list

if TYPE_CHECKING:
    from facemargin.heads.base import Features, Head

BY_FREQUENCY = {"size": groups_of_equal_size, "mass": groups_of_equal_mass}
"""Groupings that need nothing but frequencies."""


class ClassBased(Factorised):
    """P(class) = P(group)·P(class | group): two small softmaxes instead of a large one.

    −log P(y) = log Σ_g exp(z_g/T) − f_g(y)/T + log Σ_{j in g(y)} exp(z_j/T) − f_y/T, where each sum holds the target's
    margined score. Groups have a row (and bias) each, like classes, so the margin acts twice: on the group, which
    has to beat the other groups by it, and on the class, against its own group only. With one group, or a group to each
    class, it is the flat softmax.

    What it gives up: a class is compared with other groups through its group's row alone. Groups of similar classes
    suit the first level, but leave hard work to the second.

    Cost: 2·D·(G + the size of the label's group) operations a sample forward, twice that backward; for G = √C groups of
    equal size 4·D·√C. With ``"mass"`` that holds on average over the samples, and single groups of rare classes may be
    large. Samples are sorted by group, and the groups in the batch taken in turn, so many groups in a small batch cost
    overhead; on CUDA, sorting waits for the device once. Memory: (C + G)·D parameters, a dense gradient, and for unit
    rows a normalised copy of the groups in the batch. ``logits`` cost 2·M·C·D operations and (M, C) memory.

    Args:
        grouping: ``"size"``: frequency bins with equal numbers of classes. ``"mass"``: frequency bins with equal shares
            of the samples. ``"similarity"``: equal numbers of classes whose ``class_vectors`` point the same way. Or
            (C,) group numbers, any integers.
        num_groups: G in [1, C], by default √C rounded; not with given groups.
        class_counts: see `Factorised`.
        class_vectors: (C, any), say the class rows of an earlier training; only for ``"similarity"``. `options` records
            the groups found, not the vectors.

    Raises:
        ValueError: a value is out of its range, or options contradict each other.

    Source:
        Goodman, "Classes for Fast Maximum Entropy Training", ICASSP 2001, arXiv cs/0108006; frequency bins of equal
        mass: Mikolov et al., "Extensions of Recurrent Neural Network Language Model", ICASSP 2011.

    >>> from facemargin.heads import make_head
    >>> head = make_head("am-softmax", embedding_dim=4, num_classes=9, partition="class-based")
    >>> head.partition.group_rows.shape, head.partition.class_rows.shape
    (torch.Size([3, 4]), torch.Size([9, 4]))
    >>> torch.allclose(head.logits(torch.randn(2, 4)).exp().sum(1), torch.ones(2))
    True
    """

    name = "class-based"

    group_rows: nn.Parameter
    group_biases: nn.Parameter | None
    class_rows: nn.Parameter
    class_biases: nn.Parameter | None
    group_of: Tensor
    position: Tensor
    first: Tensor

    def __init__(
        self,
        *,
        grouping: str | Sequence[int] | Tensor = "size",
        num_groups: int | None = None,
        class_counts: Sequence[int] | Tensor | None = None,
        class_vectors: Tensor | None = None,
    ) -> None:
        super().__init__(class_counts=class_counts)
        known = (*BY_FREQUENCY, "similarity")
        if isinstance(grouping, str) and grouping not in known:
            raise ValueError(f"grouping={grouping!r} is unknown; use {', '.join(known)}, or a group number a class")
        if (grouping == "similarity" if isinstance(grouping, str) else False) != (class_vectors is not None):
            raise ValueError("class_vectors and grouping='similarity' need each other")
        if num_groups is not None:
            check_num_groups(num_groups, max(num_groups, 1) if is_integer(num_groups) else 1)
            if not isinstance(grouping, str):
                raise ValueError(f"num_groups={num_groups} has no meaning where grouping gives the groups")
        if class_vectors is not None:
            check_vectors(class_vectors)
            grouping = groups_by_similarity(class_vectors, num_groups or default_num_groups(len(class_vectors)))
            num_groups = None
        self.grouping = grouping if isinstance(grouping, str) else plain_list("grouping", grouping)
        self.num_groups = None if num_groups is None else int(num_groups)

    def allocate(self, head: "Head") -> None:
        """Rows of groups, and rows of classes in the order of groups; see `Partition.allocate`."""
        groups = self._groups(head.num_classes)
        self.sizes: list[int] = groups.bincount().tolist()
        order = groups.argsort(stable=True)
        self.register_buffer("group_of", groups, persistent=False)
        self.register_buffer("position", order.argsort(), persistent=False)
        ends = torch.tensor(self.sizes).cumsum(0)
        self.register_buffer("first", ends - torch.tensor(self.sizes), persistent=False)
        self.group_rows = head.new_rows(len(self.sizes))
        self.register_parameter("group_biases", head.new_biases(len(self.sizes)))
        self.class_rows = head.new_rows(head.num_classes)
        self.register_parameter("class_biases", head.new_biases(head.num_classes))
        self.remember(groups)

    def losses(self, head: "Head", features: "Features", labels: Tensor) -> SampleLosses:
        """−log P(group) − log P(class | group), the margin in both; see `Partition.losses`."""
        groups = self.group_of[labels]
        nll = level_nll(head, features, self.group_rows, self.group_biases, groups)
        return SampleLosses(nll + self._within_groups(head, features, labels, groups))

    def logits(self, head: "Head", features: "Features") -> Tensor:
        """(M, C) log P(class) without margin; see `Partition.logits`."""
        groups = level_log_p(head, features, self.group_rows, self.group_biases)
        levels = [
            group + level_log_p(head, features, weight, bias)
            for group, (weight, bias) in zip(torch.split(groups, 1, 1), self._blocks(), strict=True)
        ]
        return torch.cat(levels, 1).index_select(1, self.position)

    def decayed_parameters(self, head: "Head") -> list[nn.Parameter]:
        """Both levels' rows, where the head does not normalise them."""
        return [] if head.unit_weights else [self.group_rows, self.class_rows]

    @property
    def uses_class_counts(self) -> bool:
        """Whether groups are made by frequency; see `Partition.uses_class_counts`."""
        return isinstance(self.grouping, str)

    def options(self) -> dict[str, Any]:
        """See `Partition.options`."""
        return {**super().options(), "grouping": self.grouping, "num_groups": self.num_groups}

    def _groups(self, num_classes: int) -> Tensor:
        frequencies = self.frequencies(num_classes)
        if not isinstance(self.grouping, str):
            return given_groups(self.grouping, num_classes)
        num_groups = default_num_groups(num_classes) if self.num_groups is None else self.num_groups
        check_num_groups(num_groups, num_classes)
        return BY_FREQUENCY[self.grouping](frequencies, num_groups)

    def _blocks(self) -> list[tuple[Tensor, Tensor | None]]:
        """Rows and biases of each group, as views."""
        # One split, not a slice a group: backward of each slice would fill a (C, D) gradient of its own.
        weights = torch.split(self.class_rows, self.sizes)
        biases = [None] * len(self.sizes) if self.class_biases is None else torch.split(self.class_biases, self.sizes)
        return list(zip(weights, biases, strict=True))

    def _within_groups(self, head: "Head", features: "Features", labels: Tensor, groups: Tensor) -> Tensor:
        """(M,) −log P(class | group), group by group over those in the batch."""
        counts: list[int] = groups.bincount(minlength=len(self.sizes)).tolist()
        order = groups.argsort(stable=True)
        targets = torch.split((self.position[labels] - self.first[groups])[order], counts)
        samples = split_features(features, order, counts)
        blocks = self._blocks()
        # An empty batch goes through one group, so that every parameter gets its zero gradient.
        present = [group for group, count in enumerate(counts) if count] or [0]
        nll = [level_nll(head, samples[group], *blocks[group], targets[group]) for group in present]
        return torch.cat(nll)[order.argsort()]


def default_num_groups(num_classes: int) -> int:
    """√C, rounded: the number of equal groups for which both levels together are cheapest.

    >>> default_num_groups(10_000)
    100
    """
    return max(1, round(math.sqrt(num_classes)))
