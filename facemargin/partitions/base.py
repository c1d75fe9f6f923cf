"""What a partition is: a way to pay for the sum over C classes. It owns no margin and no normalisation.

A partition is handed a head, which gives it everything it needs: ``head.features`` (embeddings as the head sees them),
``head.scores`` (against a block of class rows, without margin), ``head.target_scores`` (against one row a sample, with
it), ``head.new_rows`` and ``head.new_biases`` to allocate parameters, ``head.temperature``, ``head.class_weights`` and
``head.label_smoothing``. So a partition works with every head, and a head with every partition.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from facemargin.heads.base import Features, Head


class SampleLosses(NamedTuple):
    """What a partition returns for M samples.

    Attributes:
        nll: (M,) −log p_y on margined scores divided by the temperature, or the partition's own stand-in for it.
        over_classes: (M,) Σ_j v_j·(−log p_j), v the class weights (or 1); only needed with label smoothing, else None.
        log_normaliser: (M,) log Z on margined scores, where the partition knows it, else None.
        penalty: (M,) a term that is added to the loss of a sample after label smoothing, or None.
    """

    nll: Tensor
    over_classes: Tensor | None = None
    log_normaliser: Tensor | None = None
    penalty: Tensor | None = None


class Partition(nn.Module, ABC):
    """One way to compute the sum over classes. A module, so that it may hold parameters and saved state of its own.

    An instance belongs to one head. It holds no reference to it: the head passes itself.

    Attributes:
        exact: the loss and its gradients are those of ``dense``.
        factorised: P(class) is a product of smaller softmaxes; there is no ``head.weight``, and ``logits`` are log P.
        sees_all_classes: −log p_j is at hand for every class, which label smoothing needs.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = False
    factorised: ClassVar[bool] = False
    sees_all_classes: ClassVar[bool] = False

    def bind(self, head: "Head") -> None:
        """Allocate the class parameters for a head; called once, by the head's constructor.

        Raises:
            ValueError: the instance already belongs to a head, or it cannot work with this one.
        """
        if getattr(self, "_bound", False):
            raise ValueError(f"this {self.name!r} partition already belongs to a head: make a new instance for each")
        if head.label_smoothing > 0 and not self.sees_all_classes:
            raise ValueError(
                f"label_smoothing={head.label_smoothing:g} needs −log p of every class, which partition {self.name!r} "
                "never computes; use label_smoothing=0, or partition 'dense', 'streaming' or 'sharded'"
            )
        self.allocate(head)
        self._bound = True  # only now: an instance that one head was refused may serve another

    def allocate(self, head: "Head") -> None:
        """Make the parameters: ``weight`` (C, D) and ``bias`` (C,) or None on the head.

        Factorised partitions override this and keep parameters of another shape on themselves.

        Raises:
            ValueError: the partition cannot work with this head.
        """
        head.weight, bias = self.new_parameters(head)
        head.register_parameter("bias", bias)

    def new_parameters(self, head: "Head") -> tuple[nn.Parameter, nn.Parameter | None]:
        """``weight`` (C, D) and ``bias`` (C,) or None."""
        return head.new_rows(head.num_classes), head.new_biases(head.num_classes)

    def whole_batch(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The batch that the loss is a mean over: what was handed in, or that of all processes together.

        Args:
            embeddings: (M, D), any floating dtype.
            labels: (M,), unchecked.
        """
        return embeddings, labels

    @abstractmethod
    def losses(self, head: "Head", features: "Features", labels: Tensor) -> SampleLosses:
        """Per-sample losses on margined scores divided by the head's temperature.

        Args:
            head: the head this partition belongs to.
            features: M samples.
            labels: (M,) int64 in [0, C); ignored samples hold 0 and are masked by the head.
        """

    @abstractmethod
    def logits(self, head: "Head", features: "Features") -> Tensor:
        """(M, C) scores without margin and temperature; for a factorised partition log P(class)."""

    def predict(self, head: "Head", features: "Features") -> Tensor:
        """(M,) int64: the class of the largest logit, the lowest such class in a tie."""
        return self.logits(head, features).argmax(1)

    @property
    def uses_class_counts(self) -> bool:
        """Whether ``class_counts`` would change anything with the options of this instance."""
        return False

    def decayed_parameters(self, head: "Head") -> list[nn.Parameter]:
        """Parameters on which weight decay is real: class rows that the head does not normalise."""
        return [] if head.unit_weights else [head.weight]

    def options(self) -> dict[str, Any]:
        """The name and resolved options as JSON values; ``make_partition(options)`` builds the same partition."""
        return {"name": self.name}
