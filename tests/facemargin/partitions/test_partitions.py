"""The registry, and what belongs to a partition alone."""

from typing import Any

import numpy as np
import pytest
import torch

import facemargin.partitions
from facemargin.heads import make_head
from facemargin.partitions import NCE, PARTITIONS, Adaptive, Dense, Partition, Sampled, make_partition


def test_an_unknown_partition_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"partition='dens'.*known partitions: dense"):
        make_head("softmax", embedding_dim=2, num_classes=3, partition="dens")


@pytest.mark.parametrize("name", PARTITIONS)
def test_every_partition_works_by_its_name_and_by_its_options(name):
    assert PARTITIONS[name].name == name
    partition = make_partition(name)
    assert type(make_partition(partition.options())) is PARTITIONS[name]
    assert make_partition(partition) is partition


def test_an_unknown_option_is_refused():
    with pytest.raises(ValueError, match=r"'dense'.*block"):
        make_partition({"name": "dense", "block": 3})


@pytest.mark.parametrize("given", [Dense, None, 5, ["dense"], {"name": ["dense"]}, {}])
def test_what_is_no_partition_at_all_lists_the_known_ones(given):
    with pytest.raises(ValueError, match=r"partition=.* is unknown; known partitions: dense, .*or an instance"):
        make_partition(given)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("sampled", "Z is only estimated"),
        ("nce", "Z is only estimated"),
        *((name, "Z is 1 by construction") for name in PARTITIONS if PARTITIONS[name].factorised),
    ],
)
def test_self_normalising_without_a_sum_says_why_not_and_what_to_use(name, why):
    expected = rf"self_normalize=0\.1: with partition '{name}' {why}; use partition 'dense', 'streaming' or 'sharded'"
    with pytest.raises(ValueError, match=expected):
        make_partition({"name": name, "self_normalize": 0.1})


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("dense", "self_normalize", "0.1"),
        ("dense", "self_normalize", True),
        ("dense", "self_normalize", None),
        ("streaming", "self_normalize", "x"),
        ("sharded", "self_normalize", "x"),
        ("sampled", "samples", "3"),
        ("sampled", "proposal", None),
        ("sampled", "correction", "false"),
        ("sampled", "correction", 1),
        ("sampled", "sparse_gradients", "false"),
        ("sampled", "class_counts", "many"),
        ("nce", "samples", "3"),
        ("nce", "samples", [3]),
        ("nce", "noise", ["uniform"]),
        ("nce", "objective", ["nce"]),
        ("nce", "sparse_gradients", 0),
        ("nce", "class_counts", 5),
        ("class-based", "num_groups", "3"),
        ("class-based", "num_groups", 2.0),
        ("class-based", "grouping", 5),
        ("class-based", "class_counts", 5),
        ("hierarchical", "arity", "3"),
        ("hierarchical", "tree", 5),
        ("adaptive", "div_value", "4"),
        ("adaptive", "min_dim", "3"),
        ("adaptive", "cutoffs", 5),
    ],
)
def test_a_value_of_the_wrong_type_is_named(name, option, value):
    with pytest.raises(ValueError, match=option) as refused:
        make_partition({"name": name, option: value})
    assert f"{option}={value!r}" in str(refused.value)


@pytest.mark.parametrize("name", ["sampled", "nce"])
@pytest.mark.parametrize("source", ["frequency", "frequency-power"])
def test_a_power_of_the_wrong_type_is_named(name, source):
    with pytest.raises(ValueError, match=r"power='1' is out of range: it must lie in \[0, 1\]"):
        make_partition({"name": name, "proposal" if name == "sampled" else "noise": source, "power": "1"})


def test_cutoffs_and_vectors_of_the_wrong_type_are_named():
    for cutoffs in (["3", 4], [1.5]):
        with pytest.raises(ValueError, match=r"cutoffs=\["):
            make_head("softmax", embedding_dim=4, num_classes=9, partition=Adaptive(cutoffs=cutoffs))
    for vectors in ("x", torch.tensor(1.0)):
        with pytest.raises(ValueError, match="class_vectors"):
            make_partition({"name": "class-based", "grouping": "similarity", "class_vectors": vectors})


def test_numbers_of_numpy_will_do():
    for partition in (Sampled(samples=np.int64(3)), NCE(samples=np.int32(3))):
        assert type(partition.samples) is int
        assert partition.samples == 3
    assert Sampled(samples=np.float64(0.5)).samples == 0.5
    assert Dense(self_normalize=np.float32(0.5)).self_normalize == 0.5


