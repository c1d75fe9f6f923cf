"""What class-based, hierarchical and adaptive have in common, against a slow loop over the levels of each class."""

import itertools
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from facemargin.heads import HEADS, Head, make_head
from facemargin.partitions import make_partition

Vector = list[float]
C, D, T = 8, 4, 0.7
GROUPS = [4, 0, 9, 0, 4, 9, 9, 0]
TREE = [[0, [3]], [1, [2, 4, 5]], 6, [7]]
COUNTS = [3, 9, 0, 4, 9, 1, 2, 5]
BY_COUNT = [1, 4, 7, 3, 0, 6, 5, 2]
CUTOFFS = [2, 5]

CASES = {
    "class-based": {"grouping": GROUPS},
    "hierarchical": {"tree": TREE},
    "adaptive": {"cutoffs": CUTOFFS, "div_value": 1.5, "min_dim": 2, "class_counts": COUNTS},
}
VARIANTS = [
    *({"name": name} for name in CASES),
    {"name": "class-based", "grouping": "mass", "num_groups": 4, "class_counts": COUNTS},
    {"name": "class-based", "num_groups": 1},
    {"name": "class-based", "num_groups": C},
    {"name": "hierarchical", "class_counts": COUNTS},
    {"name": "hierarchical", "class_counts": COUNTS, "arity": 3},
    {"name": "hierarchical", "tree": "balanced", "arity": 4},
    {"name": "adaptive", "cutoffs": [1, 3], "class_counts": COUNTS},
    {"name": "adaptive", "cutoffs": []},
    *({"name": name, **case} for name, case in CASES.items()),
]
MARGINS: dict[str, dict[str, Any]] = {
    "am-softmax": {"margin": 0.35, "scale": 8.0},
    "arcface": {"margin": 0.5, "scale": 8.0},
    "a-softmax": {"margin": 4, "annealing": None},
    "l-softmax": {"margin": 2, "annealing": {"base": 3.0, "gamma": 0.0}},
}
NO_MARGINS: dict[str, dict[str, Any]] = {
    "am-softmax": {"margin": 0.0, "scale": 8.0},
    "arcface": {"margin": 0.0, "scale": 8.0},
    "a-softmax": {"margin": 1, "annealing": None},
    "l-softmax": {"margin": 1, "annealing": None},
}

some_heads = pytest.mark.parametrize("name", ["softmax", "am-softmax"])
every_head = pytest.mark.parametrize("name", HEADS)
every_case = pytest.mark.parametrize("partition", CASES)
every_variant = pytest.mark.parametrize("partition", VARIANTS, ids=lambda v: "-".join(str(x) for x in v.values()))


def build(name: str, partition: Any, margins: dict[str, dict[str, Any]] = MARGINS, **options: Any) -> Head:
    torch.manual_seed(3)
    if isinstance(partition, str):
        partition = {"name": partition, **CASES[partition]}
    options = {"embedding_dim": D, "num_classes": C, "temperature": T, **margins.get(name, {}), **options}
    head = make_head(name, partition=partition, **options).double()
    with torch.no_grad():
        for key, parameter in head.named_parameters():
            if "bias" in key:
                parameter.normal_()
    return head


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(C, D, dtype=torch.float64, generator=generator), torch.arange(C)


# ---- the loop --------------------------------------------------------------------------------------------------------


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(p * q for p, q in zip(a, b, strict=True))


def score(head: Head, x: Vector, w: Vector, b: float) -> float:
    """z, written out for each head."""
    length, norm = math.sqrt(dot(x, x)), math.sqrt(dot(w, w))
    if head.unit_features:
        x = [float(head.scale) * value / length for value in x]
    if head.unit_weights:
        w = [value / norm for value in w]
    return dot(x, w) + (b if head.has_bias else 0.0)


