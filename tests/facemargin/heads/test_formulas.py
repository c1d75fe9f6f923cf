"""Every head and option against the slow float64 loop of conftest, to a relative 1e-10."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from facemargin.heads import HEADS, Annealing, Head, make_head

D, C, N = 5, 6, 9
CONSTANT_LAMBDA = Annealing(base=3.5, gamma=0.0, power=1.0)
MARGINS = (1, 1.35, 1.7, 2, 3, 4, 5)
WEIGHTS = [0.3, 2.0, 1.0, 0.0, 5.5, 0.7]


def formulas() -> list[Any]:
    """(head, options of make_head, constants of the formula)."""
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [("softmax", {}, {}), ("modified", {}, {})]
    paper_alpha = math.log(0.9 * (C - 2) / (1 - 0.9))
    paper_scale = (C - 1) / C * math.log(0.99 * (C - 1) / (1 - 0.99))
    for learn in (False, True):
        for m in (0, 0.35, 1.5, 10):
            cases.append(
                ("am-softmax", {"scale": 30.1, "margin": m, "learn_scale": learn}, {"scale": 30.1, "margin": m})
            )
        for m in (0, 0.5, 1.9, math.pi):
            cases.append(("arcface", {"scale": 20.3, "margin": m, "learn_scale": learn}, {"scale": 20.3, "margin": m}))
        cases.append(("l2-softmax", {"learn_alpha": learn}, {"scale": paper_alpha}))
        cases.append(("l2-softmax", {"alpha": 16.3, "learn_alpha": learn}, {"scale": 16.3}))
        cases.append(("normface", {"learn_scale": learn}, {"scale": paper_scale}))
        cases.append(("normface", {"scale": 0.4, "learn_scale": learn}, {"scale": 0.4}))
    for name in ("l-softmax", "a-softmax"):
        for m in MARGINS:
            cases.append((name, {"margin": m, "annealing": None}, {"margin": m, "lambda": 0.0}))
            cases.append((name, {"margin": m, "annealing": CONSTANT_LAMBDA}, {"margin": m, "lambda": 3.5}))
    return [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(cases)]


def common_options() -> list[dict[str, Any]]:
    """Every combination of the options that all heads take."""
    choices: dict[str, list[Any]] = {
        "class_weights": [None, WEIGHTS],
        "temperature": [1.0, 0.6],
        "label_smoothing": [0.0, 0.13],
        "ignore_index": [-100, 2],
    }
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"class_weights": WEIGHTS},
    {"temperature": 2.7},
    {"label_smoothing": 0.13},
    {"label_smoothing": 1.0},
    {"ignore_index": 2},
    {"class_weights": [0.3, 2.0, 1.0, 0.1, 5.5, 0.7], "temperature": 0.6, "label_smoothing": 0.4, "ignore_index": -1},
]


def build(name: str, **options: Any) -> Head:
    """A float64 head whose rows have lengths 0.4 to 2.5 and whose biases, if any, are random."""
    torch.manual_seed(7)
    head = make_head(name, embedding_dim=D, num_classes=C, **options).double()
    with torch.no_grad():
        head.weight.mul_(torch.linspace(0.4, 2.5, C).unsqueeze(1))
        if head.bias is not None:
            head.bias.normal_()
    return head


def batch(spatial: tuple[int, ...], ignore_index: int) -> tuple[Tensor, Tensor]:
    count = 2 if spatial else N
    x = torch.randn(count, D, *spatial, dtype=torch.float64) * 2
    y = torch.randint(0, C, (count, *spatial))
    y.view(-1)[3] = ignore_index
    return x, y


@pytest.mark.parametrize(("name", "options", "formula"), formulas())
@pytest.mark.parametrize("spatial", [(), (2, 3)], ids=["flat", "spatial"])
def test_loss_equals_the_papers_loop_under_every_combination_of_options(name, options, formula, spatial, oracle):
    for common in common_options():
        head = build(name, **options, **common)
        x, y = batch(spatial, common["ignore_index"])
        assert head(x, y).item() == pytest.approx(oracle(head, x, y, formula, **common), rel=1e-10), common


@pytest.mark.parametrize("common", OPTIONS, ids=lambda o: "+".join(o) or "plain")
@pytest.mark.parametrize("name", HEADS)
def test_loss_of_default_heads_equals_the_papers_loop(name, common, oracle):
    head = build(name, **common)
    x, y = batch((), common.get("ignore_index", -100))
    formula = {"scale": float(head.scale or 0), "margin": getattr(head, "margin", 0), "lambda": head.current_lambda}
    assert head(x, y).item() == pytest.approx(oracle(head, x, y, formula, **common), rel=1e-10)


@pytest.mark.parametrize(("name", "options", "formula"), formulas())
def test_loss_at_exactly_parallel_and_antiparallel_targets(name, options, formula, oracle):
    """Rows along the axes, with lengths that are powers of two: the oracle's cosines are ±1 without rounding."""
    head = make_head(name, embedding_dim=C, num_classes=C, **options).double()
    lengths = torch.tensor([0.5, 2.0, 1.0, 4.0, 0.25, 8.0], dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.diag(lengths))
    x = torch.diag(torch.tensor([2.0, -0.5, 4.0, -1.0, 0.5, -2.0], dtype=torch.float64))
    for sample, label in ((x[i : i + 1], torch.tensor([i])) for i in range(C)):
        # log(1 + 1e-8) is known to 1e-16 absolutely, to both sides, and so to fewer digits than ten.
        expected = oracle(head, sample, label, formula)
        assert head(sample, label).item() == pytest.approx(expected, rel=1e-10, abs=1e-14)


