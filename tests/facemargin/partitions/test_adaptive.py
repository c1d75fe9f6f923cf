"""Adaptive alone: PyTorch's own as an oracle, cutoffs, widths, and what a step costs."""

import itertools

import pytest
import torch

from facemargin.heads import Head, make_head
from facemargin.partitions import Adaptive
from facemargin.partitions.adaptive import default_cutoffs


def build(name: str, num_classes: int, partition: object, dim: int = 12, **options: object) -> Head:
    torch.manual_seed(1)
    return make_head(name, embedding_dim=dim, num_classes=num_classes, partition=partition, **options)


@pytest.mark.parametrize("head_bias", [False, True])
@pytest.mark.parametrize(("cutoffs", "div_value"), [([4, 9], 2.0), ([3], 4.0), ([1, 2, 20], 1.5), ([10, 15], 1.0)])
def test_it_equals_pytorchs_adaptive_softmax(head_bias, cutoffs, div_value):
    head = build("softmax", 30, Adaptive(cutoffs=cutoffs, div_value=div_value, min_dim=1)).double()
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(12, 30, cutoffs, div_value, head_bias=head_bias).double()
    ours = head.partition
    with torch.no_grad():
        ours.root_rows.copy_(theirs.head.weight)
        if head_bias:
            ours.root_biases.copy_(theirs.head.bias)
        for mine, (projection, rows) in zip(
            zip(ours.projections, ours.tail_rows, strict=True), theirs.tail, strict=True
        ):
            mine[0].copy_(projection.weight)
            mine[1].copy_(rows.weight)
    x = torch.randn(30, 12, dtype=torch.float64, requires_grad=True)
    y = torch.arange(30)
    found, expected = head(x, y), theirs(x, y).loss
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(head.logits(x), theirs.log_prob(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(head.predict(x), theirs.predict(x))
    (there,) = torch.autograd.grad(expected, x)
    torch.testing.assert_close(torch.autograd.grad(found, x)[0], there, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["softmax", "am-softmax"])
def test_no_cutoff_is_the_flat_softmax(name):
    head, flat = build(name, 6, Adaptive(cutoffs=[])), build(name, 6, "dense")
    with torch.no_grad():
        flat.weight.copy_(head.partition.root_rows)
    x, y = torch.randn(9, 12), torch.arange(9) % 6
    torch.testing.assert_close(head.batch_losses(x, y).nll, flat.batch_losses(x, y).nll)
    torch.testing.assert_close(head.logits(x), flat.logits(x).log_softmax(1))


def test_unit_features_are_unit_again_after_the_projection():
    head = build("am-softmax", 10, Adaptive(cutoffs=[4], min_dim=3, div_value=4), scale=7.0)
    x = torch.randn(5, 12)
    projected = head.partition._project(head, head.features(x), 0)
    torch.testing.assert_close(projected.vectors.norm(dim=1), torch.full((5,), 7.0))
    torch.testing.assert_close(projected.length, torch.full((5,), 7.0))
    direction = torch.nn.functional.normalize(x @ head.partition.projections[0].T, dim=1)
    torch.testing.assert_close(projected.unit, direction)
    assert torch.allclose(head.logits(100 * x), head.logits(x), atol=1e-4)


def test_free_features_keep_their_length_in_the_projection():
    head = build("modified", 10, Adaptive(cutoffs=[4], min_dim=3))
    x = torch.randn(5, 12)
    projected = head.partition._project(head, head.features(x), 0)
    torch.testing.assert_close(projected.vectors, x @ head.partition.projections[0].T)


def test_clusters_narrow_down_to_the_least_width():
    rows = build("softmax", 100, Adaptive(cutoffs=[10, 30, 60], div_value=2, min_dim=2)).partition.tail_rows
    assert [tuple(r.shape) for r in rows] == [(20, 6), (30, 3), (40, 2)]
    rows = build("softmax", 100, Adaptive(cutoffs=[10, 30])).partition.tail_rows
    assert [tuple(r.shape) for r in rows] == [(20, 12), (70, 12)]


def test_the_shortlist_holds_the_frequent_classes():
    partition = build("softmax", 6, Adaptive(cutoffs=[2, 4], class_counts=[1, 9, 2, 8, 3, 7])).partition
    assert partition.position.argsort().tolist() == [1, 3, 5, 4, 2, 0]


def test_default_cutoffs_lie_at_a_half_and_four_fifths_of_the_samples():
    assert default_cutoffs([1] * 100) == [50, 80]
    assert default_cutoffs([1000, *[1] * 50]) == [1]
    head = build("softmax", 1000, "adaptive")
    assert head.partition.cutoffs == head.options()["partition"]["cutoffs"] == [31, 251]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 20])
def test_default_clusters_have_two_classes_or_more(count):
    for frequencies in ([1] * count, [100 // (j + 1) + 1 for j in range(count)], [0] * count):
        cutoffs = default_cutoffs(frequencies)
        assert all(end - start >= 2 for start, end in itertools.pairwise([*cutoffs, count]))
        assert cutoffs or count < 4


def test_a_sample_costs_the_root_and_its_cluster(monkeypatch):
    head = build("softmax", 10_000, Adaptive(cutoffs=[100, 1000]))
    plain, sizes = head.scores, []

    def spy(*arguments):
        found = plain(*arguments)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(head, "scores", spy)
    head(torch.randn(3, 12), torch.tensor([0, 1, 500])).backward()
    assert sizes == [3 * 102, 900, 0]


def test_projections_decay_where_features_are_free():
    for name, rows, projections in [
        ("softmax", True, True),
        ("modified", False, True),
        ("l2-softmax", True, False),
        ("am-softmax", False, False),
    ]:
        head = build(name, 20, Adaptive(cutoffs=[5, 10]))
        decayed = {id(p) for p in head.partition.decayed_parameters(head)}
        for key, parameter in head.named_parameters():
            expected = (rows and "rows" in key) or (projections and "projections" in key)
            assert (id(parameter) in decayed) == expected, (name, key)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoffs": [4, 4]}, r"cutoffs=\[4, 4\] are out of range: they must be rising integers in \[1, 9\]"),
        ({"cutoffs": [0, 4]}, "cutoffs"),
        ({"cutoffs": [4, 10]}, "cutoffs"),
        ({"cutoffs": [4.5]}, "cutoffs"),
        ({"cutoffs": [5, 3]}, "cutoffs"),
        ({"div_value": 0.5}, r"div_value=0\.5 is out of range"),
        ({"div_value": float("inf")}, "div_value=inf"),
        ({"min_dim": 0}, "min_dim=0 is out of range"),
        ({"min_dim": 2.5}, r"min_dim=2\.5 is out of range"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build("softmax", 10, Adaptive(**options))


@pytest.mark.parametrize("name", ["am-softmax", "modified", "l2-softmax"])
def test_a_cluster_of_width_one_is_refused_where_it_would_be_a_sign(name):
    narrow = {"cutoffs": [4], "div_value": 12, "min_dim": 1}
    with pytest.raises(ValueError, match=r"one number wide.*use min_dim ≥ 2"):
        build(name, 10, Adaptive(**narrow))
    assert build("softmax", 10, Adaptive(**narrow)).partition.tail_rows[0].shape == (6, 1)
    assert build(name, 10, Adaptive(**narrow), dim=1).partition.tail_rows[0].shape == (6, 1)