def margined(head: Head, x: Vector, w: Vector, b: float) -> float:
    """f, written out for each head at the margins above."""
    length, norm = math.sqrt(dot(x, x)), math.sqrt(dot(w, w))
    theta = math.acos(dot(x, w) / length / norm)
    m = getattr(head, "margin", None)
    if head.name == "am-softmax":
        return float(head.scale) * (math.cos(theta) - m)
    if head.name == "arcface":
        angle = theta + m
        return float(head.scale) * (math.cos(angle) if angle <= math.pi else -math.cos(angle) - 2)
    if head.name in ("a-softmax", "l-softmax"):
        k = min(int(theta * m / math.pi), m - 1)
        lam = head.current_lambda
        blend = (lam * math.cos(theta) + (-1) ** k * math.cos(m * theta) - 2 * k) / (1 + lam)
        return length * blend * (norm if head.name == "l-softmax" else 1.0)
    return score(head, x, w, b)


def softmax_level(head: Head, x: Vector, rows: list[Vector], biases: Vector, target: int) -> float:
    scores = [score(head, x, w, b) / head.temperature for w, b in zip(rows, biases, strict=True)]
    scores[target] = margined(head, x, rows[target], biases[target]) / head.temperature
    top = max(scores)
    return top + math.log(math.fsum(math.exp(z - top) for z in scores)) - scores[target]


def sigmoid_level(head: Head, x: Vector, row: Vector, bias: float, sign: int) -> float:
    f = margined(head, x, [sign * value for value in row], sign * bias) / head.temperature
    return math.log1p(math.exp(-f))


def as_lists(head: Head) -> dict[str, Any]:
    found = {key.removeprefix("partition."): p.tolist() for key, p in head.partition.named_parameters()}
    for key in ("group", "class", "node", "root"):
        if f"{key}_rows" in found:
            found.setdefault(f"{key}_biases", [0.0] * len(found[f"{key}_rows"]))
    return found


def loop_class_based(head: Head, x: Vector, y: int) -> float:
    p = as_lists(head)
    names = sorted(set(GROUPS))
    ordered = [c for g in names for c in range(C) if GROUPS[c] == g]
    within = [c for c in range(C) if GROUPS[c] == GROUPS[y]]
    at = [ordered.index(c) for c in within]
    group = softmax_level(head, x, p["group_rows"], p["group_biases"], names.index(GROUPS[y]))
    rows, biases = [p["class_rows"][i] for i in at], [p["class_biases"][i] for i in at]
    return group + softmax_level(head, x, rows, biases, within.index(y))


def loop_hierarchical(head: Head, x: Vector, y: int) -> float:
    """Rows of TREE by hand: the root's four, one each of [0, 3] and [1, …], three of [2, 4, 5]."""
    p = as_lists(head)
    rows, biases = p["node_rows"], p["node_biases"]

    def wide(start: int, count: int, branch: int) -> float:
        return softmax_level(head, x, rows[start : start + count], biases[start : start + count], branch)

    def two_way(place: int, branch: int) -> float:
        return sigmoid_level(head, x, rows[place], biases[place], (1, -1)[branch])

    path = {
        0: [(wide, 0, 4, 0), (two_way, 4, 0)],
        3: [(wide, 0, 4, 0), (two_way, 4, 1)],
        1: [(wide, 0, 4, 1), (two_way, 5, 0)],
        2: [(wide, 0, 4, 1), (two_way, 5, 1), (wide, 6, 3, 0)],
        4: [(wide, 0, 4, 1), (two_way, 5, 1), (wide, 6, 3, 1)],
        5: [(wide, 0, 4, 1), (two_way, 5, 1), (wide, 6, 3, 2)],
        6: [(wide, 0, 4, 2)],
        7: [(wide, 0, 4, 3)],
    }
    return math.fsum(level(*arguments) for level, *arguments in path[y])


def loop_adaptive(head: Head, x: Vector, y: int) -> float:
    p = as_lists(head)
    place = BY_COUNT.index(y)
    if place < CUTOFFS[0]:
        return softmax_level(head, x, p["root_rows"], p["root_biases"], place)
    cluster = 0 if place < CUTOFFS[1] else 1
    root = softmax_level(head, x, p["root_rows"], p["root_biases"], CUTOFFS[0] + cluster)
    length = math.sqrt(dot(x, x)) if head.unit_features else 1.0
    projected = [dot(x, row) / length for row in p[f"projections.{cluster}"]]
    rows = p[f"tail_rows.{cluster}"]
    biases = p.get(f"tail_biases.{cluster}", [0.0] * len(rows))
    return root + softmax_level(head, projected, rows, biases, place - CUTOFFS[cluster])


