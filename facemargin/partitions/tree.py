"""Trees over classes: Huffman's, balanced ones, and those given as nested lists; and how to walk them in tensors."""

import itertools
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .option_values import is_integer

Nested = int | Sequence["Nested"]
"""A class, or a node: the sequence of its branches."""


class Tree(NamedTuple):
    """A tree whose leaves are the classes, as tensors over its N nodes and leaves.

    They are numbered from the root down, level by level, the branches of a node side by side. A node with one branch is
    no choice and is left out: its branch takes its place.

    Attributes:
        parent: (N,) int64, −1 for the root.
        branch: (N,) int64, which branch of its parent a node is, from 0.
        arity: (N,) int64, number of branches, ≥ 2; 0 for leaves.
        leaf: (C,) int64, the place of each class.
        level_sizes: how many of the N are at depth 0, 1, …; one class alone is a root that is a leaf.
    """

    parent: Tensor
    branch: Tensor
    arity: Tensor
    leaf: Tensor
    level_sizes: list[int]

    def paths(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The way up from classes to the root.

        Args:
            classes: (M,) int64.

        Returns:
            (M, depth) int64 nodes, −1 past the root, and (M, depth) int64 branches taken at them, 0 past the root. The
            depth is that of the whole tree.
        """
        return walk_up(self.parent, self.branch, self.leaf[classes], len(self.level_sizes) - 1)


def walk_up(parent: Tensor, branch: Tensor, start: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Nodes and branches on the way to the root; see `Tree.paths`.

    Parents are followed one level at a time: O(C) memory, where tables of whole paths would take O(C·depth).
    """
    nodes = start.new_full((len(start), depth), -1)
    branches = torch.zeros_like(nodes)
    current = start
    for level in range(depth):
        nodes[:, level], branches[:, level] = parent[current], branch[current]
        current = nodes[:, level].clamp_min(0)
    return nodes, branches


def huffman(frequencies: Sequence[float], arity: int = 2) -> Nested:
    """The tree of the smallest expected depth: the rarest subtrees are joined first.

    Two queues instead of a heap: joined subtrees come out in rising order of weight. Of equal weights a class goes
    before a subtree, which keeps the tree shallow (many classes without samples make a balanced subtree). The first
    join is smaller, so that all others are full.

    Args:
        frequencies: C weights ≥ 0.
        arity: k ≥ 2.

    Returns:
        Nested tuples; the class itself where C = 1.

    Source:
        Huffman, "A Method for the Construction of Minimum-Redundancy Codes", Proc. IRE 1952.

    >>> huffman([5, 1, 1, 2])
    ((3, (1, 2)), 0)
    """
    classes = deque(sorted(range(len(frequencies)), key=frequencies.__getitem__))
    joined: deque[tuple[float, Nested]] = deque()

    def rarest() -> tuple[float, Nested]:
        if classes and (not joined or frequencies[classes[0]] <= joined[0][0]):
            return frequencies[classes[0]], classes.popleft()
        return joined.popleft()

    size = 2 + (len(frequencies) - 2) % (arity - 1)
    while len(classes) + len(joined) > 1:
        weights, branches = zip(*(rarest() for _ in range(size)), strict=True)
        joined.append((sum(weights), branches))
        size = arity
    return rarest()[1]


def balanced(classes: Sequence[int], arity: int) -> Nested:
    """The tree of the smallest depth, ⌈log_k C⌉: the classes in k parts of equal size, and each part again.

    Args:
        classes: in the order of the leaves; neighbours share branches.
        arity: k ≥ 2.

    >>> balanced(range(5), 3)
    [[0, 1], [2, 3], 4]
    """
    count = len(classes)
    if count == 1:
        return classes[0]
    parts = min(arity, count)
    bounds = [-(-part * count // parts) for part in range(parts + 1)]
    return [balanced(classes[start:end], arity) for start, end in itertools.pairwise(bounds)]


def plant(nested: Nested, num_classes: int) -> Tree:
    """A tree in tensors.

    Args:
        nested: classes in nested sequences, of any depth.
        num_classes: C ≥ 1.

    Raises:
        ValueError: not every class is a leaf exactly once, a leaf is no class, or a node has no branch.

    >>> plant([[2, 0], 1], 3).level_sizes
    [1, 2, 2]
    """
    queue: list[Any] = [nested]
    parent, branch, depth, arity = [-1], [0], [0], []
    leaf = [-1] * num_classes
    for index, given in enumerate(queue):  # grows while it is read
        node = _choice(given)
        queue[index] = None
        if not isinstance(node, list | tuple):
            _place(leaf, node, index)
            arity.append(0)
            continue
        arity.append(len(node))
        queue.extend(node)
        parent.extend([index] * len(node))
        branch.extend(range(len(node)))
        depth.extend([depth[index] + 1] * len(node))
    if -1 in leaf:
        raise ValueError(f"tree: class {leaf.index(-1)} is missing; each of the {num_classes} classes is a leaf once")
    levels = Counter(depth)
    sizes = [levels[level] for level in range(len(levels))]
    return Tree(torch.tensor(parent), torch.tensor(branch), torch.tensor(arity), torch.tensor(leaf), sizes)


def plain_nested(given: Any) -> Nested:
    """Nested lists from nested sequences of any kind, say to write them down."""
    root: list[Any] = [given]
    pending = [root]
    while pending:
        node = pending.pop()
        for index, branch in enumerate(node):
            if is_integer(branch):
                node[index] = int(branch)
            elif isinstance(branch, Sequence) and not isinstance(branch, str | bytes):
                node[index] = list(branch)
                pending.append(node[index])
    nested: Nested = root[0]
    return nested


def _choice(node: Any) -> Any:
    """The first node from here down that has more than one branch."""
    while isinstance(node, list | tuple) and len(node) == 1:
        node = node[0]
    if isinstance(node, list | tuple) and not node:
        raise ValueError("tree: a node without branches; a node is a sequence of classes and nodes")
    return node


def _place(leaf: list[int], value: Any, index: int) -> None:
    if not is_integer(value) or not 0 <= value < len(leaf):
        raise ValueError(f"tree: leaf {value!r} is out of range: leaves are classes in [0, {len(leaf) - 1}]")
    if leaf[value] != -1:
        raise ValueError(f"tree: class {value} is there twice; each of the {len(leaf)} classes is a leaf once")
    leaf[value] = index
