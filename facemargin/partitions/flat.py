"""What partitions with one row a class have in common: sums over a block of classes, and the losses made of them."""

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Partition, SampleLosses
from .option_values import is_number

if TYPE_CHECKING:
    from facemargin.heads.base import Features, Head


class ClassRows(NamedTuple):
    """Some of the classes.

    Attributes:
        weight: (B, D) rows of the parameter.
        bias: (B,) or None.
        class_weights: (B,) or None.
    """

    weight: Tensor
    bias: Tensor | None
    class_weights: Tensor | None


class ClassSums(NamedTuple):
    """What M samples need to know of some classes. All scores are divided by the temperature.

    Attributes:
        maximum: (M,) a shift at or near the largest score, without gradient.
        log_sum: (M,) log Σ_j exp(z_j − maximum), the target's score replaced by the margined one.
        target: (M,) the margined score f_y, 0 where the target is not among these classes.
        weighted_scores: (M,) Σ_j v_j z_j, v the class weights (or 1), the target's score replaced; only needed with
            label smoothing, else None.
    """

    maximum: Tensor
    log_sum: Tensor
    target: Tensor
    weighted_scores: Tensor | None = None


class Flat(Partition):
    """log Z = log(exp(f_y/T) + Σ_{j≠y} exp(z_j/T)) over one row a class; a subclass says how it is summed.

    Args:
        self_normalize: a ≥ 0; a > 0 adds a·(log Z − c)² to the loss of each sample, so that scores become
            log-probabilities and prediction needs no sum. For heads with biases c = 0; the others cannot move log Z
            freely, and get a learned scalar c, the attribute ``log_z``.

    Raises:
        ValueError: the value is out of its range.

    Source:
        Devlin et al., "Fast and Robust Neural Network Joint Models for Statistical Machine Translation", ACL 2014;
        the scalar c is ours.
    """

    exact: ClassVar[bool] = True
    sees_all_classes: ClassVar[bool] = True

    log_z: nn.Parameter | None

    def __init__(self, *, self_normalize: float = 0.0) -> None:
        super().__init__()
        if not (is_number(self_normalize) and math.isfinite(self_normalize) and self_normalize >= 0):
            raise ValueError(f"self_normalize={self_normalize!r} is out of range: it must be finite and ≥ 0")
        self.self_normalize = float(self_normalize)

    def allocate(self, head: "Head") -> None:
        """Class rows on the head, and the offset that self-normalising needs; see `Partition.allocate`."""
        super().allocate(head)
        needed = self.self_normalize > 0 and not head.has_bias
        self.register_parameter("log_z", new_log_z(head) if needed else None)
        self.cover(head, 0, head.num_classes)

    def cover(self, head: "Head", first: int, last: int) -> None:
        """Be told that `sums` will be given the rows of classes first … last − 1: of all of them, or of one shard.

        Raises:
            ValueError: the partition cannot sum over these alone.
        """

    @abstractmethod
    def sums(self, head: "Head", features: "Features", rows: ClassRows, labels: Tensor) -> ClassSums:
        """Sums over a block of classes; differentiable in features and rows.

        Args:
            head: gives scores, margin, temperature; its ``label_smoothing`` says whether Σ v_j z_j is needed.
            features: M samples.
            rows: B ≥ 1 classes.
            labels: (M,) int64, the place of the target among these rows, −1 where it is not one of them.
        """

    def losses(self, head: "Head", features: "Features", labels: Tensor) -> SampleLosses:
        """Exact losses; see `Partition.losses`."""
        rows = ClassRows(head.weight, head.bias, head.class_weights)
        return self.losses_from(head, self.sums(head, features, rows, labels))

    def losses_from(self, head: "Head", sums: ClassSums) -> SampleLosses:
        """Per-sample losses from sums over all classes."""
        # The shift is taken off both scores before they are subtracted: log Z − f_y of two numbers near 64 would be
        # exact to 4e-6 only.
        nll = sums.log_sum + (sums.maximum - sums.target)
        log_z = sums.log_sum + sums.maximum
        over_classes = None
        if sums.weighted_scores is not None:
            total = head.num_classes if head.class_weights is None else head.class_weights.to(log_z.dtype).sum()
            over_classes = total * log_z - sums.weighted_scores
        return SampleLosses(nll, over_classes, log_z.detach(), self._penalty(log_z))

    def logits(self, head: "Head", features: "Features") -> Tensor:
        """(M, C) scores; see `Partition.logits`."""
        return head.scores(features, head.weight, head.bias)

    def predict(self, head: "Head", features: "Features") -> Tensor:
        """(M,) classes, a block of them at a time; see `Partition.predict`."""
        return best_class(head, features, head.weight, head.bias)[1]

    def options(self) -> dict[str, Any]:
        """See `Partition.options`."""
        return {"name": self.name, "self_normalize": self.self_normalize}

    def _penalty(self, log_z: Tensor) -> Tensor | None:
        if self.self_normalize == 0:
            return None
        from facemargin.heads.geometry import widen  # heads import partitions, so not at the top

        offset = log_z if self.log_z is None else log_z - widen(self.log_z, log_z.dtype)
        return self.self_normalize * offset.square()


