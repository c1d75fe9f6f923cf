"""Adaptive softmax: frequent classes at full width, rare ones in clusters of falling width."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .base import SampleLosses
from .factorised import Factorised, level_log_p, level_nll, split_features
from .grouping import by_frequency
from .option_values import is_integer, is_number, plain_list

if TYPE_CHECKING:
    from facemargin.heads.base import Features, Head

SHORTLIST_SHARES = (0.5, 0.8)
"""Shares of the samples at which the default cutoffs lie."""


class Adaptive(Factorised):
    """P(class) = P(class) at the root for the shortlist, P(cluster)·P(class | cluster) for the others.

    The root is a head over the shortlist's classes and one row for each cluster. Cluster i is a head of its own on
    projected features, of width d_i = max(min_dim, ⌊D / div_value^i⌋), i = 1, 2, …, at most D. Heads with free features
    project x; heads with unit features project x̂ and normalise the result again, so that cosines and the scale keep
    their meaning: s·x̂' with x̂' the direction of P_i·x̂. Biases, where the head has them, are at every level. The margin
    acts on the class at the root for the shortlist, and on the cluster and on the class for the others.

    What it gives up: rare classes are told apart in few dimensions. In text that costs little; faces are far less
    skewed than words, so the default cutoffs go by share of samples and not by cost.

    Cost: 2·D·(c + n) operations a sample forward, c the shortlist's length and n the number of clusters, and for a
    sample in cluster i of k_i classes 2·d_i·(D + k_i) more; twice that backward. Memory: those rows and projections,
    and (M, c + n) scores and their like in the clusters. On CUDA it waits for the device once. ``logits`` compute all
    of it for every sample.

    Args:
        cutoffs: rising places in the order of frequency, each in [1, C − 1]: the shortlist ends at the first and the
            clusters at the next ones and C; empty for no cluster. None: where the most frequent classes have together
            half and four fifths of the samples, leaving out a cutoff that would make a cluster of one class. `options`
            records the cutoffs found.
        div_value: finite, ≥ 1; how much narrower each cluster is than the one before, the first than D.
        min_dim: ≥ 1, no cluster is narrower, if D is not. The paper's form is 1.
        class_counts: see `Factorised`.

    Raises:
        ValueError: a value is out of its range. Also where a head with unit features or unit rows would get a cluster
            of width 1: a unit number is ±1 and learns nothing.

    Source:
        Grave et al., "Efficient softmax approximation for GPUs", arXiv 1609.04309 §4; normalising again is ours.

    >>> from facemargin.heads import make_head
    >>> head = make_head("am-softmax", embedding_dim=64, num_classes=100, partition="adaptive")
    >>> head.partition.cutoffs, [tuple(rows.shape) for rows in head.partition.tail_rows]
    ([10, 40], [(30, 16), (60, 16)])
    >>> torch.allclose(head.logits(torch.randn(2, 64)).exp().sum(1), torch.ones(2))
    True
    """

    name = "adaptive"

    root_rows: nn.Parameter
    root_biases: nn.Parameter | None
    projections: nn.ParameterList
    tail_rows: nn.ParameterList
    tail_biases: nn.ParameterList
    position: Tensor
    starts: Tensor

    def __init__(
        self,
        *,
        cutoffs: Sequence[int] | Tensor | None = None,
        div_value: float = 4.0,
        min_dim: int = 16,
        class_counts: Sequence[int] | Tensor | None = None,
    ) -> None:
        super().__init__(class_counts=class_counts)
        if not (is_number(div_value) and math.isfinite(div_value) and div_value >= 1):
            raise ValueError(f"div_value={div_value!r} is out of range: it must be finite and ≥ 1")
        if not is_integer(min_dim) or min_dim < 1:
            raise ValueError(f"min_dim={min_dim!r} is out of range: it must be an integer ≥ 1")
        self.cutoffs: list[int] | None = None if cutoffs is None else plain_list("cutoffs", cutoffs)
        self.div_value = float(div_value)
        self.min_dim = int(min_dim)

    def allocate(self, head: "Head") -> None:
        """Rows of the root, and projection and rows of each cluster; see `Partition.allocate`."""
        frequencies = self.frequencies(head.num_classes)
        order = by_frequency(frequencies)
        cutoffs = self.cutoffs
        if cutoffs is None:
            cutoffs = default_cutoffs([frequencies[j] for j in order.tolist()])
        _check_cutoffs(cutoffs, head.num_classes)
        bounds = [*cutoffs, head.num_classes]
        self.shortlist, self.sizes = bounds[0], [end - start for start, end in itertools.pairwise(bounds)]
        self.register_buffer("position", order.argsort(), persistent=False)
        self.register_buffer("starts", torch.tensor(bounds[:-1], dtype=torch.int64), persistent=False)
        self._allocate_root(head)
        self._allocate_tail(head)
        self.remember(order, self.starts)
        self.cutoffs = cutoffs

    def losses(self, head: "Head", features: "Features", labels: Tensor) -> SampleLosses:
        """−log P at the root and in the label's cluster, the margin in both; see `Partition.losses`."""
        position = self.position[labels]
        # 0 for the shortlist, else 1 + the cluster.
        part = torch.bucketize(position, self.starts, right=True)
        at_root = position.where(part == 0, self.shortlist + part - 1)
        nll = level_nll(head, features, self.root_rows, self.root_biases, at_root)
        return SampleLosses(nll + self._within_clusters(head, features, position, part))

    def logits(self, head: "Head", features: "Features") -> Tensor:
        """(M, C) log P(class) without margin; see `Partition.logits`."""
        root = level_log_p(head, features, self.root_rows, self.root_biases)
        levels = [root[:, : self.shortlist]]
        for cluster in range(len(self.sizes)):
            within = level_log_p(head, self._project(head, features, cluster), *self._cluster(cluster))
            levels.append(root[:, self.shortlist + cluster, None] + within)
        return torch.cat(levels, 1).index_select(1, self.position)

    def decayed_parameters(self, head: "Head") -> list[nn.Parameter]:
        """Rows where the head does not normalise them, projections where it does not normalise features."""
        rows = [] if head.unit_weights else [self.root_rows, *self.tail_rows]
        return rows if head.unit_features else [*rows, *self.projections]

    @property
    def uses_class_counts(self) -> bool:
        """Always: they say which classes come first; see `Partition.uses_class_counts`."""
        return True

    def options(self) -> dict[str, Any]:
        """See `Partition.options`."""
        own = {"cutoffs": self.cutoffs, "div_value": self.div_value, "min_dim": self.min_dim}
        return {**super().options(), **own}

    def _allocate_root(self, head: "Head") -> None:
        self.root_rows = head.new_rows(self.shortlist + len(self.sizes))
        self.register_parameter("root_biases", head.new_biases(self.shortlist + len(self.sizes)))

    def _allocate_tail(self, head: "Head") -> None:
        self.projections, self.tail_rows = nn.ParameterList(), nn.ParameterList()
        self.tail_biases = nn.ParameterList()
        for cluster, size in enumerate(self.sizes):
            width = self._width(head, cluster)
            # Rows of length about 1 in D dimensions: scores start of the size that they have at the root.
            self.projections.append(head.new_rows(width))
            self.tail_rows.append(head.new_rows(size, width))
            biases = head.new_biases(size)
            if biases is not None:
                self.tail_biases.append(biases)

    def _width(self, head: "Head", cluster: int) -> int:
        dim = head.embedding_dim
        width = min(dim, max(self.min_dim, int(dim / self.div_value ** (cluster + 1))))
        if width == 1 < dim and (head.unit_features or head.unit_weights):
            raise ValueError(
                f"div_value={self.div_value:g} and min_dim={self.min_dim} make cluster {cluster + 1} one number wide, "
                f"which head {head.name!r} normalises to ±1; use min_dim ≥ 2, a smaller div_value or fewer cutoffs"
            )
        return width

    def _cluster(self, cluster: int) -> tuple[Tensor, Tensor | None]:
        return self.tail_rows[cluster], self.tail_biases[cluster] if len(self.tail_biases) else None

    def _project(self, head: "Head", features: "Features", cluster: int) -> "Features":
        """Features as the head sees them after a cluster's projection."""
        vectors = features.unit if head.unit_features else features.vectors
        return head.features(vectors @ head.widened(self.projections[cluster], features).T)

    def _within_clusters(self, head: "Head", features: "Features", position: Tensor, part: Tensor) -> Tensor:
        """(M,) −log P(class | cluster), 0 for the shortlist."""
        order = part.argsort(stable=True)
        counts: list[int] = part.bincount(minlength=1 + len(self.sizes)).tolist()
        targets = torch.split(position[order], counts)[1:]
        samples = split_features(features, order, counts)
        nll = [samples[0].length.new_zeros(counts[0])]
        # Clusters without samples too, so that every parameter gets its zero gradient.
        for cluster, target in enumerate(targets):
            projected = self._project(head, samples[1 + cluster], cluster)
            nll.append(level_nll(head, projected, *self._cluster(cluster), target - self.starts[cluster]))
        return torch.cat(nll)[order.argsort()]


