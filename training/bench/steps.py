"""What one training step of a head costs: time, memory beyond the class rows, and bias of the embeddings' gradient.

Owns the measurement of one head with one partition in the running process. What is measured against what, and the
report, belong to ``training.bench.heads``.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from facemargin.heads import Head, make_head
from facemargin.rowwise import RowwiseSGD
from training.bench.memory import peak_extra_bytes

PEERS = {
    "am-softmax": "CosFaceLoss",
    "arcface": "ArcFaceLoss",
    "a-softmax": "SphereFaceLoss",
    "l-softmax": "LargeMarginSoftmaxLoss",
    "normface": "NormalizedSoftmaxLoss",
}
"""Losses of pytorch-metric-learning by the head they correspond to."""


DRAWS = 64
"""Draws of the negatives that the mean of a gradient is taken over."""


@dataclass(frozen=True)
class Cost:
    """What was measured of one head with one partition at one number of classes.

    Attributes:
        head, partition: names; the partition ``peer`` is the loss of pytorch-metric-learning.
        classes, dim, batch: C, D, N.
        loss_ms: forward and backward, each repetition.
        step_ms: forward, backward and a step of SGD with momentum; None for the peer.
        extra_mb: peak resident memory of forward and backward beyond parameters and what was there before.
        bias: ‖E[g] − g*‖ / ‖g*‖ of the embeddings' gradient g against the exact one, g*, for the same rows; None where
            the partition is another model, or this was not asked for.
        cosine: ⟨E[g], g*⟩ / (‖E[g]‖‖g*‖), which does not mind the length; likewise.
        noise: ‖g − E[g]‖ / ‖g*‖ of a single draw, in the mean; likewise.
    """

    head: str
    partition: str
    classes: int
    dim: int
    batch: int
    loss_ms: list[float]
    step_ms: list[float] | None
    extra_mb: float | None
    bias: float | None = None
    cosine: float | None = None
    noise: float | None = None


def make_batch(classes: int, dim: int, batch: int) -> tuple[Tensor, Tensor]:
    """Embeddings and labels; labels are skewed towards the first classes as people's image counts are."""
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(batch, generator=generator, dtype=torch.float64)
    return torch.randn(batch, dim, generator=generator), ((classes + 1) ** places - 1).long().clamp_max(classes - 1)


def new_head(name: str, partition: str, classes: int, dim: int) -> Head:
    """A head with its defaults, without λ, whose margins then cost what they cost at the end of a run."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"annealing": None} if name in ("l-softmax", "a-softmax") else {}
    return make_head(name, embedding_dim=dim, num_classes=classes, partition=partition, **options)


def measure(name: str, partition: str, classes: int, dim: int, batch: int, repeats: int, *, bias: bool) -> Cost:
    """Cost of a head with a partition."""
    head = new_head(name, partition, classes, dim)
    x, y = make_batch(classes, dim, batch)
    optimizer = RowwiseSGD(head.parameters(), lr=1e-3, momentum=0.9)

    def loss() -> None:
        optimizer.zero_grad(set_to_none=True)
        head(x.clone().requires_grad_(), y).backward()

    loss()
    gradients = sum(_stored_bytes(p.grad) for p in head.parameters() if p.grad is not None)
    optimizer.step()
    extra = _beyond(gradients, loss, optimizer)
    loss_ms, step_ms = timed(loss, optimizer.step, repeats)
    found = gradient_bias(head, x, y) if bias and not head.partition.factorised else None
    bias_, cosine, noise = found or (None, None, None)
    return Cost(name, partition, classes, dim, batch, loss_ms, step_ms, extra, bias_, cosine, noise)


def measure_peer(name: str, classes: int, dim: int, batch: int, repeats: int) -> Cost:
    """Cost of the loss of pytorch-metric-learning that corresponds to a head, with its defaults."""
    import pytorch_metric_learning.losses as losses

    torch.manual_seed(0)
    peer = getattr(losses, PEERS[name])(classes, dim)
    x, y = make_batch(classes, dim, batch)

    def loss() -> None:
        peer.zero_grad(set_to_none=True)
        peer(x.clone().requires_grad_(), y).backward()

    loss()
    gradients = sum(_stored_bytes(p.grad) for p in peer.parameters() if p.grad is not None)
    extra = _beyond(gradients, loss, peer)
    loss_ms, _ = timed(loss, lambda: None, repeats)
    return Cost(name, "peer", classes, dim, batch, loss_ms, None, extra)


def timed(loss: Callable[[], None], update: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each repetition of a loss, and of the loss with the update that follows it."""
    losses, steps = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        loss()
        between = time.perf_counter()
        update()
        losses.append(1e3 * (between - start))
        steps.append(1e3 * (time.perf_counter() - start))
    return losses, steps


def gradient_bias(head: Head, x: Tensor, y: Tensor, draws: int = DRAWS) -> tuple[float, float, float]:
    """Bias, cosine and noise of the embeddings' gradient; see `Cost`. One draw where the partition is exact."""
    # Not dense, which would need three (N, C) matrices; for streaming itself dense is the reference.
    reference = "dense" if head.partition.name == "streaming" else "streaming"
    options = head.options() | {"partition": reference}
    whole = make_head(options.pop("name"), **options)
    whole.load_state_dict({key: value for key, value in head.state_dict().items() if not key.startswith("partition.")})
    exact = _embedding_gradient(whole, x, y)
    found = torch.stack([_embedding_gradient(head, x, y) for _ in range(1 if head.partition.exact else draws)])
    mean = found.mean(0)
    noise = (found - mean).flatten(1).norm(dim=1).mean() / exact.norm()
    cosine = torch.nn.functional.cosine_similarity(mean.flatten(), exact.flatten(), dim=0)
    return float((mean - exact).norm() / exact.norm()), float(cosine), float(noise)


def peak_extra_mb(run: Callable[[], None]) -> float | None:
    """Peak resident memory of a call beyond what was resident before, MB; None where the system does not tell."""
    extra = peak_extra_bytes(run)
    return None if extra is None else max(0.0, extra / 1e6)


def _beyond(gradients: int, loss: Callable[[], None], owner: torch.optim.Optimizer | torch.nn.Module) -> float | None:
    """Peak memory of a loss beyond the gradients that it leaves, MB."""
    owner.zero_grad(set_to_none=True)
    extra = peak_extra_mb(loss)
    return None if extra is None else max(0.0, extra - gradients / 1e6)


def _embedding_gradient(head: Head, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(head(leaf, y), leaf)[0]


def _stored_bytes(gradient: Tensor) -> int:
    if gradient.is_sparse:
        return _stored_bytes(gradient._indices()) + _stored_bytes(gradient._values())
    return gradient.numel() * gradient.element_size()
