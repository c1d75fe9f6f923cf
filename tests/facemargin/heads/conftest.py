"""A slow, independent cross-entropy for every head: Python floats and loops, written from the papers' formulas."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from facemargin.heads import Head

Vector = Sequence[float]


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(p * q for p, q in zip(a, b, strict=True))


def norm(a: Vector) -> float:
    return math.sqrt(dot(a, a))


def psi_by_pieces(theta: float, m: float) -> float:
    """Walk through the intervals [kπ/m, (k+1)π/m] until θ is inside one."""
    k = 0
    while k < math.ceil(m) - 1 and theta > (k + 1) * math.pi / m:
        k += 1
    return (-1) ** k * math.cos(m * theta) - 2 * k


def target_score(name: str, x: Vector, w: Vector, b: float, o: dict[str, Any]) -> float:
    nx, nw = norm(x), norm(w)
    cosine = max(-1.0, min(1.0, dot(x, w) / (nx * nw)))
    theta = math.acos(cosine)
    if name in ("l-softmax", "a-softmax"):
        lam = o["lambda"]
        blend = (lam * cosine + psi_by_pieces(theta, o["margin"])) / (1 + lam)
        return nx * blend * (nw if name == "l-softmax" else 1.0)
    if name == "am-softmax":
        return float(o["scale"] * (cosine - o["margin"]))
    if name == "arcface":
        moved = theta + o["margin"]
        return float(o["scale"] * (math.cos(moved) if moved <= math.pi else -math.cos(moved) - 2))
    return plain_score(name, x, w, b, o)


def plain_score(name: str, x: Vector, w: Vector, b: float, o: dict[str, Any]) -> float:
    inner, nx, nw = dot(x, w), norm(x), norm(w)
    table = {
        "softmax": lambda: inner + b,
        "modified": lambda: inner / nw,
        "l-softmax": lambda: inner,
        "a-softmax": lambda: inner / nw,
        "am-softmax": lambda: o["scale"] * inner / (nx * nw),
        "l2-softmax": lambda: o["scale"] * inner / nx + b,
        "normface": lambda: o["scale"] * inner / (nx * nw),
        "arcface": lambda: o["scale"] * inner / (nx * nw),
    }
    return float(table[name]())


def oracle_loss(
    name: str,
    x: list[Vector],
    w: list[Vector],
    b: Vector,
    y: list[int],
    formula: dict[str, Any],
    *,
    class_weights: Vector | None = None,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> float:
    count = len(w)
    v = list(class_weights) if class_weights is not None else [1.0] * count
    losses, weights = [], []
    for xi, yi in zip(x, y, strict=True):
        if yi == ignore_index:
            continue
        z = [plain_score(name, xi, w[j], b[j], formula) for j in range(count)]
        z[yi] = target_score(name, xi, w[yi], b[yi], formula)
        z = [score / temperature for score in z]
        top = max(z)
        log_z = top + math.log(math.fsum(math.exp(score - top) for score in z))
        nll = [log_z - score for score in z]
        smooth = math.fsum(vj * lj for vj, lj in zip(v, nll, strict=True))
        losses.append((1 - label_smoothing) * v[yi] * nll[yi] + label_smoothing / count * smooth)
        weights.append(v[yi])
    return math.fsum(losses) / math.fsum(weights) if losses else 0.0


@pytest.fixture
def oracle() -> Callable[..., float]:
    """The oracle for a head: reads parameters and inputs as Python floats, takes the formula's constants as given."""

    def run(head: Head, x: Tensor, y: Tensor, formula: dict[str, Any], **options: Any) -> float:
        if x.ndim > 2:
            x, y = x.movedim(1, -1).reshape(-1, x.shape[1]), y.reshape(-1)
        bias = [0.0] * head.num_classes if head.bias is None else head.bias.tolist()
        rows = head.weight.tolist()
        return oracle_loss(head.name, x.tolist(), rows, bias, y.tolist(), formula, **options)

    return run


@pytest.fixture
def at_angles() -> Callable[..., Tensor]:
    """Float64 vectors of a given length at exact angles from a given direction."""

    def run(direction: Tensor, angles: Sequence[float], radius: float = 1.7) -> Tensor:
        w = direction.double() / direction.double().norm()
        other = torch.zeros_like(w)
        other[int(w.abs().argmin())] = 1
        u = other - (other @ w) * w
        u = u / u.norm()
        return torch.stack([radius * (math.cos(t) * w + math.sin(t) * u) for t in angles])

    return run
