"""What each approximation of a sum over many classes gives up: exact ones, sampled, factorised. In docs/theory.md."""

import heapq
import math
from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


SCORES = 1.5 * random(7)
LABEL = 0  # class 0 is the label in every example; the others are negatives
EXACT_LOG_Z = torch.logsumexp(SCORES, 0)


def test_log_sum_exp_over_blocks_merges_to_the_whole_in_any_order_and_of_any_sizes():
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        parts = [(block.max(), (block - block.max()).exp().sum()) for block in SCORES.split([3, 3, 1])]
        top, total = parts[order[0]]
        for i in order[1:]:
            high = torch.maximum(top, parts[i][0])
            total = total * (top - high).exp() + parts[i][1] * (parts[i][0] - high).exp()
            top = high
        torch.testing.assert_close(top + total.log(), EXACT_LOG_Z, rtol=1e-14, atol=0)


def test_a_block_needs_only_the_common_log_z_for_its_part_of_the_gradient():
    whole = torch.softmax(SCORES, 0)
    parts = [(block - EXACT_LOG_Z).exp() for block in SCORES.split([3, 3, 1])]
    torch.testing.assert_close(torch.cat(parts), whole)


def estimates(k: int, *, corrected: bool = True) -> tuple[Tensor, Tensor]:
    """All subsets of k of the 6 negatives, equally likely: Ẑ and the estimate of p, (subsets,) and (subsets, 7)."""
    subsets = list(combinations(range(1, 7), k))
    kept = torch.zeros(len(subsets), 7, dtype=torch.float64)
    kept[:, LABEL] = 1
    for row, subset in zip(kept, subsets, strict=True):
        row[list(subset)] = 6 / k if corrected else 1.0
    terms = kept * SCORES.exp()
    return terms.sum(1), terms / terms.sum(1, keepdim=True)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_corrected_estimate_of_z_is_unbiased_and_its_log_too_low(k):
    z_hat, _ = estimates(k)
    torch.testing.assert_close(z_hat.mean().log(), EXACT_LOG_Z)
    assert float(z_hat.log().mean()) < float(EXACT_LOG_Z) - 1e-3


def test_the_sampled_gradient_is_biased_less_with_more_samples_and_exact_with_all():
    p = torch.softmax(SCORES, 0)
    biases = [float((estimates(k)[1].mean(0) - p).abs().max()) for k in range(1, 7)]
    assert all(more < fewer for fewer, more in pairwise(biases))
    assert biases[0] > 0.05
    assert biases[-1] < 1e-15


def test_the_sampled_gradient_pulls_the_label_too_weakly():
    """1/Ẑ is convex in Ẑ, so E[p̂_y] > p_y and p̂_y − 1 is nearer to 0 than it should be."""
    for k in range(1, 6):
        assert float(estimates(k)[1][:, LABEL].mean()) > float(torch.softmax(SCORES, 0)[LABEL])


def with_replacement(k: int, q: float) -> tuple[float, float]:
    """Two negatives, k draws from (q, 1 − q), each term over kq_j: the biases of log Ẑ and of p̂ of the label."""
    first, second, label = 3.0, 1.0, 2.0
    exact, log_bias, p_bias = first + second + label, 0.0, 0.0
    for hits in range(k + 1):
        weight = math.comb(k, hits) * q**hits * (1 - q) ** (k - hits)
        z_hat = label + first * hits / (k * q) + second * (k - hits) / (k * (1 - q))
        log_bias += weight * math.log(z_hat / exact)
        p_bias += weight * label / z_hat - weight * label / exact
    return log_bias, p_bias


@pytest.mark.parametrize("k", [16, 64, 256])
def test_both_biases_halve_as_the_samples_double(k):
    for few, many in zip(with_replacement(k, 0.4), with_replacement(2 * k, 0.4), strict=True):
        assert few / many == pytest.approx(2, rel=2 / k)


def test_a_proposal_in_proportion_to_exp_of_the_score_has_no_bias_even_with_one_sample():
    assert with_replacement(1, 0.75) == pytest.approx((0, 0), abs=1e-15)
    assert with_replacement(1, 0.5)[0] < -0.01


def test_uniform_sampling_without_correction_is_a_smaller_margin():
    s, m, k = 30.0, 0.35, 2
    cosines, negatives = torch.tanh(SCORES), [3, 5]
    correction = math.log(6 / k)
    target = s * (cosines[LABEL] - m)

    def loss(label_score: Tensor, others: Tensor) -> Tensor:
        return torch.logsumexp(torch.cat([label_score[None], others]), 0) - label_score

    corrected = loss(target, s * cosines[negatives] + correction)
    torch.testing.assert_close(loss(s * (cosines[LABEL] - m - correction / s), s * cosines[negatives]), corrected)