LOOPS = {"class-based": loop_class_based, "hierarchical": loop_hierarchical, "adaptive": loop_adaptive}


@every_head
@every_case
@pytest.mark.parametrize("margins", [MARGINS, NO_MARGINS], ids=["margin", "no-margin"])
def test_losses_equal_the_slow_loop(name, partition, margins):
    head = build(name, partition, margins)
    x, y = batch()
    expected = [LOOPS[partition](head, *pair) for pair in zip(x.tolist(), y.tolist(), strict=True)]
    found = head.batch_losses(x, y).nll
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


# ---- probabilities ---------------------------------------------------------------------------------------------------


@some_heads
@every_variant
def test_probabilities_sum_to_one(name, partition):
    head = build(name, partition)
    total = head.logits(batch()[0]).exp().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@every_head
@every_case
def test_probabilities_sum_to_one_for_every_head(name, partition):
    head = build(name, partition)
    total = head.logits(batch()[0]).exp().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@some_heads
@every_variant
def test_without_a_margin_the_loss_is_minus_the_logit(name, partition):
    head = build(name, partition, NO_MARGINS)
    x, y = batch()
    expected = -head.logits(x)[y, y]
    torch.testing.assert_close(head.batch_losses(x, y).nll, expected.detach(), rtol=1e-12, atol=1e-12)


@every_variant
def test_predictions_are_the_most_probable_classes(partition):
    head = build("softmax", partition)
    x, _ = batch()
    assert torch.equal(head.predict(x), head.logits(x).argmax(1))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    logits = head.logits(x)
    expected = (logits == logits.amax(1, keepdim=True)).int().argmax(1)
    assert torch.equal(head.predict(x), expected)


@every_case
@pytest.mark.parametrize(
    ("name", "margins"), [("am-softmax", (0.4, 0.2, 0.0)), ("arcface", (0.6, 0.3, 0.0)), ("a-softmax", (4, 2, 1))]
)
def test_a_smaller_margin_is_a_smaller_loss_for_every_sample(name, partition, margins):
    x, y = batch()
    options = {"annealing": None} if name == "a-softmax" else {}
    losses = [build(name, partition, {name: {"margin": m, **options}}).batch_losses(x, y).nll for m in margins]
    for larger, smaller in itertools.pairwise(losses):
        assert bool((larger > smaller).all())


@every_head
@every_case
def test_without_a_margin_the_loss_is_minus_the_logit_for_every_head(name, partition):
    head = build(name, partition, NO_MARGINS)
    x, y = batch()
    expected = -head.logits(x)[y, y]
    torch.testing.assert_close(head.batch_losses(x, y).nll, expected.detach(), rtol=1e-12, atol=1e-12)


# ---- gradients -------------------------------------------------------------------------------------------------------


def as_function(head: Head, y: Tensor) -> tuple[Any, list[Tensor]]:
    names = [key for key, _ in head.named_parameters()]

    def loss(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(head, dict(zip(names, parameters, strict=True)), (x, y))

    return loss, [p.detach().clone().requires_grad_() for p in head.parameters()]


@every_case
@pytest.mark.parametrize("name", ["softmax", "am-softmax", "arcface", "l-softmax"])
def test_gradients_are_the_true_ones(name, partition):
    x, y = batch()
    loss, parameters = as_function(build(name, partition), y)
    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), *parameters))


@every_case
def test_second_gradients_are_the_true_ones(partition):
    x, y = batch()
    loss, parameters = as_function(build("am-softmax", partition), y)
    assert torch.autograd.gradgradcheck(loss, (x.requires_grad_(), *parameters))


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_parameters_compute_in_float32(partition, dtype):
    head = build("softmax", partition).to(dtype)
    x, y = batch()
    loss = head(x.to(dtype), y)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(build("softmax", partition)(x, y).item(), rel=0.02)
    assert all(p.grad.dtype == dtype and bool(p.grad.isfinite().all()) for p in head.parameters())


