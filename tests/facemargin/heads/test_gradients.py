"""Gradients are the true ones, also at and beside 0, the joins and π; at cones they are the stated subgradient."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from facemargin.heads import HEADS, Annealing, Head, make_head

D, C = 3, 4
CONSTANT_LAMBDA = Annealing(base=2.0, gamma=0.0)
WHOLE, BROKEN = (1, 2, 3, 4, 5), (1.35, 1.7, 2.5)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("softmax", {}),
    ("modified", {}),
    *[("am-softmax", {"scale": 3.0, "margin": 0.4, "learn_scale": learn}) for learn in (False, True)],
    *[("arcface", {"scale": 3.0, "margin": 1.9, "learn_scale": learn}) for learn in (False, True)],
    *[("normface", {"learn_scale": learn}) for learn in (False, True)],
    *[("l2-softmax", {"learn_alpha": learn}) for learn in (False, True)],
    *[(name, {"margin": 3, "annealing": a}) for name in ("l-softmax", "a-softmax") for a in (None, CONSTANT_LAMBDA)],
    *[(name, {"margin": 1.7, "annealing": a}) for name in ("l-softmax", "a-softmax") for a in (None, CONSTANT_LAMBDA)],
]


def check(
    head: Head, x: Tensor, y: Tensor, *, second: bool = False, atol: float = 1e-6, fast_mode: bool = False
) -> None:
    inputs = (x.detach().requires_grad_(), *head.parameters())
    run = torch.autograd.gradgradcheck if second else torch.autograd.gradcheck
    options: dict[str, Any] = {"eps": 1e-6, "atol": atol, "rtol": 1e-4, "fast_mode": fast_mode}
    assert run(lambda embeddings, *_: head(embeddings, y), inputs, **options)


def build(name: str, **options: Any) -> Head:
    torch.manual_seed(3)
    return make_head(name, embedding_dim=D, num_classes=C, **options).double()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
def test_gradients_of_every_head_at_random_points(name, second):
    head = build(name, class_weights=[1, 2, 0.5, 3], temperature=1.5, label_smoothing=0.1)
    check(head, torch.randn(4, D, dtype=torch.float64), torch.tensor([0, 1, 3, -100]), second=second, atol=1e-5)


@pytest.mark.parametrize(("name", "own"), VARIANTS)
@pytest.mark.parametrize("spatial", [(), (2,)], ids=["flat", "spatial"])
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["quick", "whole"])
def test_gradients_under_every_combination_of_options(name, own, spatial, whole):
    """By directional derivatives along fixed random directions (fast_mode).

    The quick form takes 4 of the 16 combinations flat and 4 others spatial, and the second order at one or two of them.
    """
    torch.manual_seed(4)
    x, y = torch.randn(2 if spatial else 4, D, *spatial, dtype=torch.float64), torch.tensor([0, 1, 3, 2])
    for on in itertools.product((False, True), repeat=4):
        if not whole and (sum(on[:3]) % 2 or (on[0] ^ on[3]) != bool(spatial)):
            continue
        head = build(
            name,
            **own,
            class_weights=[1, 2, 0.5, 0] if on[0] else None,
            temperature=1.5 if on[1] else 1.0,
            label_smoothing=0.1 if on[2] else 0.0,
            ignore_index=1 if on[3] else -100,
        )
        check(head, x, y.view(-1, *spatial), atol=1e-5, fast_mode=True)
        if whole or sum(on) == 3:
            check(head, x, y.view(-1, *spatial), second=True, atol=1e-5, fast_mode=True)


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


@pytest.mark.parametrize("name", ["l-softmax", "a-softmax"])
@pytest.mark.parametrize("margin", WHOLE + BROKEN)
@pytest.mark.parametrize("annealing", [None, CONSTANT_LAMBDA], ids=["full", "blended"])
def test_second_order_within_and_just_beside_every_piece(name, margin, annealing, at_angles):
    """Exactly at a join ψ″ jumps; 1e-3 beside it is far enough for the differences of step 1e-6 to stay on one side."""
    head = build(name, margin=margin, annealing=annealing)
    joins = [j * math.pi / margin for j in range(1, math.ceil(margin))]
    middles = [(j + 0.5) * math.pi / margin for j in range(math.ceil(margin))]
    # The poles are smooth for whole m; for others the angle form has a cone there.
    poles = [0.0, 1e-4, math.pi - 1e-4, math.pi] if margin in WHOLE else [1e-2, math.pi - 1e-2]
    angles = [*poles, *(a + d for a in joins for d in (-1e-3, 1e-3)), *(a for a in middles if a < 3.1)]
    x = at_angles(head.weight[1].detach(), angles)
    check(head, x, torch.ones(len(x), dtype=torch.int64), second=True, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0, math.pi])
def test_second_order_of_arcface_beside_its_cones_and_its_join(margin, at_angles):
    head = build("arcface", scale=3.0, margin=margin)
    join = [a for a in (math.pi - margin - 1e-2, math.pi - margin + 1e-2) if 1e-3 < a < math.pi - 1e-3]
    x = at_angles(head.weight[1].detach(), [3e-2, 1.1, *join, math.pi - 3e-2])
    check(head, x, torch.ones(len(x), dtype=torch.int64), second=True, atol=1e-4)


@pytest.mark.parametrize("name", ["am-softmax", "normface", "modified", "l2-softmax", "softmax"])
def test_second_order_of_the_other_heads_at_and_beside_zero_and_pi(name, at_angles):
    head = build(name)
    x = at_angles(head.weight[1].detach(), [0.0, 1e-4, 1.1, math.pi - 1e-4, math.pi])
    check(head, x, torch.ones(5, dtype=torch.int64), second=True, atol=1e-5)


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


CURVES = [
    ("softmax", {}),
    ("modified", {}),
    ("normface", {"scale": 5.0}),
    ("l2-softmax", {"alpha": 5.0}),
    *[("am-softmax", {"scale": 5.0, "margin": m}) for m in (0.0, 0.35)],
    *[("arcface", {"scale": 5.0, "margin": m}) for m in (0.0, 0.5, 2.0, math.pi)],
    *[(name, {"margin": m, "annealing": None}) for name in ("l-softmax", "a-softmax") for m in WHOLE + BROKEN],
    *[
        (name, {"margin": m, "annealing": CONSTANT_LAMBDA})
        for name in ("l-softmax", "a-softmax")
        for m in WHOLE + BROKEN
    ],
]
DISTANCES = (0.0, 1e-9, 1e-6, 1e-3)


def curve(name: str, options: dict[str, Any], theta: float) -> tuple[float, float]:
    """F(θ) with f_y = A·F, and its slope; past a join the cosine is mirrored, so slopes are −m|sin|."""

    def fall(t: float) -> float:
        turns, rest = divmod(t, math.pi)
        return 1 - 2 * turns - (1 - math.cos(rest))

    if name == "am-softmax":
        return math.cos(theta) - options["margin"], -math.sin(theta)
    if name == "arcface":
        return fall(theta + options["margin"]), -abs(math.sin(theta + options["margin"]))
    if name in ("l-softmax", "a-softmax"):
        m, lam = options["margin"], 2.0 if options["annealing"] else 0.0
        value, slope = fall(m * theta), -m * abs(math.sin(m * theta))
        return (lam * math.cos(theta) + value) / (1 + lam), (slope - lam * math.sin(theta)) / (1 + lam)
    return math.cos(theta), -math.sin(theta)


def special_angles(name: str, options: dict[str, Any]) -> list[float]:
    m = options.get("margin", 1)
    joins = [math.pi - m] if name == "arcface" else [j * math.pi / m for j in range(1, math.ceil(m))] if m >= 1 else []
    beside_them = [b + d for b in (0.0, math.pi, *joins) for e in DISTANCES for d in (-e, e)]
    return sorted({a for a in beside_them if 0 <= a <= math.pi} | {0.3, 1.1, 2.2, 2.9})


@pytest.mark.parametrize(("name", "options"), CURVES)
def test_gradients_of_the_target_score_are_the_closed_form(name, options, at_angles):
    """∂f/∂x = ∂A/∂‖x‖ F x̂ + A F′ τ/‖x‖ and ∂f/∂W = ∂A/∂‖W‖ F Ŵ − A F′ u/‖W‖, as near to 0, joins and π as 1e-9."""
    head = build(name, **options)
    row = head.weight[:1].detach()
    w, u = at_angles(row[0], [0.0, math.pi / 2], radius=1.0)
    radius, rows_length = 1.7, float(row.norm())
    size = (5.0 if head.unit_features else radius) * (1.0 if head.unit_weights else rows_length)
    for theta in special_angles(name, options):
        value, slope = curve(name, options, theta)
        distance = min(theta, math.pi - theta)
        is_cone = distance < 1e-12
        slope = 0.0 if is_cone else slope
        unit, tangent = math.cos(theta) * w + math.sin(theta) * u, -math.sin(theta) * w + math.cos(theta) * u
        to_x = size / radius * (slope * tangent + (0.0 if head.unit_features else value) * unit)
        to_row = size / rows_length * (-slope * u + (0.0 if head.unit_weights else value) * w)
        found = target_gradient(head, at_angles(row[0], [theta], radius=radius), row)
        # At a distance d from a cone the direction of the tangent is known to rounding / d.
        atol = 2e-14 * size * float(options.get("margin", 1) + 1) ** 2 + (0 if is_cone else 2e-15 / distance) * size
        torch.testing.assert_close(found[0][0], to_x, rtol=0, atol=atol)
        torch.testing.assert_close(found[1][0], to_row, rtol=0, atol=atol / rows_length)


@pytest.mark.parametrize(("name", "options"), CURVES)
def test_float32_gradients_agree_with_float64_up_to_the_cones(name, options, at_angles):
    """At the same float32 inputs, relative to the largest gradient that the target score can have."""
    head = build(name, **options).float()
    row = head.weight[:1].detach()
    twin = build(name, **options)
    size = (5.0 if head.unit_features else 1.7) * (1.0 if head.unit_weights else float(row.norm()))
    has_cones = name == "arcface" or options.get("margin", 1) in BROKEN
    for theta in special_angles(name, options):
        distance = min(theta, math.pi - theta)
        if has_cones and distance < 1e-5:
            continue  # float32 inputs do not say on which side of the cone they lie
        x = at_angles(row[0].double(), [theta]).float()
        narrow, wide = target_gradient(head, x, row), target_gradient(twin, x.double(), row.double())
        largest = size * (1 + float(options.get("margin", 1)) ** 2) / min(1.7, float(row.norm()))
        for a, b in zip(narrow, wide, strict=True):
            error = float((a.double() - b).norm()) / largest
            assert error < 4e-7 + (4e-9 / distance if has_cones else 0), theta


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [3, 128])
@pytest.mark.parametrize(
    ("name", "options"), [("arcface", {}), *[("a-softmax", {"margin": m, "annealing": None}) for m in BROKEN]]
)
@pytest.mark.parametrize("factor", [1.7, -0.31])
def test_cones_hold_for_any_parallel_vectors_and_not_only_for_those_without_rounding(name, options, dim, factor, dtype):
    torch.manual_seed(5)
    head = make_head(name, embedding_dim=dim, num_classes=50, **options).to(dtype)
    row = head.weight.detach()
    to_x, to_row = target_gradient(head, factor * row, row)
    unit = row / row.norm(dim=1, keepdim=True)
    tangential = to_x - (to_x * unit).sum(1, keepdim=True) * unit
    rounding = 1e-6 if dtype == torch.float32 else 1e-15
    assert float(tangential.norm(dim=1).max()) < 20 * rounding
    assert float(to_row.norm(dim=1).max()) < 20 * rounding


@pytest.mark.parametrize(("name", "options"), CURVES)
def test_second_derivatives_are_finite_also_at_cones_joins_and_zero_vectors(name, options, at_angles):
    head = build(name, **options)
    row = head.weight[:1].detach()
    x = torch.cat([at_angles(row[0], special_angles(name, options)), torch.zeros(1, D, dtype=torch.float64)])
    x, rows = x.requires_grad_(), row.repeat(len(x), 1).requires_grad_()
    first = torch.autograd.grad(head.target_scores(head.features(x), rows).sum(), (x, rows), create_graph=True)
    direction = torch.ones(D, dtype=torch.float64)
    second = torch.autograd.grad(sum((g @ direction).sum() for g in first), (x, rows), allow_unused=True)
    assert all(g is None or bool(g.isfinite().all()) for g in second)


@pytest.mark.parametrize(("name", "options"), CURVES)
def test_a_zero_class_row_has_finite_gradients(name, options):
    head = build(name, **options)
    with torch.no_grad():
        head.weight[1] = 0
    x = torch.randn(4, D, dtype=torch.float64, requires_grad=True)
    head(x, torch.tensor([0, 1, 1, 3])).backward()
    assert all(bool(t.grad.isfinite().all()) for t in (x, *head.parameters()))
    if name == "l-softmax" and not options["annealing"]:
        to_x, to_row = target_gradient(head, x[:1], head.weight[1:2])
        assert not bool(to_x.any())
        assert not bool(to_row.any())  # ‖W‖ψ has a cone at W = 0


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
