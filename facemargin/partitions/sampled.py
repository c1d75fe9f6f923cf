"""A random part of the classes: those of the batch and some negatives, with Z estimated without bias."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .base import SampleLosses
from .flat import ClassRows, ClassSums, Flat, gathered
from .option_values import check_flag, checked_counts, is_integer, is_number
from .proposals import POWERS, PROPOSALS, Proposal, check_power, distinct_others, make_proposal

if TYPE_CHECKING:
    from facemargin.heads.base import Features, Head

Conditional = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""q(j given y): labels (M,) -> negatives (M, K) int64 and their log q (M, K), which may be None without correction."""


class Sampled(Flat):
    """Ẑ = Σ_{j in batch} e^{z_j} + Σ_{k=1…K, j_k not in batch} e^{z_{j_k}} / (K q(j_k)), and ℓ = log Ẑ − f_y.

    The classes of the batch's labels are always in play; the label's own score is f_y. Negatives are drawn anew each
    time, from torch's global generator. A drawn class that the batch already has is dropped; one drawn twice counts
    twice. So each class contributes e^{z_j} once in the mean, and E[Ẑ] = Z whatever q is, as long as every class can be
    drawn. ``uniform`` draws without replacement from the C−P classes that the P of the batch leave; there a class is in
    play with probability K/(C−P), which takes the place of K·q(j).

    Cost: 2·M·A·D operations forward and twice that backward, A ≤ P + K classes in play; O(A·D + M·A) memory beside the
    weight and its optimizer state. Gradients are sparse and hold the A rows alone, which `active_rows` names; with
    `facemargin.rowwise` momentum and decay too keep off all others. ``logits`` is exact and dense, (M, C); ``predict``
    is exact, in blocks.

    It gives up: log Ẑ is biased, low by Var(Ẑ)/(2Z²) to first order, and so is its gradient, a ratio of two
    estimates; the bias falls like 1/K. −log p_j of all classes is never known, so there is neither label smoothing nor
    self-normalising.

    Args:
        samples: K, beside the classes of the batch: a number ≥ 1, or a share of all classes in (0, 1], where Partial FC
            counts the batch's as part of the share. None is the larger of 1,024 and a tenth of the classes. Never more
            than there are; with all of them, ``uniform`` is ``dense``.
        proposal: q: ``uniform`` (without replacement); ``frequency`` or ``frequency-power``, see `Frequency`; a
            `Proposal`, also with replacement; or a callable for q(j given y) (bigrams, hard negatives), which decides
            on K itself: labels (M,) -> classes (M, K) and log q (M, K). Then each sample has negatives of its own, A is
            up to P + M·K, and classes that it can never draw are missing from Z.
        power: exponent of ``frequency`` (1 by default) and ``frequency-power`` (0.75 by default), in [0, 1].
        correction: whether scores of negatives get −log of their expected number of draws, as above. Without it every
            class in play counts once, as in Partial FC: Ẑ is then too small, about by C/K where classes are alike.
        class_counts: training samples of each class, for the frequency proposals.
        sparse_gradients: whether gradients of weight and bias are sparse tensors. Needs an optimizer that takes them.

    Raises:
        ValueError: a value is out of its range, or two do not go together.

    Attributes:
        active_rows: (A,) int64, sorted, each once: the rows that the last forward used and its backward will touch;
            None before the first. Ignored samples count as samples of class 0 here.

    Source:
        An et al., Partial FC, arXiv 2203.15565 §3; the correction: Jean et al., arXiv 1412.2007 §3, and Bengio and
        Senécal, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language Model", 2008.

    >>> from facemargin.heads import make_head
    >>> head = make_head("am-softmax", embedding_dim=4, num_classes=1000, partition=Sampled(samples=10))
    >>> head(torch.ones(2, 4), torch.tensor([5, 7])).backward()
    >>> len(head.partition.active_rows), head.weight.grad.is_sparse
    (12, True)
    """

    name = "sampled"
    exact = False
    sees_all_classes = False

    def __init__(
        self,
        *,
        samples: int | float | None = None,
        proposal: str | Proposal | Conditional = "uniform",
        power: float | None = None,
        correction: bool = True,
        class_counts: Sequence[int] | Tensor | None = None,
        sparse_gradients: bool = True,
    ) -> None:
        super().__init__()
        _check_samples(samples, proposal)
        _check_proposal(proposal)
        check_power(power, proposal)
        check_flag("correction", correction)
        check_flag("sparse_gradients", sparse_gradients)
        self.samples = samples if samples is None else int(samples) if is_integer(samples) else float(samples)
        self.proposal, self.power = proposal, power if power is None else float(power)
        self.correction, self.sparse_gradients = correction, sparse_gradients
        self.class_counts = None if class_counts is None else checked_counts(class_counts)
        self.active_rows: Tensor | None = None
        self._source: Proposal | None = None

    def cover(self, head: "Head", first: int, last: int) -> None:
        """Make the proposal for classes first … last − 1; see `Flat.cover`.

        In a shard negatives are drawn from these classes, their share of K, by q given that the class is one of them;
        the sum of the shards' Ẑ is an unbiased estimate of Z, as before.

        Raises:
            ValueError: the proposal does not fit the head, or cannot be cut.
        """
        classes, whole = head.num_classes, (first, last) == (0, head.num_classes)
        if self.class_counts is not None:
            checked_counts(self.class_counts, classes)
        if isinstance(self.proposal, str):
            self._source = make_proposal(self.proposal, classes, self.class_counts, self.power)
        elif isinstance(self.proposal, Proposal):
            self._source = self.proposal
        elif not whole:
            raise ValueError("a callable proposal names classes of all shards; in a shard use one of q(j) alone")
        if self._source is not None and self._source.num_classes != classes:
            raise ValueError(f"proposal is one over {self._source.num_classes} classes; the head has {classes}")
        if self._source is not None and not whole:
            self._source = self._source.within(first, last)

    def sums(self, head: "Head", features: "Features", rows: ClassRows, labels: Tensor) -> ClassSums:
        """Estimated sums: e^{log_sum + maximum} is Ẑ of these rows; see `Flat.sums`."""
        play = self._in_play(head, rows, labels, features.vectors.dtype)
        self.active_rows = play.classes
        weight, bias = gathered(head, features, rows, play.classes, sparse=self.sparse_gradients)
        scores = head.scores(features, weight, bias) / head.temperature
        present = labels >= 0
        index = torch.searchsorted(play.classes, labels).clamp_max(len(play.classes) - 1)
        # Of the gathered block, not of W: a second gather would make a second gradient for the same rows.
        target = head.target_scores(features, weight[index], None if bias is None else bias[index]) / head.temperature
        if play.shift is not None:
            scores = scores + play.shift
        index = index.unsqueeze(1)
        replaced = torch.where(present, target, scores.gather(1, index).squeeze(1))
        scores = scores.scatter(1, index, replaced.unsqueeze(1))
        maximum = scores.detach().amax(1)
        log_sum = (scores - maximum.unsqueeze(1)).exp().sum(1).log()
        return ClassSums(maximum, log_sum, torch.where(present, target, 0))

    def losses(self, head: "Head", features: "Features", labels: Tensor) -> SampleLosses:
        """Losses with Ẑ in the place of Z, which stays unknown; see `Partition.losses`."""
        return super().losses(head, features, labels)._replace(log_normaliser=None)

    @property
    def uses_class_counts(self) -> bool:
        """Whether negatives are drawn by frequency; see `Partition.uses_class_counts`."""
        return isinstance(self.proposal, str) and self.proposal in POWERS

    def options(self) -> dict[str, Any]:
        """See `Partition.options`.

        Raises:
            ValueError: the proposal is no name: objects cannot be written down.
        """
        if not isinstance(self.proposal, str):
            raise ValueError(
                f"proposal={self.proposal!r} cannot be saved as an option: only one given by name can "
                f"({', '.join(PROPOSALS)})"
            )
        return {
            "name": self.name,
            "samples": self.samples,
            "proposal": self.proposal,
            "power": self.power,
            "correction": self.correction,
            "class_counts": self.class_counts if self.uses_class_counts else None,
            "sparse_gradients": self.sparse_gradients,
        }

    # ---- inside -------------------------------------------------------------------------------------------------

    def _in_play(self, head: "Head", rows: ClassRows, labels: Tensor, dtype: torch.dtype) -> "_InPlay":
        batch = torch.unique(labels[labels >= 0])
        if self._source is None:
            return self._drawn_for_each(head, batch, labels, dtype)
        size = rows.weight.shape[0]
        if size != self._source.num_classes:
            raise ValueError(f"sums over {size} rows, with a proposal for {self._source.num_classes}: call cover first")
        count = math.ceil(self._wanted(head.num_classes) * size / head.num_classes)
        if self.proposal == "uniform":
            return self._drawn_from_others(batch, size, count, dtype)
        return self._drawn_with_replacement(self._source, batch, count, dtype)

    def _wanted(self, classes: int) -> int:
        if self.samples is None:
            return max(1024, math.ceil(classes / 10))
        return self.samples if isinstance(self.samples, int) else math.ceil(self.samples * classes)

    def _drawn_from_others(self, batch: Tensor, size: int, count: int, dtype: torch.dtype) -> "_InPlay":
        others = distinct_others(batch, size, count)
        classes = torch.cat((batch, others)).sort().values
        if not self.correction or len(others) == 0:
            return _InPlay(classes, None)
        shift = torch.full((len(classes),), math.log((size - len(batch)) / len(others)), dtype=dtype)
        return _InPlay(classes, _zero_at(shift.to(batch.device), classes, batch))

    def _drawn_with_replacement(self, source: Proposal, batch: Tensor, count: int, dtype: torch.dtype) -> "_InPlay":
        draws = source.sample(count, batch.device)
        classes = torch.unique(torch.cat((batch, draws)))
        if not self.correction:
            return _InPlay(classes, None)
        times = torch.bincount(torch.searchsorted(classes, draws), minlength=len(classes))
        shift = times.to(dtype).log() - math.log(count) - source.log_probability(classes).to(dtype)
        return _InPlay(classes, _zero_at(shift, classes, batch))

    def _drawn_for_each(self, head: "Head", batch: Tensor, labels: Tensor, dtype: torch.dtype) -> "_InPlay":
        draws, log_q = self._propose(head, labels)
        classes = torch.unique(torch.cat((batch, draws.flatten())))
        if len(classes) == 0:  # an empty batch: one row, so that its gradient exists, and is 0
            classes = batch.new_zeros(1)
        times = torch.zeros(len(labels), len(classes), dtype=dtype, device=labels.device)
        log_number = torch.zeros_like(times[:, :1]) if log_q is None else -(log_q.to(dtype) + math.log(draws.shape[1]))
        places = torch.searchsorted(classes, draws.contiguous())
        # Not scatter_add_, which adds in any order on CUDA.
        each = torch.arange(len(labels), device=labels.device).unsqueeze(1)
        times.index_put_((each, places), log_number.exp().expand(draws.shape), accumulate=True)
        shift = times.log() if log_q is not None else torch.where(times > 0, 0.0, -math.inf)
        return _InPlay(classes, _zero_at(shift, classes, batch))

    def _propose(self, head: "Head", labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the callable says, checked; without log q where no correction is wanted."""
        if isinstance(self.proposal, str | Proposal):
            raise ValueError("the partition belongs to no head yet")
        draws, log_q = self.proposal(labels)
        if draws.ndim != 2 or len(draws) != len(labels) or draws.dtype != torch.int64 or draws.shape[1] == 0:
            raise ValueError(
                f"proposal gave classes of shape {tuple(draws.shape)} and {draws.dtype}; "
                f"({len(labels)}, K ≥ 1) and int64 are needed"
            )
        if head.check_labels and bool(((draws < 0) | (draws >= head.num_classes)).any()):
            raise ValueError(f"proposal gave a class out of range: classes lie in [0, {head.num_classes - 1}]")
        if not self.correction:
            return draws, None
        if log_q is None or log_q.shape != draws.shape:
            raise ValueError(f"proposal gave no log q of shape {tuple(draws.shape)}, which correction=True needs")
        if head.check_labels and not bool(log_q.isfinite().all()):
            raise ValueError("proposal gave a log q that is not finite: a class that is drawn has q > 0")
        return draws, log_q


class _InPlay(NamedTuple):
    """What a batch is scored against.

    Attributes:
        classes: (A,) int64, sorted, each once.
        shift: (A,) or (M, A), what their scores divided by the temperature get on top; None is nothing.
    """

    classes: Tensor
    shift: Tensor | None


def _zero_at(shift: Tensor, classes: Tensor, batch: Tensor) -> Tensor:
    shift[..., torch.searchsorted(classes, batch)] = 0
    return shift


def _check_samples(samples: int | float | None, proposal: object) -> None:
    if samples is None:
        return
    if callable(proposal):
        raise ValueError(f"samples={samples!r} with a callable proposal: it decides itself how many it draws")
    if not (is_number(samples) and (samples >= 1 if is_integer(samples) else 0 < samples <= 1)):
        raise ValueError(f"samples={samples!r} is out of range: an integer ≥ 1, or a share of the classes in (0, 1]")


def _check_proposal(proposal: object) -> None:
    if isinstance(proposal, str) and proposal not in PROPOSALS:
        raise ValueError(f"proposal={proposal!r} is unknown; known proposals: {', '.join(PROPOSALS)}, or a callable")
    if not (isinstance(proposal, str | Proposal) or callable(proposal)):
        raise ValueError(f"proposal={proposal!r} is neither a name, nor a Proposal, nor a callable")