@every_case
@every_head
def test_float32_is_close_to_float64(name, partition):
    x, y = batch()
    wide, narrow = build(name, partition), build(name, partition).float()
    found, expected = narrow.batch_losses(x.float(), y).nll, wide.batch_losses(x, y).nll
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6)


# ---- small sizes -----------------------------------------------------------------------------------------------------


@every_head
@pytest.mark.parametrize("partition", CASES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_classes(name, partition, count):
    options = {"alpha": 4.0} if name == "l2-softmax" else {}
    head = build(name, {"name": partition}, num_classes=count, **options)
    x = batch()[0]
    y = torch.arange(len(x)) % count
    head(x.requires_grad_(), y).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in head.parameters())
    total = head.logits(x).exp().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    if count == 1:
        assert bool((head.batch_losses(x, y).nll == 0).all())


@every_variant
def test_an_empty_batch_gives_every_parameter_a_zero_gradient(partition):
    head = build("softmax", partition)
    loss = head(torch.empty(0, D, dtype=torch.float64), torch.empty(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not bool(p.grad.any()) for p in head.parameters())
    assert head.logits(torch.empty(0, D)).shape == (0, C)


# ---- options and state -----------------------------------------------------------------------------------------------


@every_variant
def test_options_and_state_build_the_same_head(partition):
    head = build("softmax", partition)
    options = json.loads(json.dumps(head.options()))
    torch.manual_seed(99)
    twin = make_head(options.pop("name"), **options).double()
    twin.load_state_dict(head.state_dict())
    x, y = batch()
    assert torch.equal(twin.logits(x), head.logits(x))
    assert torch.equal(twin(x, y), head(x, y))
    assert twin.options() == head.options()


@every_case
def test_counts_may_be_a_tensor(partition):
    listed = build("softmax", {"name": partition, "class_counts": COUNTS})
    for counts in (torch.tensor(COUNTS), torch.tensor(COUNTS).numpy(), [float(count) for count in COUNTS]):
        given = build("softmax", {"name": partition, "class_counts": counts})
        assert given.options() == listed.options()
        assert torch.equal(given(*batch()), listed(*batch()))


@every_case
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1] * (C - 1), r"class_counts has 7 entries; 8 are needed"),
        ([1] * (C - 1) + [-2], r"class_counts\[7\]=-2 is out of range"),
        ([1.5] + [1] * (C - 1), r"class_counts\[0\]=1.5 is out of range"),
        (3, "class_counts=3 is out of range: it must be a list, an array or a tensor"),
        (["many"] * C, r"class_counts\[0\]='many' is out of range"),
    ],
)
def test_wrong_counts_are_named(partition, counts, message):
    with pytest.raises(ValueError, match=message):
        build("softmax", {"name": partition, "class_counts": counts})


@every_case
def test_counts_of_zero_only_will_do(partition):
    head = build("softmax", {"name": partition, "class_counts": [0] * C})
    assert bool(head(*batch()).isfinite())


@every_case
def test_a_state_of_another_arrangement_is_refused(partition):
    state = build("softmax", {"name": partition, "class_counts": COUNTS}).state_dict()
    with pytest.raises(ValueError, match="another arrangement of the classes"):
        build("softmax", {"name": partition}).load_state_dict(state)


@every_case
def test_label_smoothing_is_refused(partition):
    with pytest.raises(ValueError, match="label_smoothing=0"):
        build("softmax", partition, label_smoothing=0.1)


@every_case
def test_decay_is_for_rows_that_are_not_normalised(partition):
    assert make_partition(partition).factorised
    for name, decayed in [("softmax", True), ("am-softmax", False)]:
        head = build(name, partition)
        groups = head.parameter_groups(0.1)
        found = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        rows = {id(p) for key, p in head.named_parameters() if "rows" in key}
        assert rows <= found if decayed else not rows & found
        assert not any(id(p) in found for key, p in head.named_parameters() if "biases" in key)