def two_level(x: Tensor, rows: Tensor, groups: Tensor, group_scores: Tensor) -> Tensor:
    """P(group) · P(class given group) for one x."""
    p_group, e = torch.softmax(group_scores, 0), (rows @ x).exp()
    sums = torch.zeros(len(group_scores), dtype=e.dtype).index_add(0, groups, e)
    return p_group[groups] * e / sums[groups]


def by_mean_rows(x: Tensor, rows: Tensor, groups: Tensor) -> Tensor:
    means = torch.stack([rows[groups == g].mean(0) for g in range(int(groups.max()) + 1)])
    return two_level(x, rows, groups, means @ x)


def test_two_levels_sum_to_one_and_depend_on_the_grouping():
    rows = torch.tensor([[3.0, 0], [0, 3], [-3, 0], [0, -3]], dtype=torch.float64)
    x = torch.tensor([1.0, 0.0], dtype=torch.float64)
    neighbours = by_mean_rows(x, rows, torch.tensor([0, 0, 1, 1]))
    opposites = by_mean_rows(x, rows, torch.tensor([0, 1, 0, 1]))
    assert float(neighbours.sum()) == pytest.approx(1)
    assert float(opposites.sum()) == pytest.approx(1)
    assert float(neighbours[0]) > 0.9
    assert float(opposites[0]) < 0.5


def test_two_levels_are_the_flat_softmax_only_if_a_group_scores_the_log_sum_exp_of_its_classes():
    rows, x, groups = random(6, 4), random(4), torch.tensor([0, 1, 0, 1, 2, 1])
    z = rows @ x
    group_scores = torch.stack([torch.logsumexp(z[groups == g], 0) for g in range(3)])
    torch.testing.assert_close(two_level(x, rows, groups, group_scores), torch.softmax(z, 0))
    assert float((by_mean_rows(x, rows, groups) - torch.softmax(z, 0)).abs().max()) > 0.05


def test_two_levels_cost_least_with_about_the_root_of_c_groups():
    c = 10_000
    costs = {groups: groups + c / groups for groups in range(1, c)}
    assert min(costs, key=costs.__getitem__) == 100
    assert costs[100] == 200


def depths(counts: list[int]) -> list[int]:
    """Huffman: merge the two rarest until one tree is left; each merge puts its leaves one deeper."""
    depth = [0] * len(counts)
    heap = [(count, [i]) for i, count in enumerate(counts)]
    heapq.heapify(heap)
    while len(heap) > 1:
        (a, left), (b, right) = heapq.heappop(heap), heapq.heappop(heap)
        for i in left + right:
            depth[i] += 1
        heapq.heappush(heap, (a + b, left + right))
    return depth


def test_a_huffman_tree_needs_log2_c_decisions_for_equal_counts():
    assert depths([5] * 64) == [6] * 64


def test_a_huffman_tree_needs_between_the_entropy_and_one_more_decision_a_sample_and_may_be_deep_for_rare_classes():
    counts = [2**i for i in range(12)]
    p = [count / sum(counts) for count in counts]
    entropy = -sum(q * math.log2(q) for q in p)
    depth = depths(counts)
    assert entropy <= sum(q * d for q, d in zip(p, depth, strict=True)) < entropy + 1
    assert max(depth) == 11  # C − 1 for the rarest, where a balanced tree has 4


def leaves(left: float, under_left: float, under_right: float) -> Tensor:
    right = 1 - left
    return torch.tensor(
        [left * under_left, left * (1 - under_left), right * under_right, right * (1 - under_right)],
        dtype=torch.float64,
    )


def test_a_binary_tree_sums_to_one_and_its_likeliest_branches_may_miss_the_likeliest_class():
    p = leaves(0.55, 0.5, 0.95)
    assert float(p.sum()) == pytest.approx(1)
    assert int(p.argmax()) == 2  # under the branch of 0.45


def test_adaptive_softmax_sums_to_one_and_its_tail_scores_have_the_rank_of_their_width():
    adaptive = torch.nn.AdaptiveLogSoftmaxWithLoss(16, 30, cutoffs=[4, 10], div_value=4.0).double()
    x = random(50, 16)
    with torch.no_grad():
        p = adaptive.log_prob(x).exp()
        ranks = [int(torch.linalg.matrix_rank(cluster(x))) for cluster in adaptive.tail]
    torch.testing.assert_close(p.sum(1), torch.ones(50, dtype=torch.float64))
    assert ranks == [16 // 4, 16 // 4**2]
