"""The class rows split over the processes of torch.distributed: each sums over its own, and they add up their sums."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .base import Partition, SampleLosses
from .collectives import (
    Group,
    gather_batch,
    gather_numbers,
    gather_rows,
    largest_over_ranks,
    shared,
    sum_over_ranks,
    world,
)
from .flat import ClassRows, ClassSums, Flat, best_class
from .option_values import check_flag

if TYPE_CHECKING:
    from facemargin.heads.base import Features, Head

ROWS_DRAWN_AT_ONCE = 1 << 16


class Sharded(Flat):
    """log Z = log Σ_r exp(log Z_r): rank r of R holds the class rows [start, stop) and sums over them.

    Every rank gets the embeddings and labels of all ranks, and so computes the same loss, that of ``dense`` on the
    whole batch: Σ w ℓ / Σ w over the samples of all ranks, with class weights, ignored samples and smoothing. Batches
    may differ in size and be empty, and there may be fewer classes than ranks. A label out of range on one rank raises
    on all. Embeddings or labels of a wrong shape or dtype raise only where they are, before anything is sent: the other
    ranks wait for that one until the group's timeout. Loss, ``logits`` and ``predict`` are collective calls: every rank
    makes them, with its own samples.

    Gradients and DDP. A rank's class rows get their whole gradient at home: keep the head out of
    ``DistributedDataParallel`` and wrap the backbone alone. DDP divides the backbone's gradients by R, so the gradient
    that embeddings get back is R times that of the loss, and after DDP's averaging it is that of the loss. A learned
    scale or ``log_z`` is the same on every rank and gets the same, whole gradient there. A norm of gradients over the
    rows of all classes has to be added up over ranks by whoever clips by it.

    Cost on each of R ranks: what ``inner`` costs for C/R classes; messages of (M, D) embeddings forward and
    (M, 2·D + 1) gradients backward, M the whole batch, and O(M) sums. Before training each rank draws all C rows, a
    block at a time, and keeps its own.

    It gives up: second derivatives, and the gradient of ``logits``, where there are several ranks.

    Args:
        inner: how a rank sums over its own classes: ``dense``, ``streaming`` or ``sampled`` by name, by options, or an
            instance.
        self_normalize: see `Flat`.
        gradients_are_averaged: whether the backbone's gradients are divided by R afterwards, as DDP does; with False
            the embeddings get the gradient of the loss itself.
        group: the processes; the default group by default. Without an initialised group there is one shard. Initialise
            it before the head is built.

    Raises:
        ValueError: ``inner`` cannot sum over a part of the classes.
        RuntimeError: in use, the process group is not the one that the head was built under.

    Attributes:
        class_range: (start, stop), the classes of this rank. ``head.weight`` is (stop − start, D): whole only where
            there is one process. Under one seed the rows are the same for every R.

    Source:
        Deng et al., ArcFace, arXiv 1801.07698, §3.2 (model parallel).

    >>> from facemargin.heads import make_head
    >>> make_head("arcface", embedding_dim=2, num_classes=3, partition="sharded").partition.class_range
    (0, 3)
    """

    name = "sharded"

    class_range: tuple[int, int]

    def __init__(
        self,
        *,
        inner: str | Mapping[str, Any] | Partition = "dense",
        self_normalize: float = 0.0,
        gradients_are_averaged: bool = True,
        group: Group = None,
    ) -> None:
        from . import make_partition  # the registry lists this class too

        super().__init__(self_normalize=self_normalize)
        chosen = make_partition(inner)
        if not isinstance(chosen, Flat) or isinstance(chosen, Sharded) or chosen.self_normalize > 0:
            raise ValueError(
                f"inner={chosen.name!r} cannot sum over a shard; use 'dense', 'streaming' or 'sampled', and give "
                "self_normalize to 'sharded' itself"
            )
        if self_normalize > 0 and not chosen.exact:
            raise ValueError(
                f"self_normalize={self_normalize!r} needs log Z, which inner={chosen.name!r} only estimates"
            )
        check_flag("gradients_are_averaged", gradients_are_averaged)
        self.inner = chosen
        self.gradients_are_averaged = gradients_are_averaged
        self.group = group

    @property
    def uses_class_counts(self) -> bool:
        """See `Partition.uses_class_counts`."""
        return self.inner.uses_class_counts

    def allocate(self, head: "Head") -> None:
        """This rank's rows; see `Partition.allocate`."""
        if head.label_smoothing > 0 and not self.inner.sees_all_classes:
            raise ValueError(
                f"label_smoothing={head.label_smoothing:g} needs −log p of every class, which "
                f"inner={self.inner.name!r} never computes; use label_smoothing=0 or inner='dense' or 'streaming'"
            )
        rank, ranks = self._world = world(self.group)
        if rank < 0:
            raise ValueError("group does not have this process: build the head on the group's own ranks alone")
        self.class_range = shard_range(head.num_classes, rank, ranks)
        if getattr(self.inner, "_bound", False):
            raise ValueError(f"this {self.inner.name!r} partition already belongs to a head: make a new inner for each")
        super().allocate(head)
        self.inner._bound = True

    def new_parameters(self, head: "Head") -> tuple[nn.Parameter, nn.Parameter | None]:
        """Own rows and biases, drawn as if there were one process; see `Flat.new_parameters`."""
        start, stop = self.class_range
        rows = torch.empty(stop - start, head.embedding_dim)
        for first in range(0, head.num_classes, ROWS_DRAWN_AT_ONCE):
            block = head.new_rows(min(ROWS_DRAWN_AT_ONCE, head.num_classes - first)).detach()
            own = slice(max(start - first, 0), max(stop - first, 0))
            rows[max(first - start, 0) :][: len(block[own])] = block[own]
        return nn.Parameter(rows), head.new_biases(stop - start)

    def cover(self, head: "Head", first: int, last: int) -> None:
        """Hand this rank's part of the classes to ``inner``; see `Flat.cover`."""
        if self.class_range[0] < self.class_range[1]:
            self.inner.cover(head, *self.class_range)

    def whole_batch(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The samples of all ranks; see `Partition.whole_batch`."""
        ranks = self._ranks()
        if ranks == 1:
            return embeddings, labels
        factor = ranks if self.gradients_are_averaged else 1
        rows, sizes = gather_batch(embeddings, self.group, factor=factor)
        return rows, gather_rows(labels.to(embeddings.device, torch.int64), sizes, self.group)

    def losses(self, head: "Head", features: "Features", labels: Tensor) -> SampleLosses:
        """Losses of the whole batch, with log Z where ``inner`` knows it; see `Partition.losses`."""
        found = super().losses(head, features, labels)
        return found if self.inner.exact else found._replace(log_normaliser=None)

    def sums(self, head: "Head", features: "Features", rows: ClassRows, labels: Tensor) -> ClassSums:
        """Own sums, and those of all ranks added up; see `Flat.sums`."""
        start, stop = self.class_range
        weights = None if rows.class_weights is None else rows.class_weights[start:stop]
        mine = (labels >= start) & (labels < stop)
        part = self._own_sums(
            head,
            type(features)(*shared(tuple(features), self.group)),
            ClassRows(rows.weight, rows.bias, weights),
            torch.where(mine, labels - start, -1),
        )
        return part if self._ranks() == 1 else self._added_up(part)

    def logits(self, head: "Head", features: "Features") -> Tensor:
        """(M, C) scores of this rank's samples, without gradient where there are several ranks; a collective call."""
        if self._ranks() == 1:
            return super().logits(head, features)
        with torch.no_grad():
            everyone, own = self._everyone(features)
            columns = head.scores(everyone, head.weight, head.bias).T
            ranks = self._world[1]
            spans = [shard_range(head.num_classes, rank, ranks) for rank in range(ranks)]
            return gather_rows(columns, [stop - start for start, stop in spans], self.group).T[own]

    def predict(self, head: "Head", features: "Features") -> Tensor:
        """(M,) classes of this rank's samples; a collective call."""
        if self._ranks() == 1:
            return super().predict(head, features)
        everyone, own = self._everyone(features)
        score, place = best_class(head, everyone, head.weight, head.bias)
        once = [1] * self._world[1]
        scores = gather_rows(score.unsqueeze(0), once, self.group)
        classes = gather_rows((place + self.class_range[0]).unsqueeze(0), once, self.group)
        # The first of equal scores, and ranks hold classes in order: the lowest class in a tie.
        return classes.gather(0, scores.argmax(0, keepdim=True)).squeeze(0)[own]

    @property
    def active_rows(self) -> Tensor | None:
        """Places in this rank's shard that the last forward used, where ``inner`` uses a part; see `Sampled`."""
        rows: Tensor | None = getattr(self.inner, "active_rows", None)
        return rows

    def options(self) -> dict[str, Any]:
        """See `Partition.options`; the process group is not part of them."""
        own = {"inner": self.inner.options(), "gradients_are_averaged": self.gradients_are_averaged}
        return {**super().options(), **own}

    def _ranks(self) -> int:
        if world(self.group) != self._world:
            raise RuntimeError(
                f"the head was built as rank {self._world[0]} of {self._world[1]}, and is now used as "
                f"{world(self.group)[0]} of {world(self.group)[1]}: build it after init_process_group"
            )
        return self._world[1]

    def _own_sums(self, head: "Head", features: "Features", rows: ClassRows, labels: Tensor) -> ClassSums:
        if len(rows.weight) > 0:
            return self.inner.sums(head, features, rows, labels)
        # With gradient: this rank too must take part in the exchange of backward, and its empty rows get empty ones.
        nothing = 0 * features.vectors.sum(1) + rows.weight.sum() + (0 if rows.bias is None else rows.bias.sum())
        maximum = torch.full_like(nothing.detach(), -math.inf)
        return ClassSums(maximum, nothing, nothing, nothing if head.label_smoothing > 0 else None)

    def _added_up(self, part: ClassSums) -> ClassSums:
        maximum = largest_over_ranks(part.maximum, self.group)
        terms = [(part.log_sum + (part.maximum - maximum)).exp(), part.target]
        if part.weighted_scores is not None:
            terms.append(part.weighted_scores)
        total, target, *weighted = sum_over_ranks(torch.stack(terms), self.group)
        return ClassSums(maximum, total.log(), target, weighted[0] if weighted else None)

    def _everyone(self, features: "Features") -> tuple["Features", slice]:
        """The features of all ranks, and where this rank's are."""
        counts = gather_numbers([len(features.vectors)], features.vectors.device, self.group)
        sizes = [count for (count,) in counts]
        start = sum(sizes[: self._world[0]])
        everyone = type(features)(*(gather_rows(values, sizes, self.group) for values in features))
        return everyone, slice(start, start + len(features.vectors))


def shard_range(num_classes: int, rank: int, ranks: int) -> tuple[int, int]:
    """The classes [start, stop) of a rank; sizes differ by at most one, the larger ones first.

    >>> [shard_range(7, rank, 3) for rank in range(3)]
    [(0, 3), (3, 5), (5, 7)]
    """
    size, larger = divmod(num_classes, ranks)
    start = rank * size + min(rank, larger)
    return start, start + size + (rank < larger)