def default_cutoffs(frequencies: Sequence[float]) -> list[int]:
    """The places at which the most frequent classes have a half and four fifths of the samples.

    Args:
        frequencies: C weights ≥ 0, falling.

    Returns:
        At most two cutoffs, so that each cluster has two classes or more; always one or two for C ≥ 4.

    >>> default_cutoffs([4, 1, 1, 1, 1, 1, 1])
    [2, 5]
    """
    weights = torch.tensor(frequencies, dtype=torch.float64)
    shares = (weights if bool(weights.any()) else weights + 1).cumsum(0)
    cutoffs: list[int] = []
    for share in SHORTLIST_SHARES:
        cutoff = int((shares < share * shares[-1]).sum()) + 1
        if len(frequencies) - cutoff >= 2 and (not cutoffs or cutoff - cutoffs[-1] >= 2):
            cutoffs.append(cutoff)
    return cutoffs


def _check_cutoffs(cutoffs: list[int], num_classes: int) -> None:
    integers = all(is_integer(cutoff) and 1 <= cutoff < num_classes for cutoff in cutoffs)
    if not integers or not all(a < b for a, b in itertools.pairwise(cutoffs)):
        raise ValueError(f"cutoffs={cutoffs} are out of range: they must be rising integers in [1, {num_classes - 1}]")
