"""Sampled: Ẑ is unbiased, the gradient's bias falls with K, all classes are dense, and nothing of size C is made."""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from facemargin.heads import HEADS, Head, make_head
from facemargin.heads.base import Features
from facemargin.partitions import ClassRows, Sampled, make_partition
from facemargin.partitions.proposals import Frequency, Uniform

D, C = 4, 30
COUNTS = [1 + 7 * j % 40 for j in range(C)]


def build(name: str, partition: str | Sampled, **options: Any) -> Head:
    torch.manual_seed(4)
    head = make_head(name, embedding_dim=D, num_classes=C, partition=partition, **options).double()
    with torch.no_grad():
        if head.bias is not None:
            head.bias.normal_()
    return head


def batch(size: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(size, D, dtype=torch.float64, generator=generator)
    return x, torch.tensor([29, 3, 3, 0, 17])[:size]


def neighbours(labels: Tensor, draws: int = 4) -> tuple[Tensor, Tensor]:
    """q(j given y) falls with the distance of j from y on a ring; like a bigram."""
    distance = (torch.arange(C) - labels.unsqueeze(1)) % C
    q = torch.softmax(-0.1 * distance.double(), 1)
    classes = torch.multinomial(q, draws, replacement=True) if len(labels) else labels.new_zeros(0, draws)
    return classes, q.gather(1, classes).log()


def every_class(labels: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(C).expand(len(labels), C), torch.full((len(labels), C), -math.log(C), dtype=torch.float64)


def every_proposal() -> list[Any]:
    return [
        pytest.param({"samples": 5}, id="uniform"),
        pytest.param({"samples": 5, "proposal": "frequency", "class_counts": COUNTS}, id="frequency"),
        pytest.param({"samples": 5, "proposal": "frequency"}, id="order"),
        pytest.param({"samples": 5, "proposal": "frequency-power", "power": 0.4}, id="frequency-power"),
        pytest.param({"samples": 5, "proposal": Uniform(C)}, id="uniform-with-replacement"),
        pytest.param({"proposal": neighbours}, id="callable"),
    ]


def features_of(head: Head, x: Tensor) -> Features:
    return head.features(x)


def log_z(head: Head, x: Tensor, labels: Tensor) -> Tensor:
    """(M,) log Z or one draw of log Ẑ."""
    rows = ClassRows(head.weight, head.bias, None)
    found = head.partition.sums(head, features_of(head, x), rows, labels)
    return (found.log_sum + found.maximum).detach()


def gradients(head: Head, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    head.zero_grad()
    leaf = x.clone().requires_grad_()
    loss = head(leaf, y)
    loss.backward()
    found = {key: p.grad.to_dense() for key, p in head.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "x": leaf.grad, **found}


@pytest.mark.parametrize("correction", [True, False])
@pytest.mark.parametrize(
    "options", [{"samples": 1.0}, {"samples": C}, {"proposal": every_class}], ids=["share", "number", "callable"]
)
@pytest.mark.parametrize("name", HEADS)
def test_with_all_classes_it_is_dense(name: str, options: dict[str, Any], correction: bool) -> None:
    x, y = batch(5)
    there = gradients(build(name, "dense", temperature=1.3), x, y)
    here = gradients(build(name, Sampled(**options, correction=correction), temperature=1.3), x, y)
    assert here.keys() == there.keys()
    for key, expected in there.items():
        torch.testing.assert_close(here[key], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["softmax", "am-softmax"])
@pytest.mark.parametrize("options", every_proposal())
def test_the_estimate_of_z_is_unbiased(name: str, options: dict[str, Any]) -> None:
    """The mean of Ẑ/Z over 400 draws is within 4 of its standard errors of 1, for each sample of the batch."""
    scale = {"scale": 5.0} if name == "am-softmax" else {}
    x, y = batch()
    exact = log_z(build(name, "dense", temperature=1.5, **scale), x, y)
    head = build(name, Sampled(**options), temperature=1.5, **scale)
    torch.manual_seed(0)
    with torch.no_grad():
        ratios = torch.stack([(log_z(head, x, y) - exact).exp() for _ in range(400)])
    error = ratios.std(0) / math.sqrt(len(ratios))
    assert bool((error > 1e-3).all()), "the estimate does not vary: nothing is tested"
    assert bool(((ratios.mean(0) - 1).abs() < 4 * error).all())


@pytest.mark.parametrize("options", every_proposal()[:5])
def test_estimates_of_shards_add_up_to_an_unbiased_one(options: dict[str, Any]) -> None:
    """Σ over shards [0, 11) and [11, 30) of Ẑ, with label −1 where the target is in the other; 4 standard errors."""
    x, y = batch()
    head = build("softmax", "dense")
    exact = log_z(head, x, y)
    cuts, parts = [(0, 11), (11, C)], [Sampled(**options), Sampled(**options)]
    for part, (first, last) in zip(parts, cuts, strict=True):
        part.cover(head, first, last)
    torch.manual_seed(0)

    def estimate() -> Tensor:
        total = torch.zeros(len(x), dtype=torch.float64)
        for part, (first, last) in zip(parts, cuts, strict=True):
            rows = ClassRows(head.weight[first:last], head.bias[first:last], None)
            local = torch.where((y >= first) & (y < last), y - first, -1)
            found = part.sums(head, features_of(head, x), rows, local)
            assert bool((found.target != 0).eq(local >= 0).all())
            total += (found.log_sum + found.maximum - exact).exp()
        return total

    with torch.no_grad():
        ratios = torch.stack([estimate() for _ in range(250)])
    error = ratios.std(0) / math.sqrt(len(ratios))
    assert bool(((ratios.mean(0) - 1).abs() < 4 * error).all())


def relative_bias(mean: Tensor, exact: Tensor) -> float:
    return float((mean - exact).norm() / exact.norm())


def test_the_bias_of_the_gradient_falls_as_k_doubles() -> None:
    """K = 16, 32, 64 of q(j given y), 20,000 draws each in one batch of equal samples: at most 0.7 times each step."""
    x, y = batch(1)
    exact = gradients(build("softmax", "dense"), x, y)["x"]

    def bias(draws: int) -> float:
        head = build("softmax", Sampled(proposal=lambda labels: neighbours(labels, draws)))
        torch.manual_seed(1)
        # The loss is a mean over the samples: the sum of their gradients is the mean of those of single samples.
        return relative_bias(gradients(head, x.expand(20_000, D), y.expand(20_000))["x"].sum(0), exact)

    found = [bias(draws) for draws in (16, 32, 64)]
    assert 0.2 > found[0] > 0.1
    assert found[1] < 0.7 * found[0]
    assert found[2] < 0.7 * found[1]


def test_the_bias_of_the_gradient_falls_without_replacement_too() -> None:
    """K = 3, 6, 12 of 29 others, 300 draws each: at most 0.75 times each step."""
    x, y = batch(1)
    exact = gradients(build("softmax", "dense"), x, y)["x"]

    def bias(draws: int) -> float:
        head = build("softmax", Sampled(samples=draws))
        torch.manual_seed(2)
        return relative_bias(torch.stack([gradients(head, x, y)["x"] for _ in range(300)]).mean(0), exact)

    found = [bias(draws) for draws in (3, 6, 12)]
    assert 0.3 > found[0] > 0.15
    assert found[1] < 0.75 * found[0]
    assert found[2] < 0.75 * found[1]


@pytest.mark.parametrize("options", every_proposal()[:5])
def test_without_correction_every_class_in_play_counts_once(options: dict[str, Any]) -> None:
    x, y = batch(2)
    head = build(
        "modified", Sampled(**{**options, "samples": 40} if "proposal" in options else options, correction=False)
    )
    torch.manual_seed(3)
    found = log_z(head, x, y)
    rows = head.partition.active_rows
    assert set(y.tolist()) <= set(rows.tolist())
    torch.testing.assert_close(found, head.logits(x)[:, rows].logsumexp(1).detach())


def test_without_correction_each_sample_has_its_own_negatives() -> None:
    x, y = torch.ones(2, D, dtype=torch.float64), torch.tensor([2, 9])
    head = build(
        "modified", Sampled(proposal=lambda labels: ((labels + 1).view(-1, 1).repeat(1, 2), None), correction=False)
    )
    z = head.logits(x).detach()
    expected = torch.stack([z[0, [2, 9, 3]].logsumexp(0), z[1, [2, 9, 10]].logsumexp(0)])
    torch.testing.assert_close(log_z(head, x, y), expected)
    assert head.partition.active_rows.tolist() == [2, 3, 9, 10]


@pytest.mark.parametrize("name", ["softmax", "arcface"])
@pytest.mark.parametrize("options", every_proposal())
def test_gradients_hold_the_active_rows_alone(name: str, options: dict[str, Any]) -> None:
    x, y = batch(5)
    sparse, dense = (build(name, Sampled(**options, sparse_gradients=kind)) for kind in (True, False))
    torch.manual_seed(8)
    expected = gradients(dense, x, y)
    torch.manual_seed(8)
    found = gradients(sparse, x, y)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    rows = sparse.partition.active_rows
    assert torch.equal(rows, rows.unique())
    assert set(y.tolist()) <= set(rows.tolist())
    for key in ("weight", "bias") if sparse.has_bias else ("weight",):
        assert not dense.get_parameter(key).grad.is_sparse
        gradient = sparse.get_parameter(key).grad
        assert gradient.is_sparse
        assert torch.equal(gradient.coalesce().indices()[0], rows)


class _Sizes(TorchDispatchMode):
    """The most numbers that any dense tensor an operation returns has."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self.most = max(self.most, tensor.numel())
        return out


@pytest.mark.parametrize("proposal", ["uniform", "frequency"])
def test_a_step_makes_nothing_of_the_size_of_the_classes(proposal: str) -> None:
    classes, dim = 20_000, 8
    head = make_head(
        "am-softmax", embedding_dim=dim, num_classes=classes, partition=Sampled(samples=50, proposal=proposal)
    )
    x = torch.randn(4, dim, requires_grad=True)
    with _Sizes() as sizes:
        head(x, torch.tensor([1, 2, 19_999, 7])).backward()
        head.predict(x)
    assert 54 * dim <= sizes.most < classes * dim / 2
    with _Sizes() as sizes:
        head(x, torch.tensor([1, 2, 19_999, 7])).backward()
    assert sizes.most <= 54 * dim


def test_a_restored_generator_repeats_the_draws() -> None:
    head = build("softmax", Sampled(samples=4))
    x, y = batch()
    state = torch.get_rng_state()
    first = head(x, y).item(), head.partition.active_rows
    second = head(x, y).item(), head.partition.active_rows
    assert not torch.equal(first[1], second[1])
    torch.set_rng_state(state)
    assert head(x, y).item() == first[0]
    assert torch.equal(head.partition.active_rows, first[1])


@pytest.mark.parametrize(
    ("samples", "classes", "expected"),
    [(None, 500, 500), (None, 5_000, 1_026), (None, 30_000, 3_002), (7, 500, 9), (0.1, 500, 52), (900, 500, 500)],
)
def test_how_many_classes_are_in_play(samples: int | float | None, classes: int, expected: int) -> None:
    """Two labels and K others."""
    head = make_head("normface", embedding_dim=2, num_classes=classes, partition=Sampled(samples=samples))
    head(torch.randn(3, 2), torch.tensor([4, 1, 4]))
    assert len(head.partition.active_rows) == expected


def test_a_shard_draws_its_share() -> None:
    head = build("modified", "dense")
    for samples, first, last, expected in [(12, 0, 15, 6), (12, 0, 5, 2), (12, 29, 30, 1), (0.5, 10, 20, 5)]:
        part = Sampled(samples=samples)
        part.cover(head, first, last)
        x = torch.randn(2, D, dtype=torch.float64)
        part.sums(head, features_of(head, x), ClassRows(head.weight[first:last], None, None), torch.tensor([-1, -1]))
        assert len(part.active_rows) == expected


def test_predict_is_exact() -> None:
    head = build("softmax", Sampled(samples=2))
    x = torch.randn(50, D, dtype=torch.float64)
    assert torch.equal(head.predict(x), head.logits(x).argmax(1))


@pytest.mark.parametrize("options", every_proposal())
def test_an_empty_batch_has_zero_gradients(options: dict[str, Any]) -> None:
    head = build("softmax", Sampled(**options))
    found = gradients(head, torch.empty(0, D, dtype=torch.float64), torch.empty(0, dtype=torch.int64))
    assert set(found) == {"loss", "x", "weight", "bias"}
    assert not any(bool(g.any()) for g in found.values())


def test_weights_of_half_precision_learn() -> None:
    head = build("softmax", Sampled(samples=4)).bfloat16()
    x, y = batch(5)
    gradients(head, x.bfloat16(), y)
    assert head.weight.grad.is_sparse
    assert head.weight.grad.dtype == torch.bfloat16
    assert bool(head.weight.grad.to_dense().isfinite().all())


def test_z_is_only_estimated_and_not_reported() -> None:
    head = build("softmax", Sampled(samples=4))
    x, y = batch()
    assert head.partition.losses(head, features_of(head, x), y).log_normaliser is None
    with pytest.raises(ValueError, match="self_normalize"):
        make_partition({"name": "sampled", "self_normalize": 0.1})


def test_options_are_json_and_rebuild_it() -> None:
    options = {
        "samples": 0.25,
        "proposal": "frequency-power",
        "power": 0.5,
        "correction": False,
        "sparse_gradients": False,
    }
    built = Sampled(**options, class_counts=torch.tensor(COUNTS))
    written = json.loads(json.dumps(built.options()))
    assert written == {"name": "sampled", **options, "class_counts": COUNTS}
    assert make_partition(written).options() == written
    for proposal in (neighbours, Frequency(C)):
        with pytest.raises(ValueError, match=r"cannot be saved as an option: only one given by name"):
            Sampled(proposal=proposal).options()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, r"samples=0 is out of range: an integer ≥ 1, or a share of the classes in \(0, 1\]"),
        ({"samples": 1.5}, "samples=1.5 is out of range"),
        ({"samples": math.nan}, "samples=nan is out of range"),
        ({"samples": True}, "samples=True is out of range"),
        ({"samples": 3, "proposal": neighbours}, "samples=3 with a callable proposal"),
        ({"proposal": "zipf"}, "proposal='zipf' is unknown; known proposals: uniform, frequency, frequency-power"),
        ({"proposal": 3}, "proposal=3 is neither a name"),
        ({"power": 0.5}, "power=0.5 is for frequency and frequency-power, not for 'uniform'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampled(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proposal": Uniform(7)}, "proposal is one over 7 classes; the head has 30"),
        ({"proposal": "frequency", "class_counts": [1, 2]}, "class_counts has 2 entries; 30 are needed"),
        ({"class_counts": [1, 2]}, "class_counts has 2 entries; 30 are needed"),
        ({"proposal": "frequency", "power": 2.0}, "power=2.0 is out of range"),
    ],
)
def test_what_does_not_fit_the_head_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("softmax", Sampled(**options))


def test_a_callable_and_a_whole_proposal_do_not_work_on_a_part() -> None:
    head = build("modified", "dense")
    with pytest.raises(ValueError, match="a callable proposal names classes of all shards"):
        Sampled(proposal=neighbours).cover(head, 0, 10)
    part = Sampled()
    part.cover(head, 0, C)
    x, y = batch()
    with pytest.raises(ValueError, match="sums over 10 rows, with a proposal for 30: call cover first"):
        part.sums(head, features_of(head, x), ClassRows(head.weight[:10], None, None), y)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((torch.zeros(3, dtype=torch.int64), None), r"classes of shape \(3,\) and torch.int64"),
        ((torch.zeros(2, 4, dtype=torch.int64), None), r"classes of shape \(2, 4\).*\(3, K ≥ 1\)"),
        ((torch.zeros(3, 0, dtype=torch.int64), None), r"classes of shape \(3, 0\)"),
        ((torch.zeros(3, 1), None), "torch.float32"),
        ((torch.full((3, 1), C), None), r"a class out of range: classes lie in \[0, 29\]"),
        ((torch.zeros(3, 1, dtype=torch.int64), None), "gave no log q"),
        ((torch.zeros(3, 1, dtype=torch.int64), torch.full((3, 1), -math.inf)), "log q that is not finite"),
    ],
)
def test_what_a_callable_gives_is_checked(answer: tuple[Tensor, Tensor | None], message: str) -> None:
    head = build("softmax", Sampled(proposal=lambda labels: answer))
    with pytest.raises(ValueError, match=message):
        head(*batch())