def new_log_z(head: "Head") -> nn.Parameter:
    """The learned scalar that a bias-free head's scores are read against, at its expected value before training.

    log C + (s/T)²/(2D) for unit features and unit rows: cosines in random directions have variance 1/D. That is the
    second-order term, good for s/T well below D (for s = 64, D = 128 it is 10 % too large), and never taken beyond the
    s/T that log Z − log C can reach. Where features are free their length is not known, and it is log C.

    >>> from facemargin.heads import make_head
    >>> head = make_head("am-softmax", embedding_dim=128, num_classes=1000, scale=16.0)
    >>> round(new_log_z(head).item(), 4) == round(math.log(1000) + 1, 4)
    True
    """
    start = math.log(head.num_classes)
    if head.scale is not None and head.unit_weights:
        scale = float(head.scale) / head.temperature
        start += min(scale**2 / (2 * head.embedding_dim), scale)
    return nn.Parameter(torch.tensor(start))


def best_class(
    head: "Head", features: "Features", weight: Tensor, bias: Tensor | None, *, block: int = 8192
) -> tuple[Tensor, Tensor]:
    """The largest score over some classes and its place, the first one in a tie; holds (M, block) scores at a time.

    Args:
        head: gives the scores.
        features: M samples.
        weight: (B, D) rows.
        bias: (B,) or None.
        block: classes at a time.

    Returns:
        (M,) scores, −∞ where B = 0, and (M,) int64 places.
    """
    best = features.length.new_full(features.length.shape, -math.inf)
    place = torch.zeros_like(best, dtype=torch.int64)
    for start in range(0, len(weight), block):
        part = slice(start, start + block)
        top, where = head.scores(features, weight[part], None if bias is None else bias[part]).max(1)
        place = torch.where(top > best, where + start, place)
        best = torch.maximum(best, top)
    return best, place


def gathered(
    head: "Head", features: "Features", rows: ClassRows, classes: Tensor, *, sparse: bool
) -> tuple[Tensor, Tensor | None]:
    """The weight (U, D) and bias (U,) or None of some of the rows, in the dtype of the features.

    Args:
        head: gives the widening.
        features: their dtype counts.
        rows: B classes.
        classes: (U,) int64, places among the rows.
        sparse: whether the gradients are sparse tensors; dense all the same where ``rows`` is not the parameter itself.
    """
    # Only a leaf can hold a sparse gradient: the backward of a slice or a cast takes none.
    sparse = sparse and rows.weight.is_leaf
    # Widened before any use, so that the gradients of samples which share a row meet in float32; see `Dense`.
    weight = head.widened(F.embedding(classes, rows.weight, sparse=sparse), features)
    if rows.bias is None:
        return weight, None
    return weight, head.widened(rows.bias.gather(0, classes, sparse_grad=sparse), features)
