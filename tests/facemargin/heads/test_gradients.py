"""Gradients are the true ones, also at and beside 0, the joins and π; at cones they are the stated subgradient."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from facemargin.heads import HEADS, Annealing, Head, make_head

D, C = 3, 4
CONSTANT_LAMBDA = Annealing(base=2.0, gamma=0.0)


def check(head: Head, x: Tensor, y: Tensor, *, second: bool = False, atol: float = 1e-6) -> None:
    inputs = (x.detach().requires_grad_(), *head.parameters())
    run = torch.autograd.gradgradcheck if second else torch.autograd.gradcheck
    assert run(lambda embeddings, *_: head(embeddings, y), inputs, eps=1e-6, atol=atol, rtol=1e-4)


def build(name: str, **options: Any) -> Head:
    torch.manual_seed(3)
    return make_head(name, embedding_dim=D, num_classes=C, **options).double()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
def test_gradients_of_every_head_at_random_points(name, second):
    head = build(name, class_weights=[1, 2, 0.5, 3], temperature=1.5, label_smoothing=0.1)
    check(head, torch.randn(4, D, dtype=torch.float64), torch.tensor([0, 1, 3, -100]), second=second, atol=1e-5)


@pytest.mark.parametrize("name", ["normface", "l2-softmax", "am-softmax", "arcface"])
def test_gradients_of_a_learned_scale(name):
    head = build(name, **{"learn_alpha" if name == "l2-softmax" else "learn_scale": True})
    assert head.scaling is not None
    assert head.scaling.offset is not None
    check(head, torch.randn(3, D, dtype=torch.float64), torch.tensor([0, 1, 2]), atol=1e-5)


def beside(angle: float, step: float = 1e-4) -> list[float]:
    return [a for a in (angle - step, angle, angle + step) if 0 <= a <= math.pi]


@pytest.mark.parametrize("name", ["l-softmax", "a-softmax"])
@pytest.mark.parametrize("margin", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("annealing", [None, CONSTANT_LAMBDA], ids=["full", "blended"])
def test_whole_margins_at_and_beside_ends_and_joins(name, margin, annealing, at_angles):
    head = build(name, margin=margin, annealing=annealing)
    angles = [a for j in range(margin + 1) for a in beside(j * math.pi / margin)]
    x = at_angles(head.weight[1].detach(), angles)
    # At a join ψ″ jumps by 2m²/sin²θ, so a central difference of step 1e-6 is off by about 1e-6·m²·‖W‖.
    check(head, x, torch.ones(len(angles), dtype=torch.int64), atol=3e-5)


@pytest.mark.parametrize("margin", [1.35, 1.7, 2.5])
def test_other_margins_at_and_beside_zero_and_joins_and_beside_pi(margin, at_angles):
    head = build("a-softmax", margin=margin, annealing=None)
    joins = [a for j in range(1, math.ceil(margin)) for a in beside(j * math.pi / margin)]
    x = at_angles(head.weight[1].detach(), [*beside(0.0), *joins, math.pi - 1e-2])
    check(head, x, torch.ones(len(x), dtype=torch.int64), atol=3e-5)


@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_arcface_beside_its_cones_and_at_its_join(margin, at_angles):
    head = build("arcface", scale=3.0, margin=margin)
    x = at_angles(head.weight[1].detach(), [1e-2, *beside(math.pi - margin), math.pi - 1e-2])
    check(head, x, torch.ones(len(x), dtype=torch.int64), atol=3e-5)


@pytest.mark.parametrize("name", ["am-softmax", "normface", "modified", "l2-softmax", "softmax"])
def test_the_other_heads_at_and_beside_zero_and_pi(name, at_angles):
    head = build(name)
    check(
        head, at_angles(head.weight[1].detach(), [0.0, 1e-4, math.pi - 1e-4, math.pi]), torch.ones(4, dtype=torch.int64)
    )


def target_gradient(head: Head, x: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of f_y to the embedding and to the class row."""
    x, row = x.detach().requires_grad_(), row.detach().requires_grad_()
    gradient = torch.autograd.grad(head.target_scores(head.features(x), row).sum(), (x, row))
    return gradient[0], gradient[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["theta=0", "theta=pi"])
