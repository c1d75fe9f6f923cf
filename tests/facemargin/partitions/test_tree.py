"""Huffman's trees against a heap, balanced ones, and trees as given."""

import heapq
import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facemargin.partitions.tree import Tree, balanced, huffman, plain_nested, plant

weights = st.lists(st.integers(0, 60), min_size=1, max_size=40)
arities = st.integers(2, 6)


def depths(nested: object, depth: int = 0) -> dict[int, int]:
    if isinstance(nested, int):
        return {nested: depth}
    found: dict[int, int] = {}
    for branch in nested:
        found |= depths(branch, depth + 1)
    return found


def widths(nested: object) -> list[int]:
    return [] if isinstance(nested, int) else [len(nested), *itertools.chain(*map(widths, nested))]


def least_cost(frequencies: list[int], arity: int) -> int:
    """Σ frequency × depth of an optimal tree: what a heap pays for its joins, with nothings added to fill them."""
    heap = [*frequencies, *[0] * (-(len(frequencies) - 1) % (arity - 1))]
    heapq.heapify(heap)
    cost = 0
    while len(heap) > 1:
        joined = sum(heapq.heappop(heap) for _ in range(arity))
        cost += joined
        heapq.heappush(heap, joined)
    return cost


@given(weights, arities)
@settings(max_examples=100, deadline=None)
def test_huffman_has_the_least_expected_depth(frequencies, arity):
    found = depths(huffman(frequencies, arity))
    assert sorted(found) == list(range(len(frequencies)))
    assert sum(frequencies[c] * depth for c, depth in found.items()) == least_cost(frequencies, arity)


@given(weights)
@settings(max_examples=50, deadline=None)
def test_huffman_is_full_and_never_puts_the_more_frequent_deeper(frequencies):
    found = depths(huffman(frequencies))
    assert sum(Fraction(1, 2**depth) for depth in found.values()) == 1
    for a, b in itertools.combinations(range(len(frequencies)), 2):
        if frequencies[a] != frequencies[b]:
            more, less = (a, b) if frequencies[a] > frequencies[b] else (b, a)
            assert found[more] <= found[less]


@given(weights, arities)
@settings(max_examples=50, deadline=None)
def test_only_one_node_of_huffmans_has_missing_branches(frequencies, arity):
    found = widths(huffman(frequencies, arity))
    assert all(2 <= width <= arity for width in found)
    assert sum(width < arity for width in found) <= 1


def test_huffmans_expected_depth_lies_within_one_of_the_entropy():
    frequencies = [1000 // (j + 1) for j in range(200)]
    total = sum(frequencies)
    found = depths(huffman(frequencies))
    mean = sum(frequencies[c] * depth for c, depth in found.items()) / total
    entropy = -sum(f / total * math.log2(f / total) for f in frequencies)
    assert entropy <= mean < entropy + 1


def test_classes_without_samples_do_not_make_a_chain():
    assert max(depths(huffman([10, 10] + [0] * 64)).values()) <= 9


@given(st.integers(1, 200), arities)
@settings(max_examples=50, deadline=None)
def test_a_balanced_tree_is_as_shallow_as_can_be(count, arity):
    nested = balanced(range(count), arity)
    found = depths(nested)
    assert list(found) == list(range(count))
    assert all(2 <= width <= arity for width in widths(nested))
    least = next(depth for depth in itertools.count() if arity**depth >= count)
    assert max(found.values()) == least


def walk(tree: Tree, cls: int) -> list[tuple[int, int]]:
    place, path = int(tree.leaf[cls]), []
    while tree.parent[place] >= 0:
        path.append((int(tree.parent[place]), int(tree.branch[place])))
        place = path[-1][0]
    return path


@given(weights, arities)
@settings(max_examples=30, deadline=None)
def test_a_planted_tree_keeps_every_path(frequencies, arity):
    nested = huffman(frequencies, arity)
    tree = plant(nested, len(frequencies))
    nodes, branches = tree.paths(torch.arange(len(frequencies)))
    expected = depths(nested)
    for cls, (row, taken) in enumerate(zip(nodes.tolist(), branches.tolist(), strict=True)):
        path = walk(tree, cls)
        padding = len(row) - len(path)
        assert row == [node for node, _ in path] + [-1] * padding
        assert taken == [branch for _, branch in path] + [0] * padding
        here = nested
        for _, branch in reversed(path):
            here = here[branch]
        assert here == cls
        assert len(path) == expected[cls]
    assert sum(tree.level_sizes) == len(tree.parent)
    children = tree.parent[1:].bincount(minlength=len(tree.parent))
    assert torch.equal(children, tree.arity)


def test_nodes_are_numbered_from_the_root_down():
    tree = plant([[0, 3], [[1], [2, 4]], 5], 6)
    assert tree.parent.tolist() == [-1, 0, 0, 0, 1, 1, 2, 2, 7, 7]
    assert tree.branch.tolist() == [0, 0, 1, 2, 0, 1, 0, 1, 0, 1]
    assert tree.arity.tolist() == [3, 2, 2, 0, 0, 0, 0, 2, 0, 0]
    assert tree.leaf.tolist() == [4, 6, 8, 5, 9, 3]
    assert tree.level_sizes == [1, 3, 4, 2]


@pytest.mark.parametrize("nested", [0, [0], [[[0]]]])
def test_one_class_is_a_root_without_a_choice(nested):
    tree = plant(nested, 1)
    assert tree.level_sizes == [1]
    assert tree.paths(torch.tensor([0, 0]))[0].shape == (2, 0)


@pytest.mark.parametrize(
    ("nested", "message"),
    [
        ([[0, 1], 3], r"class 2 is missing; each of the 4"),
        ([[0, 1], [2, 3], 1], "class 1 is there twice"),
        ([[0, 1], [2, 4]], r"leaf 4 is out of range: leaves are classes in \[0, 3\]"),
        ([[0, 1], [2, -1]], "leaf -1 is out of range"),
        ([[0, 1], [2, "3"]], "leaf '3' is out of range"),
        ([[0, 1], [2, 3.0]], r"leaf 3\.0 is out of range"),
        ([[0, True], [2, 3]], "leaf True is out of range"),
        ([[0, 1], [2, 3], []], "a node without branches"),
        ([], "a node without branches"),
    ],
)
def test_wrong_trees_are_named(nested, message):
    with pytest.raises(ValueError, match=message):
        plant(nested, 4)


def test_a_long_chain_needs_no_recursion():
    nested: object = 0
    for cls in range(1, 5000):
        nested = (cls, nested)
    tree = plant(plain_nested(nested), 5000)
    assert len(tree.level_sizes) == 5000
    assert len(walk(tree, 0)) == 4999
