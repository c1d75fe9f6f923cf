"""Hierarchical alone: which tree, the two-way node, what a step costs, and the flat softmax as the widest tree."""

import math

import pytest
import torch
from torch import Tensor

from facemargin.heads import HEADS, Head, make_head
from facemargin.partitions import Hierarchical


def build(name: str, num_classes: int, partition: object, **options: object) -> Head:
    torch.manual_seed(1)
    return make_head(name, embedding_dim=4, num_classes=num_classes, partition=partition, **options)


def count_scores(head: Head, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of all score tensors that the head hands out from now on."""
    sizes: list[int] = []
    for method in ("scores", "target_scores"):
        plain = getattr(head, method)

        def spy(*arguments: Tensor, plain=plain) -> Tensor:
            found = plain(*arguments)
            sizes.append(found.numel())
            return found

        monkeypatch.setattr(head, method, spy)
    return sizes


def test_a_sample_costs_the_depth_of_its_class(monkeypatch):
    head = build("am-softmax", 10_000, "hierarchical")
    sizes = count_scores(head, monkeypatch)
    head(torch.randn(3, 4), torch.tensor([0, 100, 9_999])).backward()
    # −log2 of the log-uniform probabilities: 3.7, 9.9 and 16.5.
    assert 3 + 9 + 16 <= sum(sizes) <= 5 + 12 + 18


def test_a_wide_node_costs_its_branches(monkeypatch):
    head = build("am-softmax", 10_000, Hierarchical(tree="balanced", arity=10))
    paired = head.paired_scores
    sizes: list[int] = []

    def spy(features, weight):
        found = paired(features, weight)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(head, "paired_scores", spy)
    head(torch.randn(2, 4), torch.tensor([0, 9_999])).backward()
    # Four levels of ten for each sample, and the target's score on each.
    assert sum(sizes) == 2 * 4 * (10 + 1)


@pytest.mark.parametrize("name", HEADS)
def test_two_classes_are_one_row_and_a_sigmoid(name):
    options = {"alpha": 4.0} if name == "l2-softmax" else {}
    head = build(name, 2, Hierarchical(tree=[0, 1]), **options)
    assert head.partition.node_rows.shape == (1, 4)
    x = torch.randn(5, 4)
    z = head.scores(head.features(x), head.partition.node_rows, head.partition.node_biases)[:, 0]
    torch.testing.assert_close(head.logits(x).exp(), torch.stack([z.sigmoid(), (-z).sigmoid()], 1))
    assert torch.equal(head.predict(x), (z < 0).long())


def test_the_margin_makes_either_branch_harder():
    """f = s(d·cosθ − m): the loss is log(1 + exp(s(m ∓ cosθ)))."""
    head = build("am-softmax", 2, Hierarchical(tree=[0, 1]), scale=5.0, margin=0.3).double()
    x = torch.randn(4, 4, dtype=torch.float64)
    cosine = torch.nn.functional.cosine_similarity(x, head.partition.node_rows)
    for label, sign in ((0, 1), (1, -1)):
        nll = head.batch_losses(x, torch.full((4,), label)).nll
        expected = [math.log1p(math.exp(5 * (0.3 - sign * c))) for c in cosine.tolist()]
        torch.testing.assert_close(nll, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", ["softmax", "am-softmax", "a-softmax"])
def test_a_root_over_all_classes_is_the_flat_softmax(name):
    head = build(name, 6, Hierarchical(tree=[3, 0, 5, 1, 4, 2]))
    flat = build(name, 6, "dense")
    with torch.no_grad():
        flat.weight.copy_(head.partition.node_rows[torch.tensor([1, 3, 5, 0, 4, 2])])
    x, y = torch.randn(9, 4), torch.arange(9) % 6
    torch.testing.assert_close(head.batch_losses(x, y).nll, flat.batch_losses(x, y).nll)
    torch.testing.assert_close(head.logits(x), flat.logits(x).log_softmax(1))


def test_frequent_classes_are_near_the_root():
    partition = build("softmax", 4, Hierarchical(class_counts=[1, 2, 100, 20])).partition
    depths = []
    for place in partition.leaf.tolist():
        depths.append(0)
        while partition.parent[place] >= 0:
            depths[-1] += 1
            place = int(partition.parent[place])
    assert depths == [3, 3, 1, 2]


@pytest.mark.parametrize(("arity", "rows"), [(2, 99), (3, 49 * 3 + 1), (10, 11 * 10), (100, 100)])
def test_huffmans_tree_has_a_row_for_two_branches_and_k_for_more(arity, rows):
    """Of 100 classes: 99 nodes of two, or 49 of three and one of two, or 11 of ten, or one."""
    assert len(build("softmax", 100, Hierarchical(arity=arity)).partition.node_rows) == rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tree": "binary"}, "tree='binary' is unknown; use huffman, balanced"),
        ({"arity": 1}, "arity=1 is out of range"),
        ({"arity": 2.0}, r"arity=2\.0 is out of range"),
        ({"tree": [0, 1, 2, 3], "arity": 4}, "arity=4 has no meaning"),
        ({"tree": [[0, 1], 2]}, "class 3 is missing"),
        ({"tree": [[0, 1], 2, 3, 3]}, "class 3 is there twice"),
        ({"tree": [[0, 1], 2, 3, 4]}, "leaf 4 is out of range"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build("softmax", 4, Hierarchical(**options))


def test_a_tree_may_be_of_tuples_and_is_recorded_as_lists():
    assert Hierarchical(tree=((0, 1), (2, (3,)))).options()["tree"] == [[0, 1], [2, [3]]]
