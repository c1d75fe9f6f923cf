"""What partitions with one row a class share: precise losses from sums, the offset's start, prediction by blocks."""

import math

import pytest
import torch

from facemargin.heads import BatchLosses, make_head
from facemargin.partitions import ClassSums, Dense
from facemargin.partitions.flat import best_class, new_log_z


@pytest.mark.parametrize("gap", [-20.0, 0.0, 1e-3, 1.0, 8.0, 20.0])
def test_losses_from_sums_keep_their_digits_at_scores_near_64(gap):
    """The label's score lies ``gap`` above 999 others, so the loss is log(1 + 999 e^−gap).

    log Z − f_y of two float32 numbers near 64 is a multiple of 2^−17 = 7.6e-6; the loss at a gap of 20 is 2.1e-6.
    """
    scores = torch.full((1, 1000), 64.0 - gap)
    scores[0, 0] = 64.0
    maximum = scores.amax(1)
    log_sum = (scores - maximum[:, None]).double().exp().sum(1).log().float()
    head = make_head("am-softmax", embedding_dim=2, num_classes=1000)
    found = Dense().losses_from(head, ClassSums(maximum, log_sum, scores[:, 0])).nll.item()
    exact = (scores.double().logsumexp(1) - 64).item()
    assert found == pytest.approx(exact, rel=2e-7)
    if gap == 20.0:
        assert (maximum + log_sum - 64).item() == 0


def test_a_shift_beside_the_largest_score_changes_nothing():
    torch.manual_seed(0)
    scores = 3 * torch.randn(5, 7, dtype=torch.float64)
    head = make_head("am-softmax", embedding_dim=2, num_classes=7, label_smoothing=0.1, class_weights=range(7))
    weights = torch.arange(7.0, dtype=torch.float64)
    expected = scores.logsumexp(1)
    for shift in (0.0, -2.5, 4.0):
        maximum = scores.amax(1) + shift
        sums = ClassSums(maximum, expected - maximum, scores[:, 2], scores @ weights)
        losses = Dense().losses_from(head, sums)
        torch.testing.assert_close(losses.nll, expected - scores[:, 2])
        torch.testing.assert_close(losses.log_normaliser, expected)
        torch.testing.assert_close(losses.over_classes, ((expected[:, None] - scores) * weights).sum(1))


@pytest.mark.parametrize(
    ("name", "options", "start"),
    [
        ("am-softmax", {"scale": 4.0}, math.log(50) + 16 / 128),
        ("am-softmax", {"scale": 4.0, "temperature": 2.0}, math.log(50) + 4 / 128),
        ("normface", {"scale": 4.0}, math.log(50) + 16 / 128),
        ("modified", {}, math.log(50)),
        ("l-softmax", {}, math.log(50)),
        ("a-softmax", {}, math.log(50)),
    ],
)
def test_the_offset_starts_at_log_c_plus_half_the_variance_of_the_scores(name, options, start):
    head = make_head(name, embedding_dim=64, num_classes=50, **options)
    assert new_log_z(head).item() == pytest.approx(start, abs=1e-2)


def test_the_start_of_the_offset_is_the_mean_log_normaliser_of_random_rows():
    torch.manual_seed(0)
    head = make_head("am-softmax", embedding_dim=128, num_classes=5000, scale=16.0, margin=0.0)
    log_z = head.logits(torch.randn(50, 128)).logsumexp(1)
    assert new_log_z(head).item() == pytest.approx(float(log_z.mean().detach()), abs=0.02)


@pytest.mark.parametrize("block", [1, 3, 10, 100])
@pytest.mark.parametrize("name", ["softmax", "am-softmax"])
def test_the_best_class_by_blocks_is_the_first_of_the_largest_logits(block, name):
    torch.manual_seed(0)
    head = make_head(name, embedding_dim=4, num_classes=10).double()
    with torch.no_grad():
        head.weight[7] = head.weight[2]  # a tie wherever either wins
        if head.bias is not None:
            head.bias.normal_()
            head.bias[7] = head.bias[2]
    features = head.features(torch.randn(200, 4, dtype=torch.float64))
    scores, place = best_class(head, features, head.weight, head.bias, block=block)
    logits = head.partition.logits(head, features)
    torch.testing.assert_close(scores, logits.amax(1))
    assert torch.equal(place, logits.argmax(1))
    assert 2 in place
    assert 7 not in place


def test_no_classes_have_no_best_one():
    head = make_head("am-softmax", embedding_dim=4, num_classes=3)
    scores, place = best_class(head, head.features(torch.randn(2, 4)), head.weight[:0], None)
    assert scores.tolist() == [-math.inf] * 2
    assert place.tolist() == [0, 0]


def test_saturation_is_the_shares_of_counted_samples_with_probability_0_and_1_in_float32():
    smallest = -math.log(2.0**-149)  # 103.28: e^−x rounds to 0 from half of that probability on
    nll = torch.tensor([0.0, 1e-9, 1e-6, 1.0, 100.0, smallest - 0.1, smallest + 1.0, 500.0, 0.0, 500.0])
    counted = torch.tensor([True] * 8 + [False] * 2)
    none, one = BatchLosses(nll.mean(), nll, counted).saturation()
    assert none == pytest.approx(2 / 8)
    assert one == pytest.approx(2 / 8)


def test_saturation_of_float64_losses_is_that_of_float32_and_of_nothing_is_zero():
    nll = torch.tensor([1e-9, 200.0, 0.5, 0.5], dtype=torch.float64)
    assert BatchLosses(nll.sum(), nll, torch.ones(4, dtype=torch.bool)).saturation() == (0.25, 0.25)
    assert BatchLosses(nll.sum(), nll, torch.zeros(4, dtype=torch.bool)).saturation() == (0.0, 0.0)


def test_saturation_of_a_head_tells_confident_mistakes_from_finished_samples():
    head = make_head("softmax", embedding_dim=2, num_classes=2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    x = torch.tensor([[100.0, 0.0], [100.0, 0.0], [0.1, 0.0], [100.0, 0.0]])
    losses = head.batch_losses(x, torch.tensor([0, 1, 0, -100]))
    assert losses.saturation() == (pytest.approx(1 / 3), pytest.approx(1 / 3))
