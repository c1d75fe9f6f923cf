"""Distributions over classes to draw negatives or noise from. Owns tables and draws; knows nothing of scores or losses.

A `Proposal` draws with replacement, `distinct_others` without. All draws come from torch's global generator of the
device, so that a run that resumes with a restored generator repeats itself.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from .option_values import checked_counts, is_number

POWERS = {"frequency": 1.0, "frequency-power": 0.75}
"""The exponent where none is given; of 0, 0.75 and 1 the second did best in Mikolov et al., arXiv 1310.4546 §2.2."""


class Proposal(ABC):
    """A fixed distribution q over the classes 0 … C−1 in which every class can be drawn.

    Args:
        num_classes: C ≥ 1.

    Raises:
        ValueError: the value is out of its range.
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes!r} is out of range: it must be ≥ 1")
        self.num_classes = num_classes

    @abstractmethod
    def sample(self, count: int, device: torch.device | str) -> Tensor:
        """(count,) int64 classes, drawn independently with replacement."""

    @abstractmethod
    def log_probability(self, classes: Tensor) -> Tensor:
        """log q (natural) of each class.

        Args:
            classes: int64 of any shape, in [0, C).

        Returns:
            float32 of the same shape, finite.
        """

    def within(self, first: int, last: int) -> "Proposal":
        """q given that the class is one of first … last − 1, which become 0 … last − first − 1: for one shard.

        Raises:
            ValueError: this proposal cannot be cut.
        """
        raise ValueError(f"{type(self).__name__} cannot be cut into shards: give it a method `within`")


class Uniform(Proposal):
    """q(j) = 1/C. O(1) a draw, no memory.

    Args: those of `Proposal`.

    >>> Uniform(4).log_probability(torch.tensor([3])).exp().item()
    0.25
    """

    def sample(self, count: int, device: torch.device | str) -> Tensor:
        """See `Proposal.sample`."""
        return torch.randint(self.num_classes, (count,), device=device)

    def log_probability(self, classes: Tensor) -> Tensor:
        """See `Proposal.log_probability`."""
        return torch.full(classes.shape, -math.log(self.num_classes), device=classes.device)

    def within(self, first: int, last: int) -> "Uniform":
        """See `Proposal.within`."""
        return Uniform(last - first)


class Frequency(Proposal):
    """q(j) ∝ count_j^power; without counts the order of labels stands for frequency.

    Without counts, count_j = log((j+2)/(j+1)): with power 1 that is the log-uniform law
    q(j) = log((j+2)/(j+1)) / log(C+1), Zipf's to a good approximation, class 0 the most frequent.

    A draw inverts the cumulative sum by bisection: O(log C), one float64 table of C numbers, on the device that last
    asked. ``torch.multinomial`` would need O(C) a call and stops at 2^24 classes.

    Args:
        num_classes: C ≥ 1.
        class_counts: (C,) how many training samples each class has, whole and ≥ 0. A class without samples counts as
            one with a single sample, so that every class can be drawn.
        power: in [0, 1]; 0 is uniform, 1 the frequencies themselves. More would leave rare classes no float64 digits.

    Raises:
        ValueError: a value is out of its range, or the counts are not C numbers.

    >>> q = Frequency(3, [6, 0, 3]).log_probability(torch.tensor([0, 1, 2])).exp()
    >>> [round(p, 6) for p in q.tolist()]
    [0.6, 0.1, 0.3]
    """

    def __init__(
        self, num_classes: int, class_counts: Sequence[int] | Tensor | None = None, power: float = 1.0
    ) -> None:
        super().__init__(num_classes)
        if not (is_number(power) and 0 <= power <= 1):
            raise ValueError(f"power={power!r} is out of range: it must lie in [0, 1]")
        if class_counts is None:
            counts = torch.arange(1, num_classes + 1, dtype=torch.float64).reciprocal_().log1p_()
        else:
            counts = torch.tensor(checked_counts(class_counts, num_classes), dtype=torch.float64).clamp(min=1)
        self._cumulative = counts.pow_(power).cumsum(0)

    def sample(self, count: int, device: torch.device | str) -> Tensor:
        """See `Proposal.sample`."""
        table = self._table(device)
        heights = torch.rand(count, dtype=torch.float64, device=device) * table[-1]
        # The product may round up to the total itself, which lies past the last class.
        return torch.searchsorted(table, heights, right=True).clamp_(max=self.num_classes - 1)

    def log_probability(self, classes: Tensor) -> Tensor:
        """See `Proposal.log_probability`. Of the steps of the table: the very probabilities that draws have."""
        table = self._table(classes.device)
        below = torch.where(classes > 0, table[(classes - 1).clamp_min(0)], 0.0)
        return ((table[classes] - below) / table[-1]).log().float()

    def within(self, first: int, last: int) -> "Frequency":
        """See `Proposal.within`."""
        part = Frequency(last - first)
        below = self._cumulative[first - 1] if first else 0.0
        part._cumulative = self._cumulative[first:last] - below
        return part

    def _table(self, device: torch.device | str) -> Tensor:
        # Not a buffer: a module turned to float32 would round away the rare classes.
        self._cumulative = self._cumulative.to(device)
        return self._cumulative


