"""Noise-contrastive estimation and negative sampling: tell each sample's label from classes drawn from a noise."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Partition, SampleLosses
from .flat import ClassRows, best_class, gathered, new_log_z
from .option_values import check_flag, checked_counts, is_integer
from .proposals import POWERS, PROPOSALS, Proposal, check_power, make_proposal

if TYPE_CHECKING:
    from facemargin.heads.base import Features, Head

OBJECTIVES = ("nce", "negative-sampling")
"""What may be learned from the noise; see `NCE`."""


class NCE(Partition):
    """ℓ = −log σ(f_y/T − a_y) − Σ_i log σ(a_{j_i} − z_{j_i}/T), noise classes j_1 … j_k drawn from q for each batch.

    For ``objective="nce"`` a_j = log Z + log(k q(j)): σ(z_j/T − a_j) is the probability that class j came from the data
    and not from the noise under the model log p(j|x) = z_j/T − log Z. As k grows its gradient becomes that of the exact
    loss wherever log Z is right. Heads without biases carry log Z as a learned scalar, the attribute ``log_z``; those
    with biases hold it in them (log Z = 0), and the biases start at T·log q(j), so that the model starts as the noise.

    For ``objective="negative-sampling"`` a_j is one learned offset for bias-free heads, under the same name ``log_z``,
    and 0 for others. It learns z_j/T − a = log p(j|x) − log(k q(j)): scores that rank p/q, no probabilities. With
    uniform noise the two objectives differ in nothing but the offset, by log(k/C), and they start equal.

    The loss is no −log p_y and does not fall to 0: for r = k·q(y) and p_y = 1 it is log(1 + r) + r·log(1 + 1/r), which
    is 1.39 at r = 1.

    A noise draw that is the sample's label stays noise, as in the definition of NCE, with the margined score: the label
    has one score, f_y, wherever it appears, as in the sum of the exact loss, and only so is that loss's gradient the
    limit of large k. With z_y > f_y in the noise, draws of the label would undo the margin as k nears C.

    Cost: 2·M·(k′+1)·D operations forward and twice that backward, k′ ≤ min(k, C) different noise classes; memory
    O((M + k′)·D + M·k′) beyond the parameters. Only rows of labels and noise classes get a gradient.

    It gives up: one scalar log Z stands for all samples, where the true one changes from sample to sample, most for
    heads with free features; no −log p is computed, so no label smoothing; more variance than the exact loss.

    Args:
        samples: k ≥ 1, noise draws a batch, with replacement, shared by its samples. Draws of the same class are scored
            once, so more than C cost no more than C. None is the smaller of 1,024 and C.
        noise: q: ``uniform``, ``frequency``, ``frequency-power`` (see `Frequency`), or a `Proposal`. Uniform by
            default, since heads without biases have no place for a prior of the classes.
        power: exponent of ``frequency`` (1 by default) and ``frequency-power`` (0.75 by default), in [0, 1].
        class_counts: training samples of each class, for noise by frequency.
        objective: ``"nce"`` or ``"negative-sampling"``.
        sparse_gradients: whether gradients of weight and bias are sparse tensors. Needs an optimizer that takes them.

    Raises:
        ValueError: a value is out of its range, or two do not go together.

    Attributes:
        active_rows: (U,) int64, sorted, each once: the rows that the last forward used and its backward will touch;
            None before the first. Ignored samples count as samples of class 0 here.
        log_z: the learned log Z (or offset), 0-dim; None for heads with biases.

    Source:
        Gutmann and Hyvärinen, JMLR 13 (2012), eq. (8)-(9); Mnih and Teh, arXiv 1206.6426, §3; negative sampling:
        Mikolov et al., arXiv 1310.4546, eq. (4).

    >>> from facemargin.heads import make_head
    >>> head = make_head("am-softmax", embedding_dim=4, num_classes=1000, partition=NCE(samples=8))
    >>> head(torch.randn(2, 4), torch.tensor([7, 900])).backward()
    >>> bool((head.weight.grad.coalesce().indices()[0] == head.partition.active_rows).all())
    True
    """

    name = "nce"

    log_z: nn.Parameter | None
    _source: Proposal
    _draws: int

    def __init__(
        self,
        *,
        samples: int | None = None,
        noise: str | Proposal = "uniform",
        power: float | None = None,
        class_counts: Sequence[int] | Tensor | None = None,
        objective: str = "nce",
        sparse_gradients: bool = True,
    ) -> None:
        super().__init__()
        _check(samples, noise, objective)
        check_power(power, noise)
        check_flag("sparse_gradients", sparse_gradients)
        self.samples = None if samples is None else int(samples)
        self.noise, self.power = noise, power if power is None else float(power)
        self.class_counts = None if class_counts is None else checked_counts(class_counts)
        self.objective, self.sparse_gradients = objective, sparse_gradients
        self.active_rows: Tensor | None = None

    def allocate(self, head: "Head") -> None:
        """Class rows on the head, and the start of its biases or of the offset; see `Partition.allocate`."""
        super().allocate(head)
        classes = head.num_classes
        if self.class_counts is not None:
            checked_counts(self.class_counts, classes)
        noise = self.noise
        if isinstance(noise, str):
            noise = make_proposal(noise, classes, self.class_counts, self.power)
        if noise.num_classes != classes:
            raise ValueError(f"noise is one over {noise.num_classes} classes; the head has {classes}")
        self._source = noise
        self._draws = min(1024, classes) if self.samples is None else self.samples
        self.register_parameter("log_z", None if head.has_bias else new_log_z(head))
        with torch.no_grad():
            if self.log_z is not None and self.objective != "nce":
                self.log_z.add_(math.log(self._draws / classes))
            if head.bias is not None:
                log_q = noise.log_probability(torch.arange(classes))
                start = log_q if self.objective == "nce" else torch.full_like(log_q, -math.log(self._draws))
                head.bias.copy_(head.temperature * start)

    def losses(self, head: "Head", features: "Features", labels: Tensor) -> SampleLosses:
        """Losses of telling labels from noise: the stand-in for −log p_y; see `Partition.losses`."""
        draws = self._source.sample(self._draws, labels.device)
        self.active_rows, places = torch.unique(torch.cat((labels, draws)), return_inverse=True)
        own, (noise, counts) = places[: len(labels)], torch.unique(places[len(labels) :], return_counts=True)
        rows = ClassRows(head.weight, head.bias, None)
        weight, bias = gathered(head, features, rows, self.active_rows, sparse=self.sparse_gradients)
        shifts = self._shifts(head, features, self.active_rows)

        own_bias, noise_bias = (None, None) if bias is None else (bias[own], bias[noise])
        target = head.target_scores(features, weight[own], own_bias) / head.temperature
        scores = head.scores(features, weight[noise], noise_bias) / head.temperature
        if head.has_margin:
            scores = torch.where(own.unsqueeze(1) == noise, target.unsqueeze(1), scores)
        # logsigmoid and not softplus, which cuts over to the identity at 20 and is 2e-9 off there.
        missed = -F.logsigmoid(shifts[noise] - scores) @ counts.to(scores.dtype)
        return SampleLosses(missed - F.logsigmoid(target - shifts[own]))

    def logits(self, head: "Head", features: "Features") -> Tensor:
        """(M, C) scores z_j, from which neither log Z nor log k q(j) is taken off; see `Partition.logits`."""
        return head.scores(features, head.weight, head.bias)

    def predict(self, head: "Head", features: "Features") -> Tensor:
        """(M,) classes, a block of them at a time; see `Partition.predict`."""
        return best_class(head, features, head.weight, head.bias)[1]

    @property
    def uses_class_counts(self) -> bool:
        """Whether the noise is drawn by frequency; see `Partition.uses_class_counts`."""
        return isinstance(self.noise, str) and self.noise in POWERS

    def options(self) -> dict[str, Any]:
        """See `Partition.options`.

        Raises:
            ValueError: the noise is no name: objects cannot be written down.
        """
        if not isinstance(self.noise, str):
            raise ValueError(
                f"noise={self.noise!r} cannot be saved as an option: only one given by name can "
                f"({', '.join(PROPOSALS)})"
            )
        return {
            "name": self.name,
            "samples": self.samples,
            "noise": self.noise,
            "power": self.power,
            "class_counts": self.class_counts if self.uses_class_counts else None,
            "objective": self.objective,
            "sparse_gradients": self.sparse_gradients,
        }

    def _shifts(self, head: "Head", features: "Features", classes: Tensor) -> Tensor:
        """(B,) a_j: what is taken off scores to make them the log odds of data against noise."""
        dtype = features.vectors.dtype
        shifts = torch.zeros(len(classes), dtype=dtype, device=classes.device)
        if self.objective == "nce":
            shifts = self._source.log_probability(classes).to(dtype) + math.log(self._draws)
        return shifts if self.log_z is None else shifts + head.widened(self.log_z, features)


def _check(samples: int | None, noise: str | Proposal, objective: str) -> None:
    if samples is not None and not (is_integer(samples) and samples >= 1):
        raise ValueError(f"samples={samples!r} is out of range: an integer ≥ 1 of noise draws")
    if not isinstance(noise, Proposal) and noise not in PROPOSALS:
        raise ValueError(f"noise={noise!r} is unknown; known noises: {', '.join(PROPOSALS)}, or a Proposal")
    if objective not in OBJECTIVES:
        raise ValueError(f"objective={objective!r} is unknown; known objectives: {', '.join(OBJECTIVES)}")
