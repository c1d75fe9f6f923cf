"""Proposals: draws follow the stated probabilities, which sum to 1, at any number of classes."""

import itertools
import math

import pytest
import torch
from scipy.stats import chi2

from facemargin.partitions.proposals import PROPOSALS, Frequency, Proposal, Uniform, distinct_others, make_proposal

COUNTS = [40, 3, 0, 1, 12, 7, 100, 5, 5, 20]
C = len(COUNTS)


def every_proposal() -> list[object]:
    return [pytest.param(Uniform(C), id="uniform")] + [
        pytest.param(Frequency(C, counts, power), id=f"{'counts' if counts else 'order'}-{power}")
        for counts in (COUNTS, None)
        for power in (0.0, 0.75, 1.0)
    ]


@pytest.mark.parametrize("proposal", every_proposal())
def test_draws_follow_the_stated_probabilities(proposal: Proposal) -> None:
    """Pearson's χ² of 200,000 draws in 10 classes stays below its 99.99 % quantile for 9 degrees of freedom, 33.7."""
    torch.manual_seed(0)
    draws = 200_000
    classes = proposal.sample(draws, torch.device("cpu"))
    assert classes.dtype == torch.int64
    log_q = proposal.log_probability(torch.arange(C))
    assert log_q.dtype == torch.float32
    expected = draws * log_q.double().exp()
    assert float(expected.sum()) == pytest.approx(draws, rel=1e-6)
    found = torch.bincount(classes, minlength=C)
    assert float(((found - expected).square() / expected).sum()) < 33.7


def test_probabilities_are_the_formulas() -> None:
    weights = torch.tensor([max(count, 1) for count in COUNTS], dtype=torch.float64) ** 0.75
    log_q = Frequency(C, COUNTS, 0.75).log_probability(torch.arange(C)).double()
    torch.testing.assert_close(log_q, (weights / weights.sum()).log(), rtol=1e-6, atol=1e-6)
    log_uniform = [math.log(math.log((j + 2) / (j + 1)) / math.log(C + 1)) for j in range(C)]
    assert Frequency(C).log_probability(torch.arange(C)).tolist() == pytest.approx(log_uniform, rel=1e-6)


def test_names_stand_for_powers() -> None:
    classes = torch.arange(C)
    for name, given, power in [
        ("frequency", None, 1.0),
        ("frequency", 0.5, 0.5),
        ("frequency-power", None, 0.75),
        ("frequency-power", 0.3, 0.3),
        ("uniform", 0.3, 0.0),
    ]:
        found = make_proposal(name, C, COUNTS, given).log_probability(classes)
        torch.testing.assert_close(found, Frequency(C, COUNTS, power).log_probability(classes))


class _AlwaysZero(Proposal):
    def sample(self, count: int, device: torch.device | str) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.int64, device=device)

    def log_probability(self, classes: torch.Tensor) -> torch.Tensor:
        return torch.zeros(classes.shape)


@pytest.mark.parametrize("proposal", every_proposal())
def test_a_part_is_the_whole_given_the_part(proposal: Proposal) -> None:
    for first, last in [(0, C), (0, 4), (4, 9), (9, C)]:
        part = proposal.within(first, last)
        whole = proposal.log_probability(torch.arange(first, last)).double()
        assert part.num_classes == last - first
        found = part.log_probability(torch.arange(last - first)).double()
        torch.testing.assert_close(found, whole - whole.logsumexp(0), rtol=1e-6, atol=1e-6)
        assert int(part.sample(100, "cpu").max()) < last - first
    with pytest.raises(ValueError, match="_AlwaysZero cannot be cut into shards"):
        _AlwaysZero(C).within(0, 4)


def test_log_probability_keeps_the_shape() -> None:
    classes = torch.tensor([[0, 9], [3, 3]])
    for name in PROPOSALS:
        assert make_proposal(name, C).log_probability(classes).shape == (2, 2)
        assert make_proposal(name, C).log_probability(classes[:0]).shape == (0, 2)
        assert make_proposal(name, C).sample(0, "cpu").shape == (0,)


