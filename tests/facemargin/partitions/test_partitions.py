"""The registry, and what belongs to a partition alone."""

import pytest
import torch

from facemargin.heads import make_head
from facemargin.partitions import PARTITIONS, Dense, make_partition


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
