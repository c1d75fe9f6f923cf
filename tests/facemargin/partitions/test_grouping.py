"""Groups of classes: balanced, whole, and refused where they are wrong."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facemargin.partitions.grouping import (
    by_frequency,
    given_groups,
    groups_by_similarity,
    groups_of_equal_mass,
    groups_of_equal_size,
)

counts_and_groups = st.lists(st.integers(0, 1000), min_size=1, max_size=60).flatmap(
    lambda counts: st.tuples(st.just(counts), st.integers(1, len(counts)))
)


def assert_in_falling_order(groups: torch.Tensor, counts: list[int]) -> None:
    """No class of a group is more frequent than one of the group before."""
    bins = [[counts[c] for c in (groups == g).nonzero().flatten().tolist()] for g in groups.unique().tolist()]
    assert all(min(before) >= max(after) for before, after in itertools.pairwise(bins))


@given(counts_and_groups)
@settings(max_examples=60, deadline=None)
def test_groups_of_equal_size_differ_by_one_class_at_most(case):
    counts, num_groups = case
    groups = groups_of_equal_size(counts, num_groups)
    sizes = groups.bincount(minlength=num_groups)
    assert len(sizes) == num_groups
    assert int(sizes.max() - sizes.min()) <= 1
    assert_in_falling_order(groups, counts)


@given(counts_and_groups)
@settings(max_examples=60, deadline=None)
def test_groups_of_equal_mass_exceed_their_share_by_one_class_at_most(case):
    counts, num_groups = case
    groups = groups_of_equal_mass(counts, num_groups)
    sizes = groups.bincount()
    assert len(sizes) <= num_groups
    assert int(sizes.min()) >= 1
    shares = torch.tensor(counts, dtype=torch.float64).clamp_min(1)
    shares = shares / shares.sum()
    mass = torch.zeros(len(sizes), dtype=torch.float64).index_add(0, groups, shares)
    assert float(mass.max()) <= 1 / num_groups + float(shares.max()) + 1e-12
    assert_in_falling_order(groups, [max(count, 1) for count in counts])


def test_equal_counts_give_equal_bins():
    assert groups_of_equal_mass([3] * 12, 4).bincount().tolist() == [3, 3, 3, 3]


@given(st.integers(1, 40), st.data())
@settings(max_examples=40, deadline=None)
def test_groups_by_similarity_have_the_same_size(count, data):
    num_groups = data.draw(st.integers(1, count))
    vectors = torch.randn(count, 3, generator=torch.Generator().manual_seed(count))
    sizes = groups_by_similarity(vectors, num_groups).bincount(minlength=num_groups)
    assert len(sizes) == num_groups
    assert int(sizes.max() - sizes.min()) <= 1


def test_groups_by_similarity_find_separated_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator), dim=1)
    truth = torch.randperm(80, generator=generator) % 8
    vectors = centres[truth] + 0.02 * torch.randn(80, 16, generator=generator)
    lengths = 0.1 + 5 * torch.rand(80, 1, generator=generator)
    groups = groups_by_similarity(vectors * lengths, 8)
    same = groups[:, None] == groups[None]
    assert torch.equal(same, truth[:, None] == truth[None])


def test_identical_vectors_are_still_divided_evenly():
    assert groups_by_similarity(torch.ones(10, 3), 5).bincount().tolist() == [2] * 5
    assert groups_by_similarity(torch.zeros(4, 3), 2).bincount().tolist() == [2, 2]


def test_groups_by_similarity_leave_the_vectors_alone_and_take_any_length_and_dtype():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(60, 40, generator=generator), dim=1)
    before = vectors.clone()
    groups = groups_by_similarity(vectors, 5)
    assert torch.equal(vectors, before)
    for scale in (1e-9, 1e100):
        assert torch.equal(groups_by_similarity(vectors.double() * scale, 5), groups)
    assert int(groups_by_similarity(vectors.half(), 5).max()) == 4


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_groups_by_similarity_are_those_of_bisecting_in_float64(offset):
    vectors = torch.randn(301, 6, generator=torch.Generator().manual_seed(2)) + offset
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    expected = torch.empty(301, dtype=torch.int64)

    def bisect(members: torch.Tensor, first: int, count: int) -> None:
        if count == 1:
            expected[members] = first
            return
        size = (first + count // 2) * 301 // 7 - first * 301 // 7
        part = unit[members] - unit[members].mean(0)
        axis = part[part.norm(dim=1).argmax()]
        for _ in range(10):
            order = (part @ axis).argsort(descending=True)
            axis = part[order[:size]].mean(0) - part[order[size:]].mean(0)
        bisect(members[order[:size]], first, count // 2)
        bisect(members[order[size:]], first + count // 2, count - count // 2)

    bisect(torch.arange(301), 0, 7)
    same = float((groups_by_similarity(vectors, 7) == expected).double().mean())
    assert same > 0.97


@pytest.mark.parametrize(
    ("vectors", "num_groups", "message"),
    [
        (torch.ones(4), 2, r"class_vectors of shape \(4,\)"),
        (torch.ones(4, 2, dtype=torch.int64), 2, "floating"),
        (torch.tensor([[1.0], [torch.nan]]), 1, "finite"),
        (torch.ones(4, 2), 5, r"num_groups=5 is out of range: .*\[1, 4\]"),
        (torch.ones(4, 2), 0, "num_groups=0"),
    ],
)
def test_wrong_vectors_are_named(vectors, num_groups, message):
    with pytest.raises(ValueError, match=message):
        groups_by_similarity(vectors, num_groups)


def test_given_groups_are_renumbered():
    assert given_groups([10, -2, 10, 5], 4).tolist() == [2, 0, 2, 1]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([0, 1], r"grouping has 2 entries; 3 are needed"),
        ([0, 1, 0.5], r"grouping\[2\]=0\.5"),
        ([0, "a", 1], "'a'"),
    ],
)
def test_wrong_groups_are_named(groups, message):
    with pytest.raises(ValueError, match=message):
        given_groups(groups, 3)


def test_equal_frequencies_stay_in_the_order_of_labels():
    assert by_frequency([2, 7, 2, 7]).tolist() == [1, 3, 0, 2]