@pytest.mark.parametrize("name", PROPOSALS)
def test_the_global_generator_decides(name: str) -> None:
    proposal = make_proposal(name, 1000)
    torch.manual_seed(3)
    first, second = proposal.sample(50, "cpu"), proposal.sample(50, "cpu")
    torch.manual_seed(3)
    assert torch.equal(proposal.sample(50, "cpu"), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", PROPOSALS)
def test_one_class_is_certain(name: str) -> None:
    proposal = make_proposal(name, 1)
    assert proposal.sample(3, "cpu").tolist() == [0, 0, 0]
    assert proposal.log_probability(torch.zeros(1, dtype=torch.int64)).item() == pytest.approx(0, abs=1e-7)


def test_more_classes_than_multinomial_takes() -> None:
    """2^24 + 1,000: the log-uniform law closes to 1, and its rarest class has a probability of its own."""
    classes = 2**24 + 1000
    proposal = Frequency(classes)
    last = torch.tensor([classes - 1])
    expected = math.log(math.log1p(1 / classes) / math.log(classes + 1))
    assert proposal.log_probability(last).item() == pytest.approx(expected, rel=1e-6)
    torch.manual_seed(1)
    share = float((proposal.sample(20_000, "cpu") >= classes // 2).double().mean())
    exact = 1 - math.log(classes // 2 + 1) / math.log(classes + 1)
    assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / 20_000)


@pytest.mark.parametrize(("size", "count"), [(6, 3), (12, 2)], ids=["permuted", "drawn again"])
def test_without_replacement_every_set_is_as_likely(size: int, count: int) -> None:
    """χ² over all sets of ``count`` of the classes that the batch {1, 4} leaves, below its 99.99 % quantile."""
    batch = torch.tensor([1, 4])
    left = [j for j in range(size) if j not in (1, 4)]
    torch.manual_seed(0)
    found = dict.fromkeys(itertools.combinations(left, count), 0)
    draws = 100 * len(found)
    for _ in range(draws):
        found[tuple(sorted(distinct_others(batch, size, count).tolist()))] += 1
    statistic = sum((times - 100) ** 2 / 100 for times in found.values())
    assert statistic < chi2.isf(1e-4, len(found) - 1)


def test_without_replacement_from_very_many_classes() -> None:
    """Of 10^12 classes: nothing is proportional to their number."""
    batch = torch.tensor([0, 5, 10**12 - 1])
    others = distinct_others(batch, 10**12, 50_000)
    assert len(others.unique()) == 50_000
    assert not bool(torch.isin(others, batch).any())
    assert int(others.min()) > 0
    assert int(others.max()) < 10**12 - 1
    assert abs(float(others.double().mean()) / 5e11 - 1) < 4 / math.sqrt(3 * 50_000)


def test_no_more_than_there_are_without_replacement() -> None:
    assert distinct_others(torch.arange(3), 3, 5).tolist() == []
    assert sorted(distinct_others(torch.tensor([], dtype=torch.int64), 3, 5).tolist()) == [0, 1, 2]


def test_counts_may_be_a_tensor_and_are_not_changed() -> None:
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    twin = Frequency(C, COUNTS, 0.5).log_probability(torch.arange(C))
    assert torch.equal(Frequency(C, counts, 0.5).log_probability(torch.arange(C)), twin)
    assert counts.tolist() == COUNTS


def test_wrong_values_are_named() -> None:
    with pytest.raises(ValueError, match="num_classes=0 is out of range: it must be ≥ 1"):
        Uniform(0)
    for power in (-0.1, 1.1, math.nan, "1"):
        with pytest.raises(ValueError, match=r"power=.* is out of range: it must lie in \[0, 1\]"):
            Frequency(3, power=power)
    with pytest.raises(ValueError, match="class_counts has 2 entries; 3 are needed, one a class"):
        Frequency(3, [1, 2])
    for wrong in (-1, 0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"class_counts\[1\]=.* is out of range: a count is an integer ≥ 0"):
            Frequency(2, torch.tensor([1.0, wrong]))
    with pytest.raises(ValueError, match=r"proposal='zipf' is unknown; known proposals: uniform, frequency"):
        make_proposal("zipf", 3)