def factor_at(name: str, theta: float, o: dict[str, Any]) -> float:
    """f_y at a known angle, over what multiplies it; ψ as 1 minus the way |sin| has gone, so that no piece is named."""
    if name == "am-softmax":
        return math.cos(theta) - float(o["margin"])
    if name == "arcface":
        return 1 - way_of_sine(theta + o["margin"])
    return float((o["lambda"] * math.cos(theta) + 1 - way_of_sine(o["margin"] * theta)) / (1 + o["lambda"]))


def way_of_sine(t: float) -> float:
    """∫ |sin| from 0 to t: 2 for every whole turn by π and 1 − cos for the rest."""
    turns, rest = divmod(t, math.pi)
    return 2 * turns + 1 - math.cos(rest)


@pytest.mark.parametrize(("name", "options", "formula"), [p for p in formulas() if HEADS[p.values[0]].has_margin])
def test_target_scores_at_known_angles(name, options, formula, at_angles):
    """θ comes from the construction and not from acos, so the comparison holds to the ends, also for cones."""
    head = build(name, **options)
    row = head.weight[:1].detach()
    m = formula["margin"]
    joins = [math.pi - m] if name == "arcface" else [j * math.pi / m for j in range(1, math.ceil(m))] if m >= 1 else []
    near = [0, math.pi, *joins, math.pi / 2]
    angles = [a for b in near for d in (0, 1e-3, 1e-6, 1e-9) for a in (b - d, b + d) if 0 <= a <= math.pi]
    angles += [math.pi * (i + 0.5) / 50 for i in range(50)]
    x = at_angles(row[0], angles)
    found = head.target_scores(head.features(x), row.expand_as(x))
    factor = formula.get("scale", 1.7) * (float(row.norm()) if name == "l-softmax" else 1)
    expected = torch.tensor([factor * factor_at(name, a, formula) for a in angles], dtype=torch.float64)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=1e-13 * factor)


@pytest.mark.parametrize("name", ["l-softmax", "a-softmax"])
@pytest.mark.parametrize("schedule", [(1000, 2.5e-5, 35, 0), (1000, 0.12, 1, 5), (7.0, 0.5, 2.0, 1.0)])
@pytest.mark.parametrize("step", [0, 1, 3, 5000])
def test_lambda_is_that_of_the_schedule_at_the_heads_step(name, schedule, step, oracle):
    base, gamma, power, minimum = schedule
    head = build(name, margin=3, annealing=Annealing(base=base, gamma=gamma, power=power, minimum=minimum))
    if step < 10:
        for _ in range(step):
            head.advance()
    else:
        head.step.fill_(step)
    x, y = batch((), -100)
    formula = {"margin": 3, "lambda": max(minimum, base * (1 + gamma * step) ** -power)}
    assert head(x, y).item() == pytest.approx(oracle(head, x, y, formula), rel=1e-10)


@pytest.mark.parametrize("name", ["am-softmax", "arcface", "normface", "l2-softmax"])
@pytest.mark.parametrize("offset", [-25.0, -3.0, 2.5])
def test_a_scale_that_has_moved_enters_the_formula(name, offset, oracle):
    key = "alpha" if name == "l2-softmax" else "scale"
    head = build(name, **{key: 12.0, f"learn_{key}": True})
    assert head.scaling is not None
    assert head.scaling.offset is not None
    with torch.no_grad():
        head.scaling.offset.fill_(offset)
    scale = math.log1p(math.exp(math.log(math.expm1(12.0)) + offset))
    x, y = batch((), -100)
    formula = {"scale": scale, "margin": getattr(head, "margin", 0)}
    assert head(x, y).item() == pytest.approx(oracle(head, x, y, formula), rel=1e-10)


