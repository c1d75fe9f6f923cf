"""Every head and option against the slow float64 loop of conftest, to a relative 1e-10."""

import math
from typing import Any

import pytest
import torch

from facemargin.heads import Annealing, make_head

D, C, N = 5, 6, 9
CONSTANT_LAMBDA = Annealing(base=3.5, gamma=0.0, power=1.0)
MARGINS = (1, 1.35, 1.7, 2, 3, 4, 5)


def formulas() -> list[Any]:
    """(head, options of make_head, constants of the formula)."""
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("softmax", {}, {}),
        ("modified", {}, {}),
        ("am-softmax", {"scale": 30.1, "margin": 0.35}, {"scale": 30.1, "margin": 0.35}),
        ("am-softmax", {"scale": 4, "margin": 1.5, "learn_scale": True}, {"scale": 4, "margin": 1.5}),
        ("l2-softmax", {}, {"scale": math.log(0.9 * (C - 2) / (1 - 0.9))}),
        ("l2-softmax", {"alpha": 16.3, "learn_alpha": True}, {"scale": 16.3}),
        ("normface", {}, {"scale": (C - 1) / C * math.log(0.99 * (C - 1) / (1 - 0.99))}),
        ("normface", {"scale": 17.9, "learn_scale": False}, {"scale": 17.9}),
    ]
    cases += [("arcface", {"scale": 20.3, "margin": m}, {"scale": 20.3, "margin": m}) for m in (0, 0.5, 1.9, math.pi)]
    for name in ("l-softmax", "a-softmax"):
        for m in MARGINS:
            cases.append((name, {"margin": m, "annealing": None}, {"margin": m, "lambda": 0.0}))
            cases.append((name, {"margin": m, "annealing": CONSTANT_LAMBDA}, {"margin": m, "lambda": 3.5}))
    return [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(cases)]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"class_weights": [0.3, 2.0, 1.0, 0.0, 5.5, 0.7]},
    {"temperature": 2.7},
    {"label_smoothing": 0.13},
    {"ignore_index": 2},
    {"class_weights": [0.3, 2.0, 1.0, 0.1, 5.5, 0.7], "temperature": 0.6, "label_smoothing": 0.4, "ignore_index": -1},
]


@pytest.mark.parametrize(("name", "options", "formula"), formulas())
@pytest.mark.parametrize("common", OPTIONS, ids=lambda o: "+".join(o) or "plain")
@pytest.mark.parametrize("spatial", [(), (2, 3)], ids=["flat", "spatial"])
def test_loss_equals_the_papers_loop(name, options, formula, common, spatial, oracle):
    torch.manual_seed(7)
    head = make_head(name, embedding_dim=D, num_classes=C, **options, **common).double()
    with torch.no_grad():
        head.weight.mul_(torch.linspace(0.4, 2.5, C).unsqueeze(1))
        if head.bias is not None:
            head.bias.normal_()
    batch = 2 if spatial else N
    x = torch.randn(batch, D, *spatial, dtype=torch.float64) * 2
    y = torch.randint(0, C, (batch, *spatial))
    y.view(-1)[3] = common.get("ignore_index", -100)
    expected = oracle(head, x, y, formula, **common)
    assert head(x, y).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("name", "options", "formula"), formulas())
def test_loss_at_parallel_and_antiparallel_targets(name, options, formula, oracle):
    torch.manual_seed(8)
    head = make_head(name, embedding_dim=D, num_classes=C, **options).double()
    y = torch.arange(C)
    x = head.weight.detach() * torch.tensor([2.0, -0.5]).repeat(C // 2).unsqueeze(1)
    # acos near its ends turns the oracle's own rounding of 1e-16 in the cosine into 1e-8 in the angle.
    assert head(x, y).item() == pytest.approx(oracle(head, x, y, formula), rel=1e-6)


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