def test_every_class_of_the_registry_is_exported():
    exported = {getattr(facemargin.partitions, name) for name in facemargin.partitions.__all__ if name != "PARTITIONS"}
    assert set(PARTITIONS.values()) <= exported
    assert {"Factorised", "Proposal", "Uniform", "Frequency"} <= set(facemargin.partitions.__all__)


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({"name": "dense"}, False),
        ({"name": "streaming"}, False),
        ({"name": "sampled"}, False),
        ({"name": "sampled", "proposal": "frequency"}, True),
        ({"name": "nce"}, False),
        ({"name": "nce", "noise": "frequency-power"}, True),
        ({"name": "class-based"}, True),
        ({"name": "class-based", "grouping": "mass"}, True),
        ({"name": "class-based", "grouping": [0, 1, 0, 1, 2, 2]}, False),
        ({"name": "hierarchical"}, True),
        ({"name": "hierarchical", "tree": "balanced"}, True),
        ({"name": "hierarchical", "tree": [[0, 1], [2, 3], [4, 5]]}, False),
        ({"name": "adaptive"}, True),
    ],
)
def test_counts_are_recorded_where_they_change_anything(options: dict[str, Any], used: bool):
    assert make_partition(options).uses_class_counts is used
    counts = [1, 7, 3, 9, 0, 2]
    if options["name"] in ("dense", "streaming"):
        return
    partition = make_partition(options | {"class_counts": counts})
    assert partition.options()["class_counts"] == (counts if used else None)
    assert make_partition(partition.options()).options() == partition.options()
    wrong = make_partition(options | {"class_counts": counts[:-1]})
    with pytest.raises(ValueError, match="class_counts has 5 entries; 6 are needed"):
        make_head("softmax", embedding_dim=4, num_classes=6, partition=wrong)


@pytest.mark.parametrize(
    ("partition", "refused"),
    [
        (Dense(), {"num_classes": 0}),
        (Sampled(proposal="frequency", class_counts=[1, 2, 3]), {"num_classes": 4}),
        (NCE(noise="frequency", class_counts=[1, 2, 3]), {"num_classes": 4}),
        (Adaptive(min_dim=1), {"num_classes": 50}),
    ],
)
def test_an_instance_that_a_head_was_refused_serves_another(partition: Partition, refused: dict[str, int]):
    with pytest.raises(ValueError, match=r"range|needed|wide"):
        make_head("am-softmax", embedding_dim=4, partition=partition, **refused)
    before = partition.options()
    dim = 4 if refused["num_classes"] < 50 else 40
    head = make_head("am-softmax", embedding_dim=dim, num_classes=3, partition=partition)
    assert bool(head(torch.randn(2, head.embedding_dim), torch.tensor([0, 2])).isfinite())
    assert before.get("cutoffs") is None


def test_an_instance_belongs_to_one_head():
    partition = Dense()
    make_head("softmax", embedding_dim=2, num_classes=3, partition=partition)
    with pytest.raises(ValueError, match="already belongs to a head"):
        make_head("softmax", embedding_dim=2, num_classes=3, partition=partition)


def test_dense_tells_the_log_normaliser_of_margined_scores():
    torch.manual_seed(0)
    head = make_head("am-softmax", embedding_dim=3, num_classes=4, temperature=2.0)
    y = torch.arange(5) % 4
    features = head.features(torch.randn(5, 3))
    sums = head.partition.losses(head, features, y)
    target = head.target_scores(features, head.weight[y]) / 2
    torch.testing.assert_close(sums.log_normaliser, (sums.nll + target).detach())
    margined = (head.logits(features.unit) / 2).scatter(1, y[:, None], target[:, None])
    torch.testing.assert_close(sums.log_normaliser, margined.logsumexp(1).detach())
    assert sums.over_classes is None


@pytest.mark.parametrize("name", ["sampled", "nce"])
def test_sparse_gradients_of_half_precision_stay_sparse(name):
    head = make_head("softmax", embedding_dim=3, num_classes=50, partition={"name": name, "samples": 4}).half()
    head(torch.randn(6, 3).half(), torch.full((6,), 7)).backward()
    for parameter in (head.weight, head.bias):
        assert parameter.grad.is_sparse
        assert parameter.grad.dtype == torch.float16
        assert parameter.grad.coalesce().indices()[0].tolist() == head.partition.active_rows.tolist()


def test_the_gradient_of_a_half_precision_offset_saturates():
    head = make_head("am-softmax", embedding_dim=3, num_classes=5, partition=Dense(self_normalize=100.0)).half()
    (1024 * head(torch.randn(6, 3).half(), torch.arange(6) % 5)).backward()
    assert abs(head.partition.log_z.grad.item()) == torch.finfo(torch.float16).max
