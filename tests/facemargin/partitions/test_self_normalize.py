"""The self-normalising term a·(log Z − c)²: its value, its gradient, and what it does to training."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from facemargin.heads import HEADS, Annealing, Head, make_head
from facemargin.partitions import Dense

D, C, A = 3, 4, 0.3
OWN: dict[str, dict[str, Any]] = {
    "l-softmax": {"margin": 3, "annealing": Annealing(base=2.0, gamma=0.0)},
    "a-softmax": {"margin": 3, "annealing": None},
    "am-softmax": {"scale": 3.0, "margin": 0.4},
    "arcface": {"scale": 3.0, "margin": 0.5},
}
UNIT = ["am-softmax", "normface", "arcface"]


def build(name: str, a: float = A, **options: Any) -> Head:
    torch.manual_seed(3)
    partition = {"name": "dense", "self_normalize": a}
    return make_head(name, embedding_dim=D, num_classes=C, partition=partition, **OWN.get(name, {}), **options).double()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(5, D, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 3, -100, 1])


def margined_log_z(head: Head, x: Tensor, label: int) -> float:
    """log Z of one sample by a loop over classes, with the margin on the label's score."""
    row = slice(label, label + 1)
    features = head.features(x[None])
    total = 0.0
    for j in range(head.num_classes):
        score = head.logits(x[None])[0, j].item()
        if j == label:
            score = head.target_scores(features, head.weight[row], None if head.bias is None else head.bias[row]).item()
        total += math.exp(score / head.temperature)
    return math.log(total)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_penalty_is_that_of_a_slow_loop(name, temperature, smoothing):
    weights = [1.0, 2.0, 0.5, 3.0]
    options = {"temperature": temperature, "label_smoothing": smoothing, "class_weights": weights}
    with_term, without = build(name, **options), build(name, a=0.0, **options)
    x, y = batch()
    c = 0.0 if with_term.has_bias else with_term.partition.log_z.item()
    counted = [(row, label) for row, label in zip(x, y.tolist(), strict=True) if label >= 0]
    total = sum(weights[label] * A * (margined_log_z(with_term, row, label) - c) ** 2 for row, label in counted)
    expected = without(x, y).item() + total / sum(weights[label] for _, label in counted)
    assert with_term(x, y).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_its_gradient_is_the_true_one_and_reaches_the_offset(name):
    head = build(name, temperature=1.3)
    x, y = batch()
    inputs = (x.requires_grad_(), *head.parameters())
    assert torch.autograd.gradcheck(lambda embeddings, *_: head(embeddings, y), inputs, atol=1e-7, fast_mode=True)
    head(x, y).backward()
    if head.has_bias:
        assert head.partition.log_z is None
        return
    counted = [margined_log_z(head, row, label) for row, label in zip(x, y.tolist(), strict=True) if label >= 0]
    c = head.partition.log_z.item()
    expected = -2 * A * sum(log_z - c for log_z in counted) / len(counted)
    assert head.partition.log_z.grad.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", HEADS)
def test_without_it_there_is_no_parameter_more(name):
    plain, zero = make_head(name, embedding_dim=D, num_classes=C), build(name, a=0.0)
    assert [key for key, _ in plain.named_parameters()] == [key for key, _ in zero.named_parameters()]
    assert zero.partition.log_z is None
    extra = {key for key, _ in build(name).named_parameters()} - {key for key, _ in zero.named_parameters()}
    assert extra == (set() if zero.has_bias else {"partition.log_z"})
    assert {f"{key}" for key in build(name).state_dict()} - set(zero.state_dict()) == extra


def test_the_offset_is_saved_and_never_decayed():
    head, twin = build("am-softmax"), build("am-softmax")
    with torch.no_grad():
        head.partition.log_z.fill_(7.0)
    twin.load_state_dict(head.state_dict())
    assert twin.partition.log_z.item() == 7.0
    for group in build("l-softmax").parameter_groups(weight_decay=0.1):
        assert group["weight_decay"] == 0 or all(p.ndim == 2 for p in group["params"])


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_share_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match=r"self_normalize=.* is out of range: it must be finite and ≥ 0"):
        Dense(self_normalize=value)


@pytest.mark.parametrize("name", UNIT)
def test_a_unit_head_reaches_no_log_normaliser_farther_from_log_c_than_its_scale(name):
    """All rows along a feature, and all against it, are the two ends; log Z = 0 lies outside them when s < log C."""
    classes, scale = 1000, 5.0
    options = {} if name == "normface" else {"margin": 0.0}
    head = make_head(name, embedding_dim=D, num_classes=classes, scale=scale, **options).double()
    x = torch.randn(1, D, dtype=torch.float64)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            head.weight.copy_((sign * x).expand(classes, D))
        ends.append(head.logits(x).logsumexp(1).item())
    assert ends == pytest.approx([math.log(classes) + scale, math.log(classes) - scale])
    assert ends[1] > 0
    with torch.no_grad():
        head.weight.normal_()
    random = head.logits(torch.randn(200, D, dtype=torch.float64)).logsumexp(1)
    assert bool(((random > ends[1]) & (random < ends[0])).all())


def trained(name: str, a: float, **options: Any) -> tuple[Tensor, Head, float]:
    """Margined log Z of every sample after a short training on clusters, and the accuracy."""
    torch.manual_seed(0)
    centres = torch.randn(20, 8)
    y = torch.arange(20).repeat(10)
    x = centres[y] + 0.5 * torch.randn(len(y), 8)
    partition = {"name": "dense", "self_normalize": a}
    network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    head = make_head(name, embedding_dim=8, num_classes=20, partition=partition, **options)
    optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=0.03, momentum=0.9)
    for _ in range(200):
        optimizer.zero_grad()
        head(network(x), y).backward()
        optimizer.step()
    embeddings = network(x)
    log_z = head.partition.losses(head, head.features(embeddings), y).log_normaliser
    return log_z, head, float((head.predict(embeddings) == y).float().mean())


@pytest.mark.parametrize(
    ("name", "options"),
    [("softmax", {}), ("l2-softmax", {}), ("am-softmax", {"scale": 8.0, "margin": 0.2}), ("modified", {})],
)
def test_training_with_it_brings_log_z_together_near_its_goal(name, options):
    """Heads with biases end at log Z = 0, which is far from where they end without; the others at their scalar."""
    free, head, _ = trained(name, 0.0, **options)
    bound, head, accuracy = trained(name, 1.0, **options)
    goal = 0.0 if head.has_bias else head.partition.log_z.item()
    assert float((bound - goal).square().mean().sqrt()) < 0.5
    assert float(bound.std()) < 0.8 * float(free.std())
    assert abs(float(bound.mean()) - goal) < 0.1
    assert accuracy > 0.75
    if head.has_bias:
        assert float(free.mean().abs()) > 5