@pytest.mark.parametrize("name", HEADS)
def test_spatial_logits_are_those_of_each_place(name):
    head = build(name)
    x, _ = batch((2, 3), -100)
    z = head.logits(x)
    assert z.shape == (2, C, 2, 3)
    for i, j in itertools.product(range(2), range(3)):
        torch.testing.assert_close(z[:, :, i, j], head.logits(x[:, :, i, j]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("common", [{}, {"class_weights": WEIGHTS, "temperature": 0.5, "label_smoothing": 0.2}])
@pytest.mark.parametrize("shape", [(0, D), (3, D), (0, D, 2), (2, D, 0), (2, D, 1, 2)], ids=str)
def test_nothing_to_learn_from_costs_nothing(name, common, shape):
    head = build(name, **common)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    loss = head(x, torch.full((shape[0], *shape[2:]), -100))
    loss.backward()
    assert loss.item() == 0
    for tensor in (x, *head.parameters()):
        assert not bool(tensor.grad.any())


@pytest.mark.parametrize("name", HEADS)
def test_only_classes_of_weight_zero_cost_nothing(name):
    """torch.nn.functional.cross_entropy gives 0/0 here."""
    head = build(name, class_weights=WEIGHTS)
    x = torch.randn(2, D, dtype=torch.float64, requires_grad=True)
    loss = head(x, torch.tensor([3, 3]))
    loss.backward()
    assert loss.item() == 0
    assert not bool(x.grad.any())


@pytest.mark.parametrize("name", ["l-softmax", "a-softmax", "am-softmax", "arcface"])
@pytest.mark.parametrize("common", OPTIONS, ids=lambda o: "+".join(o) or "plain")
def test_options_mean_what_they_mean_in_cross_entropy(name, common):
    torch.manual_seed(9)
    head = make_head(name, embedding_dim=D, num_classes=C, **common).double()
    x, y = torch.randn(N, D, dtype=torch.float64), torch.arange(N) % C
    f_y = head.target_scores(head.features(x), head.weight[y])
    margined = head.logits(x).scatter(1, y[:, None], f_y[:, None]) / common.get("temperature", 1.0)
    weights = common.get("class_weights")
    expected = torch.nn.functional.cross_entropy(
        margined,
        y,
        weight=None if weights is None else torch.tensor(weights, dtype=torch.float64),
        label_smoothing=common.get("label_smoothing", 0.0),
        ignore_index=common.get("ignore_index", -100),
    )
    torch.testing.assert_close(head(x, y), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("l-softmax", {"margin": 1, "annealing": None}),
        ("a-softmax", {"margin": 1, "annealing": None}),
        ("am-softmax", {"margin": 0}),
        ("arcface", {"margin": 0}),
    ],
)
def test_without_its_margin_a_head_is_the_scaled_softmax(name, options):
    torch.manual_seed(10)
    head = make_head(name, embedding_dim=D, num_classes=C, **options).double()
    x, y = torch.randn(N, D, dtype=torch.float64), torch.arange(N) % C
    expected = torch.nn.functional.cross_entropy(head.logits(x), y)
    torch.testing.assert_close(head(x, y), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "weak", "strong"),
    [
        ("l-softmax", {"margin": 2, "annealing": None}, {"margin": 3, "annealing": None}),
        ("a-softmax", {"margin": 1.35, "annealing": None}, {"margin": 1.7, "annealing": None}),
        ("am-softmax", {"margin": 0.1}, {"margin": 0.35}),
        ("arcface", {"margin": 0.1}, {"margin": 0.5}),
    ],
)
def test_a_larger_margin_lowers_the_target_and_only_the_target(name, weak, strong):
    heads = []
    for options in (weak, strong):
        torch.manual_seed(11)
        heads.append(make_head(name, embedding_dim=D, num_classes=C, **options).double())
    x, y = torch.randn(N, D, dtype=torch.float64), torch.arange(N) % C
    low, high = (head.target_scores(head.features(x), head.weight[y]) for head in reversed(heads))
    assert bool((low < high).all())
    assert torch.equal(heads[0].logits(x), heads[1].logits(x))


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.9, math.pi])
def test_arcface_falls_all_the_way_and_is_continuous(margin):
    head = make_head("arcface", embedding_dim=2, num_classes=2, scale=1.0, margin=margin).double()
    theta = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    x = torch.stack([theta.cos(), theta.sin()], -1)
    row = torch.tensor([1.0, 0.0], dtype=torch.float64)
    falls = -head.target_scores(head.features(x), row.expand_as(x)).diff()
    assert float(falls.min()) > -1e-12
    assert float(falls.max()) < 2 * math.pi / 20_000
