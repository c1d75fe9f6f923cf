"""What every head has in common: the options, the reduction, and what a partition may ask of a head.

A head says how features and class rows are normalised and which score the target gets. How the sum over classes is
computed is the partition's business; a head never sees more than the rows it is handed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from facemargin.partitions import Partition, SampleLosses, make_partition

from .annealing import Annealing
from .geometry import compute_dtype, direction, length, widen
from .scale import PositiveScale


class HeadOptions(TypedDict, total=False):
    """Options every head takes; see `Head` for their meaning."""

    partition: "str | Mapping[str, Any] | Partition"
    class_weights: "Tensor | Sequence[float] | None"
    temperature: float
    label_smoothing: float
    ignore_index: int
    check_labels: bool


class Features(NamedTuple):
    """A batch of embeddings as a head sees them, float32 or float64.

    Attributes:
        vectors: (..., D) what class rows are multiplied with: x, or s·x̂.
        unit: (..., D) x̂ = x / max(‖x‖, NORM_FLOOR).
        length: (...,) ‖x‖ where features are free, the scale where they are not.
    """

    vectors: Tensor
    unit: Tensor
    length: Tensor


class BatchLosses(NamedTuple):
    """What a head says of a batch.

    Attributes:
        loss: 0-dim, the weighted mean.
        nll: (M,) −log p_y of each sample, or the partition's stand-in for it, without graph; meaningful only where
            ``counted``.
        counted: (M,) bool, the samples that are not ignored.
    """

    loss: Tensor
    nll: Tensor
    counted: Tensor

    def saturation(self) -> tuple[float, float]:
        """Shares of the counted samples whose softmax p_y is 0 and 1 in float32. Waits for the device.

        p_y = 1 learns nothing any more; p_y = 0 learns, but only as long as the loss is computed in log form.
        """
        p = (-self.nll[self.counted].float()).exp()
        return (float((p == 0).float().mean()), float((p == 1).float().mean())) if len(p) else (0.0, 0.0)


class Head(nn.Module):
    """Cross-entropy over class scores z_j in which a subclass may lower the target's score z_y to f_y.

    loss = Σ_i w_i ℓ_i / Σ_i w_i over the samples that are not ignored, w_i the class weight of the label,
    ℓ = log(exp(f_y/T) + Σ_{j≠y} exp(z_j/T)) − f_y/T, and 0 where there is no such sample.
    Class weights, label smoothing and ignore_index mean what they mean in ``torch.nn.functional.cross_entropy``,
    applied to the margined scores. Scores are computed in float32 (float64 for float64 inputs), also under autocast.

    Args:
        embedding_dim: D ≥ 1.
        num_classes: C ≥ 1.
        scaling: the scale s of unit features, handed over by the subclass; None where features are free.
        partition: how the sum over classes is computed: a name in ``PARTITIONS`` or an instance.
        class_weights: (C,) weights ≥ 0 of a weighted softmax, or None.
        temperature: T > 0; divides all scores, after the margin.
        label_smoothing: share of the target spread over all classes, in [0, 1].
        ignore_index: label of samples that do not count.
        check_labels: whether a label outside [0, C) raises. On CUDA the check waits for the device, unless the labels
            are handed over on the CPU (the head moves them). Without it such a sample makes the loss NaN, never a
            device assert.

    Raises:
        ValueError: a value is out of its range.

    Attributes:
        weight: (C, D) class rows; promised by partitions that are not factorised.
        bias: (C,) or None.
        step: int64 scalar, optimizer steps so far; saved in ``state_dict``.
    """

    name: ClassVar[str]
    unit_features: ClassVar[bool] = False
    unit_weights: ClassVar[bool] = False
    has_bias: ClassVar[bool] = False
    has_margin: ClassVar[bool] = False  # set by __init_subclass__

    weight: nn.Parameter
    bias: nn.Parameter | None
    step: Tensor
    class_weights: Tensor | None
    scaling: PositiveScale | None
    annealing: Annealing | None

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        scaling: PositiveScale | None = None,
        *,
        partition: str | Mapping[str, Any] | Partition = "dense",
        class_weights: Tensor | Sequence[float] | None = None,
        temperature: float = 1.0,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        check_labels: bool = True,
    ) -> None:
        super().__init__()
        _require(embedding_dim >= 1, "embedding_dim", embedding_dim, "it must be ≥ 1")
        _require(num_classes >= 1, "num_classes", num_classes, "it must be ≥ 1")
        _require(
            math.isfinite(temperature) and temperature > 0, "temperature", temperature, "it must be finite and > 0"
        )
        _require(0 <= label_smoothing <= 1, "label_smoothing", label_smoothing, "it must lie in [0, 1]")
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.temperature = float(temperature)
        self.label_smoothing = float(label_smoothing)
        self.ignore_index = ignore_index
        self.check_labels = check_labels
        self.scaling = scaling
        self.annealing = None
        self.register_buffer("class_weights", _class_weights(class_weights, num_classes), persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.partition = make_partition(partition)
        self.partition.bind(self)

    def __init_subclass__(cls) -> None:
        """A subclass has a margin exactly when it overrides `margined_scores`, so that this cannot be forgotten."""
        super().__init_subclass__()
        cls.has_margin = cls.margined_scores is not Head.margined_scores

    # ---- what training code calls -------------------------------------------------------------------------------

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            embeddings: (N, D) or (N, D, *spatial), raw (not normalised), any floating dtype.
            labels: (N,) or (N, *spatial), any integer dtype.

        Returns:
            0-dim tensor, float32 (float64 for float64 inputs).

        Raises:
            ValueError: a shape or dtype is wrong, or a label is out of range.
        """
        return self.batch_losses(embeddings, labels).loss

    def batch_losses(self, embeddings: Tensor, labels: Tensor) -> BatchLosses:
        """The loss of a batch, and what it is made of; arguments and errors as in `forward`."""
        self._check_embeddings(embeddings)
        self._check_labels(labels, embeddings)
        with torch.autocast(embeddings.device.type, enabled=False):
            rows, labels = self.partition.whole_batch(_sample_rows(embeddings), labels.reshape(-1))
            labels, ignored, invalid = self._check_range(labels, rows.device)
            # An ignored sample may hold anything, also NaN, and still gets a zero gradient.
            features = self._widened_features(rows.masked_fill(ignored.unsqueeze(-1), 0))
            sums = self.partition.losses(self, features, labels)
            return BatchLosses(self._reduce(sums, labels, ignored, invalid), sums.nll.detach(), ~ignored)

    def logits(self, embeddings: Tensor) -> Tensor:
        """The scores z_j of the head's table: no margin, no temperature; their argmax is the predicted class.

        Args:
            embeddings: (N, D) or (N, D, *spatial).

        Returns:
            (N, C) or (N, C, *spatial).

        Raises:
            ValueError: the shape or dtype is wrong.
        """
        self._check_embeddings(embeddings)
        with torch.autocast(embeddings.device.type, enabled=False):
            scores = self.partition.logits(self, self._widened_features(_sample_rows(embeddings)))
        spatial = embeddings.shape[2:]
        return scores.reshape(embeddings.shape[0], *spatial, self.num_classes).movedim(-1, 1) if spatial else scores

    def predict(self, embeddings: Tensor) -> Tensor:
        """The predicted class, that of the largest logit, without holding all logits where the partition can avoid it.

        Args:
            embeddings: (N, D) or (N, D, *spatial).

        Returns:
            (N,) or (N, *spatial) int64.

        Raises:
            ValueError: the shape or dtype is wrong.
        """
        self._check_embeddings(embeddings)
        with torch.no_grad(), torch.autocast(embeddings.device.type, enabled=False):
            classes = self.partition.predict(self, self._widened_features(_sample_rows(embeddings)))
        return classes.reshape(embeddings.shape[0], *embeddings.shape[2:])

    def advance(self) -> None:
        """Count one optimizer step. The only thing that moves ``step``, and with it λ; a forward never does."""
        with torch.no_grad():
            self.step += 1

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups: decay only where it is real.

        Scales and biases are never decayed, nor are class rows that are normalised in the graph, where decay would only
        change their learning rate.

        Args:
            weight_decay: ≥ 0, for the parameters that take it.

        Returns:
            One or two groups with ``params`` and ``weight_decay``; every parameter in exactly one.
        """
        decayed = {id(parameter) for parameter in self.partition.decayed_parameters(self)}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters() if id(p) in decayed], "weight_decay": weight_decay},
            {"params": [p for p in self.parameters() if id(p) not in decayed], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def options(self) -> dict[str, Any]:
        """The resolved options as JSON values; ``make_head(**head.options())`` builds the same head."""
        weights = None if self.class_weights is None else self.class_weights.tolist()
        return {
            "name": self.name,
            "embedding_dim": self.embedding_dim,
            "num_classes": self.num_classes,
            "partition": self.partition.options(),
            "class_weights": weights,
            "temperature": self.temperature,
            "label_smoothing": self.label_smoothing,
            "ignore_index": self.ignore_index,
            "check_labels": self.check_labels,
            **self._own_options(),
        }

    @property
    def scale(self) -> Tensor | None:
        """The current scale s (or α) as a 0-dim float64 tensor without graph; None for heads with free features."""
        if self.scaling is None:
            return None
        scale: Tensor = self.scaling(self.step.new_zeros((), dtype=torch.float64))
        return scale.detach()

    @property
    def uses_annealing(self) -> bool:
        """Whether a schedule of λ is at work, so that `advance` matters."""
        return self.annealing is not None

    @property
    def current_lambda(self) -> float:
        """λ at the current step; 0 without annealing. Waits for the device: for logs, not for the training loop."""
        return 0.0 if self.annealing is None else self.annealing.at(int(self.step))

    @classmethod
    def annealing_for_run(cls, total_steps: int) -> Annealing | None:
        """The default schedule of λ for a run of ``total_steps``; None for heads without one."""
        return None

    def diagnose(self, total_steps: int) -> str | None:
        """Say why this head cannot learn its margin in a run of ``total_steps``, or None if it can."""
        return None

    def extra_repr(self) -> str:
        """Options that differ from head to head, for ``print(head)``."""
        own = {"embedding_dim": self.embedding_dim, "num_classes": self.num_classes, **self._own_options()}
        return ", ".join(f"{key}={value}" for key, value in own.items())

    # ---- what a partition asks of a head ------------------------------------------------------------------------

    def features(self, embeddings: Tensor) -> Features:
        """Embeddings as this head sees them. Any D: an adaptive partition projects first.

        Args:
            embeddings: (..., D) float32 or float64.
        """
        unit = direction(embeddings)
        if self.scaling is None:
            return Features(embeddings, unit, length(embeddings))
        scale = self.scaling(embeddings)
        return Features(scale * unit, unit, scale.expand(unit.shape[:-1]))

    def rows(self, weight: Tensor) -> Tensor:
        """Class rows as this head sees them: unit where its table says so.

        Args:
            weight: (..., D) rows of the parameter, float32 or float64.
        """
        return direction(weight) if self.unit_weights else weight

    def scores(self, features: Features, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """z_j of every sample against a block of class rows, without margin and temperature.

        Args:
            features: M samples.
            weight: (B, D) rows of the parameter, any floating dtype.
            bias: (B,) or None.

        Returns:
            (M, B) scores.
        """
        dtype = features.vectors.dtype
        scores = features.vectors @ self.rows(widen(weight, dtype)).T
        return scores if bias is None else scores + widen(bias, dtype)

    def target_scores(self, features: Features, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """f_y of every sample against its target row: with the margin, without temperature.

        Args:
            features: (..., D) samples.
            weight: (..., D) rows of the parameter, one a sample, any floating dtype.
            bias: (...,) or None.

        Returns:
            (...,) scores.
        """
        dtype = features.vectors.dtype
        scores = self.margined_scores(features, widen(weight, dtype))
        return scores if bias is None else scores + widen(bias, dtype)

    def paired_scores(self, features: Features, weight: Tensor) -> Tensor:
        """z of every sample against its own class row, without margin, bias and temperature.

        Args:
            features: (..., D) samples.
            weight: (..., D) rows of the parameter, in the dtype of the features.

        Returns:
            (...,) scores.
        """
        return (features.vectors * self.rows(weight)).sum(-1)

    def margined_scores(self, features: Features, weight: Tensor) -> Tensor:
        """f_y without bias: the one thing a head with a margin overrides.

        Args:
            features: (..., D) samples.
            weight: (..., D) rows of the parameter, in the dtype of the features.

        Returns:
            (...,) scores.
        """
        return self.paired_scores(features, weight)

    @staticmethod
    def widened(parameter: Tensor, features: Features) -> Tensor:
        """A parameter in the dtype of the features; a half-precision one gets back a gradient that saturates."""
        return widen(parameter, features.vectors.dtype)

    def new_rows(self, count: int, dim: int | None = None) -> nn.Parameter:
        """Class rows of length about 1 in random directions, so that scores start of the size of the features."""
        dim = self.embedding_dim if dim is None else dim
        return nn.Parameter(torch.empty(count, dim).normal_(std=dim**-0.5))

    def new_biases(self, count: int) -> nn.Parameter | None:
        """Zero biases for heads that have them, else None."""
        return nn.Parameter(torch.zeros(count)) if self.has_bias else None

    # ---- inside -------------------------------------------------------------------------------------------------

    def _own_options(self) -> dict[str, Any]:
        """Options beyond `HeadOptions`; subclasses with such options override this."""
        return {}

    def _widened_features(self, rows: Tensor) -> Features:
        """Features in the dtype everything is computed in."""
        return self.features(widen(rows, compute_dtype(rows, *self.parameters())))

    def _check_embeddings(self, embeddings: Tensor) -> None:
        shape = tuple(embeddings.shape)
        if not embeddings.is_floating_point():
            raise ValueError(f"embeddings have dtype {embeddings.dtype}; a floating dtype is needed")
        if embeddings.ndim < 2 or shape[1] != self.embedding_dim:
            raise ValueError(f"embeddings have shape {shape}; (N, {self.embedding_dim}, *spatial) is needed")

    def _check_labels(self, labels: Tensor, embeddings: Tensor) -> None:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"labels have dtype {labels.dtype}; an integer dtype is needed")
        expected = (embeddings.shape[0], *embeddings.shape[2:])
        if labels.shape != expected:
            raise ValueError(f"labels have shape {tuple(labels.shape)}; {tuple(expected)} is needed")

    def _check_range(self, labels: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Labels on a device with 0 where ignored or invalid, and the two masks."""
        ignored = labels == self.ignore_index
        invalid = ~ignored & ((labels < 0) | (labels >= self.num_classes))
        if self.check_labels and bool(invalid.any()):
            raise ValueError(
                f"label {int(labels[invalid][0])} is out of range: labels lie in [0, {self.num_classes - 1}], "
                f"or equal ignore_index={self.ignore_index}"
            )
        labels = labels.long().masked_fill(ignored | invalid, 0)
        return labels.to(device), ignored.to(device), invalid.to(device)

    def _reduce(self, sums: SampleLosses, labels: Tensor, ignored: Tensor, invalid: Tensor) -> Tensor:
        """Weighted mean over the samples that count."""
        losses = sums.nll
        weights = torch.ones_like(losses)
        if self.class_weights is not None:
            weights = self.class_weights.to(losses.dtype)[labels]
        losses = weights * losses
        if sums.over_classes is not None:
            smoothing = self.label_smoothing
            losses = (1 - smoothing) * losses + (smoothing / self.num_classes) * sums.over_classes
        if sums.penalty is not None:
            losses = losses + weights * sums.penalty
        if not self.check_labels:
            losses = losses.masked_fill(invalid, math.nan)
        losses, weights = losses.masked_fill(ignored, 0), weights.masked_fill(ignored, 0)
        total = weights.sum()
        return losses.sum() / torch.where(total > 0, total, torch.ones_like(total))


def _require(holds: bool, name: str, value: object, range_: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r} is out of range: {range_}")


def _class_weights(given: Tensor | Sequence[float] | None, num_classes: int) -> Tensor | None:
    if given is None:
        return None
    weights = given.detach().clone() if isinstance(given, Tensor) else torch.tensor(list(given), dtype=torch.float64)
    if weights.shape != (num_classes,):
        raise ValueError(f"class_weights have shape {tuple(weights.shape)}; ({num_classes},) is needed")
    weights = weights if weights.is_floating_point() else weights.double()
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError("class_weights are out of range: they must be finite and ≥ 0")
    return weights


def _sample_rows(embeddings: Tensor) -> Tensor:
    """(N, D, *spatial) -> (N·spatial, D)."""
    return embeddings if embeddings.ndim == 2 else embeddings.movedim(1, -1).flatten(0, -2)
