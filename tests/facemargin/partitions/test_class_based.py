"""Class-based alone: which groups, what a step costs, and the flat softmax as its two ends."""

import pytest
import torch
from torch import Tensor

from facemargin.heads import Head, make_head
from facemargin.partitions import ClassBased


def build(name: str, num_classes: int, partition: object, **options: object) -> Head:
    torch.manual_seed(1)
    return make_head(name, embedding_dim=4, num_classes=num_classes, partition=partition, **options)


def count_scores(head: Head, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of all score tensors that the head hands out from now on."""
    sizes: list[int] = []
    for method in ("scores", "target_scores", "paired_scores"):
        plain = getattr(head, method)

        def spy(*arguments: Tensor, plain=plain) -> Tensor:
            found = plain(*arguments)
            sizes.append(found.numel())
            return found

        monkeypatch.setattr(head, method, spy)
    return sizes


@pytest.mark.parametrize("name", ["softmax", "am-softmax"])
@pytest.mark.parametrize("batch", [1, 32])
def test_a_sample_costs_its_group_and_the_groups(name, batch, monkeypatch):
    head = build(name, 10_000, "class-based")
    sizes = count_scores(head, monkeypatch)
    labels = torch.arange(batch) * 311
    head(torch.randn(batch, 4), labels).backward()
    # 100 groups, 100 classes in the group, and the target on each level, paired scores counted within it.
    assert sum(sizes) == batch * (100 + 100 + 2 * 2)


def test_every_class_has_one_row_among_those_of_its_group():
    partition = build("softmax", 50, "class-based").partition
    assert sorted(partition.sizes) == [7] * 6 + [8]
    assert sorted(partition.position.tolist()) == list(range(50))
    for cls, (group, place) in enumerate(zip(partition.group_of.tolist(), partition.position.tolist(), strict=True)):
        first = sum(partition.sizes[:group])
        assert first <= place < first + partition.sizes[group], cls


@pytest.mark.parametrize("name", ["softmax", "am-softmax", "arcface"])
@pytest.mark.parametrize(("num_groups", "level"), [(1, "class_rows"), (6, "group_rows")])
def test_one_group_or_a_group_to_each_class_is_the_flat_softmax(name, num_groups, level):
    head = build(name, 6, ClassBased(num_groups=num_groups))
    flat = build(name, 6, "dense")
    with torch.no_grad():
        flat.weight.copy_(getattr(head.partition, level))
    x, y = torch.randn(9, 4), torch.arange(9) % 6
    torch.testing.assert_close(head.batch_losses(x, y).nll, flat.batch_losses(x, y).nll)
    torch.testing.assert_close(head.logits(x), flat.logits(x).log_softmax(1))


def test_frequent_classes_share_a_group():
    counts = [1, 50, 2, 60, 3, 55]
    size = build("softmax", 6, ClassBased(num_groups=2, class_counts=counts)).partition
    assert size.group_of.tolist() == [1, 0, 1, 0, 1, 0]
    mass = build("softmax", 6, ClassBased(grouping="mass", num_groups=2, class_counts=counts)).partition
    assert mass.group_of.tolist() == [1, 1, 1, 0, 1, 1]


def test_similar_classes_share_a_group_and_the_options_keep_them():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])
    partition = ClassBased(grouping="similarity", class_vectors=vectors)
    groups = build("softmax", 4, partition).partition.group_of
    assert groups[0] == groups[2] != groups[1] == groups[3]
    options = partition.options()
    del options["name"]
    assert build("softmax", 4, ClassBased(**options)).partition.group_of.tolist() == groups.tolist()


def test_given_groups_may_be_a_tensor_with_any_numbers():
    partition = build("softmax", 4, ClassBased(grouping=torch.tensor([8, -1, 8, 3]))).partition
    assert partition.group_of.tolist() == [2, 0, 2, 1]
    assert partition.options()["grouping"] == [8, -1, 8, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grouping": "frequency"}, "grouping='frequency' is unknown; use size, mass, similarity"),
        ({"grouping": "similarity"}, "class_vectors and grouping='similarity' need each other"),
        ({"class_vectors": torch.ones(4, 2)}, "need each other"),
        ({"grouping": [0, 1, 0, 1], "num_groups": 2}, "num_groups=2 has no meaning"),
        ({"num_groups": 0}, "num_groups=0 is out of range"),
        ({"num_groups": 2.0}, r"num_groups=2\.0 is out of range"),
        ({"num_groups": 5}, r"num_groups=5 is out of range: it must be an integer in \[1, 4\]"),
        ({"grouping": [0, 1, 0]}, "grouping has 3 entries; 4 are needed"),
        ({"grouping": [0, 1, 0, None]}, r"grouping\[3\]=None"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build("softmax", 4, ClassBased(**options))