PROPOSALS = ("uniform", *POWERS)
"""The names that `make_proposal` knows."""


def make_proposal(
    name: str,
    num_classes: int,
    class_counts: Sequence[int] | Tensor | None = None,
    power: float | None = None,
) -> Proposal:
    """A proposal by name: ``uniform``, ``frequency`` or ``frequency-power``.

    Args:
        name: one of `PROPOSALS`.
        num_classes: C ≥ 1.
        class_counts: those of `Frequency`; ``uniform`` does not look at them.
        power: that of `Frequency`; None is 1 for ``frequency`` and 0.75 for ``frequency-power``. ``uniform`` does not
            look at it.

    Raises:
        ValueError: there is no proposal of that name, or a value is out of its range.

    >>> make_proposal("frequency", 10).num_classes
    10
    """
    if name not in PROPOSALS:
        raise ValueError(f"proposal={name!r} is unknown; known proposals: {', '.join(PROPOSALS)}")
    if name == "uniform":
        return Uniform(num_classes)
    return Frequency(num_classes, class_counts, POWERS[name] if power is None else power)


def check_power(power: object, source: object) -> None:
    """Refuse an exponent that is no number, or is given to a source of draws other than those by frequency.

    Raises:
        ValueError: it is one of these.
    """
    if power is None:
        return
    if not is_number(power):
        raise ValueError(f"power={power!r} is out of range: it must lie in [0, 1]")
    if not (isinstance(source, str) and source in POWERS):
        raise ValueError(f"power={power!r} is for {' and '.join(POWERS)}, not for {source!r}")


def distinct_others(batch: Tensor, size: int, count: int) -> Tensor:
    """A random set of classes that are not in the batch: every set of that size is as likely as any other.

    Args:
        batch: (P,) int64, sorted, each once, in [0, size).
        size: how many classes there are.
        count: how many are wanted; where the batch leaves fewer, all those are taken.

    Returns:
        (min(count, size − P),) int64, each once, in no particular order. O(count·log count) however large ``size`` is.

    >>> sorted(distinct_others(torch.tensor([1, 2]), 5, 9).tolist())
    [0, 3, 4]
    """
    left = size - len(batch)
    count = min(count, left)
    if 4 * count >= left:
        picks = torch.randperm(left, device=batch.device)[:count]
    else:
        picks = torch.unique(torch.randint(left, (count,), device=batch.device))
        # Only as many as are missing, so that none has to be thrown away: the rule treats all classes alike, and so
        # all sets.
        while len(picks) < count:
            more = torch.randint(left, (count - len(picks),), device=batch.device)
            picks = torch.unique(torch.cat((picks, more)))
    # The i-th class of the batch has batch[i] − i classes below it that are not in the batch.
    below = batch - torch.arange(len(batch), device=batch.device)
    return picks + torch.searchsorted(below, picks, right=True)
