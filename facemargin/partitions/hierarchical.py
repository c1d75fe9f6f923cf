"""Hierarchical softmax: a tree over the classes, and a small choice at each node on the way down."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .base import SampleLosses
from .factorised import Factorised, each_feature, select_samples
from .grouping import by_frequency
from .option_values import is_integer
from .tree import Nested, Tree, balanced, huffman, plain_nested, plant, walk_up

if TYPE_CHECKING:
    from facemargin.heads.base import Features, Head


class Hierarchical(Factorised):
    """P(class) = Π over the nodes on its path of P(branch taken); −log P(y) is the sum of the nodes' losses.

    *Two branches*: one row w and bias b, and P(branch) = σ(d·z/T), with d = +1 for the first branch, −1 for the second.
    So the two branches have the rows w and −w, and the margin is that of a target row d·w with bias d·b: P = σ(f/T),
    f = ``head.target_scores`` of them. It makes the branch taken harder on either side: for ``am-softmax``
    f = s(d·cosθ − m); without margin f = d·z.

    *k ≥ 3 branches*: k rows and biases, and a softmax over their scores, the taken one's margined. That is a flat head
    of k classes at each such node.

    What it gives up: classes that share a node must be told from all others by the same few rows, so a tree that joins
    by frequency alone asks for planes between arbitrary sets of people. The margin is asked once a level.

    Cost: a sample takes 2·D operations for each two-way node on its path and 2·D·k for each wider one; expected depth
    with Huffman's tree lies between the entropy of the labels in bits and that plus 1. Rows are gathered:
    M·depth·D numbers, for wider nodes M·depth·k·D with the k of the widest node (for one wide level, use
    ``class-based``). On CUDA it waits for the device. Memory: C − 1 rows for two-way trees, up to C·k/(k − 1) for
    others, a dense gradient, O(C) integers for the tree, and a float32 copy of half-precision rows. ``logits`` go down
    level by level: 2·M·C·D operations, three (M, 2·C) matrices.

    Args:
        tree: ``"huffman"``: smallest expected depth for the frequencies. ``"balanced"``: smallest depth, classes of
            like frequency side by side. Or nested lists with each class in one place, e.g. ``[[0, 3], [1, 2, 4]]``.
        arity: k ≥ 2, the branches of a node; for given trees it must be left at 2, and has no meaning. A shallow tree
            of, say, 16 branches has fewer and larger steps, which suits a GPU.
        class_counts: see `Factorised`.

    Raises:
        ValueError: a value is out of its range.

    Source:
        Morin and Bengio, "Hierarchical Probabilistic Neural Network Language Model", AISTATS 2005; Huffman's tree:
        Mikolov et al., arXiv 1310.4546 §2.1.

    >>> from facemargin.heads import make_head
    >>> head = make_head("am-softmax", embedding_dim=4, num_classes=9, partition="hierarchical")
    >>> head.partition.node_rows.shape
    torch.Size([8, 4])
    >>> torch.allclose(head.logits(torch.randn(2, 4)).exp().sum(1), torch.ones(2))
    True
    """

    name = "hierarchical"

    node_rows: nn.Parameter
    node_biases: nn.Parameter | None
    parent: Tensor
    branch: Tensor
    arity_of: Tensor
    leaf: Tensor
    first_row: Tensor

    def __init__(
        self,
        *,
        tree: str | Sequence[Any] = "huffman",
        arity: int = 2,
        class_counts: Sequence[int] | Tensor | None = None,
    ) -> None:
        super().__init__(class_counts=class_counts)
        if isinstance(tree, str) and tree not in ("huffman", "balanced"):
            raise ValueError(f"tree={tree!r} is unknown; use huffman, balanced, or nested lists of classes")
        if not is_integer(arity) or arity < 2:
            raise ValueError(f"arity={arity!r} is out of range: a node has at least 2 branches")
        if not isinstance(tree, str) and arity != 2:
            raise ValueError(f"arity={arity} has no meaning where tree gives the branches")
        if not isinstance(tree, Sequence):
            raise ValueError(f"tree={tree!r} is unknown; use huffman, balanced, or nested lists of classes")
        self.tree = tree if isinstance(tree, str) else plain_nested(tree)
        self.arity = int(arity)

    def allocate(self, head: "Head") -> None:
        """Rows of the nodes, from the root down; see `Partition.allocate`."""
        tree = self._plant(head.num_classes)
        rows = tree.arity.where(tree.arity != 2, 1)
        ends = rows.cumsum(0)
        tables = {"parent": tree.parent, "branch": tree.branch, "arity_of": tree.arity, "leaf": tree.leaf}
        for name, table in {**tables, "first_row": ends - rows}.items():
            self.register_buffer(name, table, persistent=False)
        self.level_sizes = tree.level_sizes
        self.arities: list[int] = sorted(set(tree.arity.tolist()) - {0})
        self.node_rows = head.new_rows(int(ends[-1]))
        self.register_parameter("node_biases", head.new_biases(int(ends[-1])))
        self.remember(tree.parent, tree.branch, tree.leaf)

    def losses(self, head: "Head", features: "Features", labels: Tensor) -> SampleLosses:
        """Σ over the path of −log P(branch), the margin at each node; see `Partition.losses`."""
        nodes, branches = walk_up(self.parent, self.branch, self.leaf[labels], len(self.level_sizes) - 1)
        arity = self.arity_of[nodes.clamp_min(0)].masked_fill(nodes < 0, 0)
        steps = features.vectors.new_zeros(nodes.shape)
        rows, biases = self._widened(head, features)
        # A kind of node that the tree does not have is left out: its rows' gradient would be a whole matrix of zeros.
        kinds = [(arity == 2, self._two_way)] if self.arities[:1] in ([], [2]) else []
        kinds += [(arity > 2, self._wide)] if self.arities[-1:] > [2] else []
        for mask, nll in kinds:
            sample = mask.nonzero()[:, 0]
            samples = select_samples(features, sample)
            steps = steps.masked_scatter(mask, nll(head, samples, rows, biases, nodes[mask], branches[mask]))
        return SampleLosses(steps.sum(1))

    def logits(self, head: "Head", features: "Features") -> Tensor:
        """(M, C) log P(class) without margin; see `Partition.logits`."""
        parents = torch.split(self.parent, self.level_sizes)
        steps = torch.split(self._branch_log_p(head, features), self.level_sizes, 1)
        levels, above = [steps[0]], 0
        for level in range(1, len(steps)):
            levels.append(steps[level] + levels[-1].index_select(1, parents[level] - above))
            above += self.level_sizes[level - 1]
        return torch.cat(levels, 1).index_select(1, self.leaf)

    def decayed_parameters(self, head: "Head") -> list[nn.Parameter]:
        """The nodes' rows, where the head does not normalise them."""
        return [] if head.unit_weights else [self.node_rows]

    @property
    def uses_class_counts(self) -> bool:
        """Whether the tree is made by frequency; see `Partition.uses_class_counts`."""
        return isinstance(self.tree, str)

    def options(self) -> dict[str, Any]:
        """See `Partition.options`."""
        return {**super().options(), "tree": self.tree, "arity": self.arity}

    def _plant(self, num_classes: int) -> Tree:
        frequencies = self.frequencies(num_classes)
        nested: Nested
        if not isinstance(self.tree, str):
            nested = self.tree
        elif self.tree == "huffman":
            nested = huffman(frequencies, self.arity)
        else:
            nested = balanced(by_frequency(frequencies).tolist(), self.arity)
        return plant(nested, num_classes)

    def _widened(self, head: "Head", features: "Features") -> tuple[Tensor, Tensor | None]:
        """All rows and biases in the dtype of the features."""
        # Once, before samples that share a node take its row: their gradients meet in float32; see `Dense`.
        biases = None if self.node_biases is None else head.widened(self.node_biases, features)
        return head.widened(self.node_rows, features), biases

    def _two_way(
        self, head: "Head", features: "Features", rows: Tensor, biases: Tensor | None, nodes: Tensor, branches: Tensor
    ) -> Tensor:
        """(P,) −log σ(f/T) of P samples, each at its node of two branches."""
        index = self.first_row[nodes]
        sign = (1 - 2 * branches).to(rows.dtype)
        bias = None if biases is None else sign * biases[index]
        scores = head.target_scores(features, sign.unsqueeze(1) * rows[index], bias)
        return -functional.logsigmoid(scores / head.temperature)

    def _wide(
        self, head: "Head", features: "Features", rows: Tensor, biases: Tensor | None, nodes: Tensor, branches: Tensor
    ) -> Tensor:
        """(P,) −log softmax of P samples, each at its node of three or more branches."""
        first, count = self.first_row[nodes].unsqueeze(1), self.arity_of[nodes].unsqueeze(1)
        places = torch.arange(self.arities[-1], device=nodes.device)
        index = first + places.minimum(count - 1)
        around, bias = rows[index], None if biases is None else biases[index]
        taken = torch.arange(len(nodes), device=nodes.device), branches
        margined = head.target_scores(features, around[taken], None if bias is None else bias[taken])
        scores = head.paired_scores(each_feature(features, lambda column: column.unsqueeze(1)), around)
        scores = scores if bias is None else scores + bias
        gaps = (scores - margined.unsqueeze(1)) / head.temperature
        gaps = gaps.masked_fill(places >= count, -torch.inf)
        return gaps.scatter(1, branches.unsqueeze(1), 0).logsumexp(1)

    def _branch_log_p(self, head: "Head", features: "Features") -> Tensor:
        """(M, N) log P of the branch that leads to each node from its parent, 0 for the root."""
        scores = head.scores(features, self.node_rows, self.node_biases) / head.temperature
        arity = self.arity_of[self.parent.clamp_min(0)].masked_fill(self.parent < 0, 0)
        found, places = [scores.new_zeros(len(scores), 1)], [arity.new_zeros(1)]
        for k in self.arities:
            children = (arity == k).nonzero().squeeze(1)
            first = self.first_row[self.parent[children]]
            if k == 2:
                branches = scores.index_select(1, first) * (1 - 2 * self.branch[children])
                found.append(functional.logsigmoid(branches))
            else:
                branches = scores.index_select(1, first + self.branch[children])
                found.append(branches.reshape(len(scores), len(children) // k, k).log_softmax(2).flatten(1))
            places.append(children)
        return torch.cat(found, 1).index_select(1, torch.cat(places).argsort())
