"""Half precision: float32 inside, finite everywhere, gradients that saturate."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from facemargin.heads import HEADS, NORM_FLOOR, Head, make_head

D, C = 16, 7
HALF = [torch.float16, torch.bfloat16]


def adversarial(head: Head, dtype: torch.dtype, copies: int = 300) -> tuple[Tensor, Tensor]:
    """Parallel, antiparallel, zero and random vectors of lengths 1e-8 to 1e4 (0 where the dtype underflows)."""
    generator = torch.Generator().manual_seed(5)
    y = torch.randint(0, C, (copies * 4,), generator=generator)
    w = head.weight.detach().float()[y] if head.weight.ndim == 2 else torch.randn(len(y), D, generator=generator)
    kind = torch.arange(len(y)) % 4
    noise = torch.randn(len(y), D, generator=generator)
    x = torch.where((kind == 0)[:, None], w, torch.where((kind == 1)[:, None], -w, noise))
    x = x.masked_fill((kind == 2)[:, None], 0)
    lengths = 10 ** (torch.rand(len(y), generator=generator) * 12 - 8)
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-6) * lengths[:, None]
    return x.to(dtype), y


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("whole_module", [False, True], ids=["float32-weights", "half-weights"])
def test_nothing_is_ever_non_finite_under_autocast(name, dtype, whole_module):
    torch.manual_seed(0)
    head = make_head(name, embedding_dim=D, num_classes=C, temperature=0.05)
    if whole_module:
        head = head.to(dtype)
    x, y = adversarial(head, dtype)
    for rows in (slice(None), slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4)):
        embeddings = x[rows].clone().requires_grad_()
        head.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = head(embeddings, y[rows])
            scores = head.logits(embeddings)
        loss.backward()
        assert loss.dtype == torch.float32
        assert bool(loss.isfinite())
        assert bool(scores.isfinite().all())
        assert embeddings.grad.dtype == dtype
        for tensor in (embeddings.grad, *(p.grad for p in head.parameters())):
            assert bool(tensor.isfinite().all())


ADVERSARIES: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in HEADS],
    *[(name, {"margin": m, "annealing": None}) for name in ("l-softmax", "a-softmax") for m in (1, 1.35, 2, 3, 4, 5)],
    ("am-softmax", {"scale": 64.0, "margin": 1.5, "learn_scale": True}),
    *[("arcface", {"scale": 64.0, "margin": m, "learn_scale": True}) for m in (0.0, 2.0, 3.14159)],
    ("l2-softmax", {"alpha": 64.0, "learn_alpha": True}),
]
KINDS = ("parallel", "antiparallel", "zero", "between", "almost parallel")
LABELS = ("mixed", "repeated")


def attack(head: Head, dtype: torch.dtype, kind: str, labels: str, count: int) -> tuple[Tensor, Tensor]:
    """``count`` vectors of one kind, their lengths from 1e-8 to 1e4 (float16 rounds those below 3e-8 to zero)."""
    y = torch.randint(0, head.num_classes, (count,)) if labels == "mixed" else torch.zeros(count, dtype=torch.int64)
    rows, noise = head.weight.detach().float()[y], torch.randn(count, head.embedding_dim)
    x = {
        "parallel": rows,
        "antiparallel": -rows,
        "zero": torch.zeros_like(rows),
        "between": noise,
        "almost parallel": rows * torch.randint(0, 2, (count, 1)).mul(2).sub(1)
        + 1e-3 * noise * rows.norm(dim=1)[:, None],
    }[kind]
    lengths = 10 ** torch.empty(count, 1).uniform_(-8, 4)
    return (x / x.norm(dim=1, keepdim=True).clamp_min(1e-30) * lengths).to(dtype), y


def non_finite(head: Head, x: Tensor, y: Tensor, dtype: torch.dtype, *, factor: float = 1.0) -> list[str]:
    """What is not finite after a forward, logits and a backward from ``factor`` times the loss."""
    x = x.clone().requires_grad_()
    head.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        loss, scores = head(x, y), head.logits(x)
    (loss * factor).backward()
    tensors = {"loss": loss, "logits": scores, "x.grad": x.grad}
    tensors |= {f"{key}.grad": p.grad for key, p in head.named_parameters()}
    return [key for key, tensor in tensors.items() if not bool(tensor.isfinite().all())]


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_million_adversarial_inputs_never_give_a_non_finite_value(dtype):
    """Counted in embedding vectors, each through a forward, logits and a backward: 25 heads × 5 kinds × 2 ways to label
    × 2 numbers of classes × 2 temperatures × 1000 vectors in a batch.

    The loss is a mean, whose gradients shrink with the batch; it is multiplied by the batch and by the loss scale of a
    gradient scaler, 65536, so that every gradient counts in full and beyond.
    """
    torch.manual_seed(0)
    found, count, per_batch = [], 0, 1000
    for (name, own), classes, temperature in itertools.product(ADVERSARIES, (1, 3), (1.0, 0.05)):
        alpha = {"alpha": 9.0} if name == "l2-softmax" and not own else {}
        head = make_head(name, embedding_dim=4, num_classes=classes, temperature=temperature, **alpha, **own)
        for kind, labels in itertools.product(KINDS, LABELS):
            x, y = attack(head, dtype, kind, labels, per_batch)
            bad = non_finite(head, x, y, dtype, factor=65536.0 * per_batch)
            found += [(name, own, classes, temperature, kind, labels, bad)] if bad else []
            count += len(x)
    assert not found
    assert count == 1_000_000


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", HEADS)
def test_zero_and_tiny_and_huge_class_rows_never_give_a_non_finite_value(name, dtype):
    for length, kind in itertools.product((0.0, 1e-4, 1e4), KINDS):
        torch.manual_seed(0)
        head = make_head(name, embedding_dim=4, num_classes=3)
        with torch.no_grad():
            head.weight[1] *= length
        x, y = attack(head, dtype, kind, "mixed", 20)
        assert non_finite(head, x, y, dtype, factor=65536.0 * 20) == [], (length, kind)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", HEADS)
def test_gradients_to_half_precision_parameters_are_summed_before_they_saturate(name, dtype):
    """Two samples of one class may each give its float16 row a gradient of 65504; their sum must not be infinite."""
    for length, factor, kind in itertools.product((1e-3, 1.0), (1.0, 65536.0 * 20), KINDS):
        torch.manual_seed(0)
        head = make_head(name, embedding_dim=4, num_classes=3).to(dtype)
        with torch.no_grad():
            head.weight[1] *= length
        x, y = attack(head, dtype, kind, "mixed", 20)
        assert non_finite(head, x, y, dtype, factor=factor) == [], (length, factor, kind)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", HEADS)
def test_autocast_computes_what_float32_computes(name, dtype):
    torch.manual_seed(1)
    head = make_head(name, embedding_dim=D, num_classes=C)
    x, y = torch.randn(8, D).to(dtype), torch.arange(8) % C
    with torch.autocast("cpu", dtype=dtype):
        half = head(x, y)
    assert half.item() == head(x.float(), y).item()


def test_cosines_that_round_to_one_in_half_are_told_apart():
    torch.manual_seed(2)
    head = make_head("am-softmax", embedding_dim=2, num_classes=2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    x = torch.tensor([[1.0, 0.0], [1.0, 0.015]]).to(torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = head.logits(x).detach()
    assert z.dtype == torch.float32
    assert float(z[0, 0] - z[1, 0]) == pytest.approx(30 * 0.5 * 0.015**2, rel=0.02)


def test_a_float16_gradient_saturates():
    head = make_head("am-softmax", embedding_dim=2, num_classes=2, scale=64.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    x = torch.tensor([[0.0, 2e-4]], dtype=torch.float16, requires_grad=True)
    head(x, torch.tensor([0])).backward()
    assert x.grad.tolist() == [[-65504.0, 0.0]]  # the true value is about −64 / 2e-4 = −320,000


def test_the_norm_floor():
    head = make_head("normface", embedding_dim=2, num_classes=2, scale=8.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    above, below = 2 * NORM_FLOOR, NORM_FLOOR / 4
    z = head.logits(torch.tensor([[above, 0.0], [below, 0.0], [0.0, 0.0]]))[:, 0]
    torch.testing.assert_close(z.detach(), torch.tensor([8.0, 2.0, 0.0]))
    x = torch.zeros(1, 2, requires_grad=True)
    head(x, torch.tensor([0])).backward()
    assert float(x.grad.abs().max()) == pytest.approx(8 * 0.5 / NORM_FLOOR, rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", HEADS)
def test_cuda_equals_cpu_and_takes_labels_from_either(name):
    torch.manual_seed(1)
    head = make_head(name, embedding_dim=D, num_classes=C)
    x, y = torch.randn(8, D), torch.arange(8) % C
    expected = head(x, y).item()
    head = head.cuda()
    for labels in (y, y.cuda()):
        assert head(x.cuda(), labels).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="out of range"):
        head(x.cuda(), y.cuda() + C)