def test_arcface_at_its_cones_has_the_subgradient_zero(sign, dtype):
    head = build("arcface").to(dtype)
    row = torch.tensor([[2.0, 0.0, 0.0]], dtype=dtype)
    for gradient in target_gradient(head, sign * 3 * row, row):
        assert float(gradient.abs().max()) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("sign", "value"), [(1.0, 1.0), (-1.0, -math.cos(1.5 * math.pi) - 2)])
def test_other_margins_at_zero_and_pi_keep_only_the_radial_part(sign, value, dtype):
    head = build("a-softmax", margin=1.5, annealing=None).to(dtype)
    row = torch.tensor([[2.0, 0.0, 0.0]], dtype=dtype)
    to_x, to_row = target_gradient(head, sign * 3 * row, row)
    torch.testing.assert_close(to_x, torch.tensor([[sign * value, 0, 0]], dtype=dtype), rtol=1e-5, atol=1e-6)
    assert float(to_row.abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["l-softmax", "a-softmax"])
@pytest.mark.parametrize("margin", [2, 1.5, 4])
def test_the_zero_vector_of_free_features_has_the_subgradient_zero(name, margin):
    head = build(name, margin=margin, annealing=None)
    row = head.weight[:1].detach()
    to_x, to_row = target_gradient(head, torch.zeros(1, D, dtype=torch.float64), row)
    assert float(to_x.abs().max()) == 0
    assert float(to_row.abs().max()) == 0
    blended = build(name, margin=margin, annealing=CONSTANT_LAMBDA)
    to_x, _ = target_gradient(blended, torch.zeros(1, D, dtype=torch.float64), row)
    torch.testing.assert_close(to_x, blended.rows(row) * 2 / 3)  # only the linear part λ/(1+λ)·z_y is left


def test_even_margins_have_no_pull_at_90_degrees_without_lambda(at_angles: Any):
    def pull(margin: int, annealing: Annealing | None) -> float:
        head = build("a-softmax", margin=margin, annealing=annealing)
        row = head.weight[:1].detach()
        to_x, _ = target_gradient(head, at_angles(row[0], [math.pi / 2]), row)
        return float((to_x * head.rows(row)).sum())

    assert pull(4, None) == pytest.approx(0, abs=1e-12)
    assert pull(2, None) == pytest.approx(0, abs=1e-12)
    assert pull(3, None) == pytest.approx(3)
    assert pull(4, Annealing(base=1000, gamma=0.0)) == pytest.approx(1000 / 1001)


def test_gradient_of_scores_is_p_minus_one_at_the_label_and_p_elsewhere():
    head = build("softmax")
    x, y = torch.randn(3, D, dtype=torch.float64), torch.tensor([0, 3, 2])
    head(x, y).backward()
    p = head.logits(x).detach().softmax(1)
    expected = (p - torch.nn.functional.one_hot(y, C)) / 3
    assert head.bias is not None
    torch.testing.assert_close(head.bias.grad, expected.sum(0))


def numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_margin_goes_inside_the_log_sum_exp():
    """cosθ = 0.6, s = 64: patching the target into a finished float32 log-sum-exp loses the whole loss."""
    scale, margin, cosine = 64.0, 0.35, 0.6
    target = scale * (cosine - margin)
    other = target + math.log(math.expm1(0.462))  # so that log(1 + exp(other − target)) = 0.462
    head = make_head("am-softmax", embedding_dim=2, num_classes=2, scale=scale, margin=margin)
    with torch.no_grad():
        angle = math.acos(cosine) + math.acos(other / scale)
        head.weight.copy_(numbers([[math.cos(angle), math.sin(angle)], [1.0, 0.0]]))
    x = numbers([[math.cos(math.acos(other / scale)), math.sin(math.acos(other / scale))]]).float()
    assert head(x, torch.tensor([0])).item() == pytest.approx(0.462, abs=1e-4)
    z = head.logits(x)[0].detach()
    finished = torch.logsumexp(z, 0)
    p = (z[0] - finished).exp()
    patched = finished + torch.log1p(p * torch.expm1(torch.tensor(target) - z[0])) - target
    assert patched.item() == pytest.approx(0.0, abs=1e-4) or not bool(patched.isfinite())
