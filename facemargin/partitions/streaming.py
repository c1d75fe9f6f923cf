"""The streaming partition: exact sums over all classes in memory that does not grow with their number."""

from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import streaming_blocks as blocks
from .first_derivative import first_only
from .flat import ClassRows, ClassSums, Flat, best_class
from .option_values import is_integer
from .streaming_memory import GradientMemory
from .streaming_products import PRODUCTS

if TYPE_CHECKING:
    from facemargin.heads.base import Features, Head


class Streaming(Flat):
    """log Z and its gradients over blocks of classes; scores are recomputed in backward instead of kept.

    A block of scores lives in cache, adds to a running maximum and sum, and is overwritten by the next. The target's
    margined score stands in the sum from the start, and the score of its class is left out of its block. Backward
    recomputes each block from log Z and writes that block's gradient once. Unit rows are never normalised: scores are
    scaled by 1/‖w_j‖, and the derivative of the normalisation is subtracted from the gradient's rows.

    Cost: 2·M·C·D operations forward and 6·M·C·D backward, a third more than ``dense``. Memory beside the weight and its
    gradient: C inverse norms for unit rows, copies of the (M, D) samples and their rows, and buffers of less than 32 MB
    however large C is (they grow with M above 65,000 samples). Nothing of size M×C, no normalised or widened copy of
    the weight, and no second buffer for its gradient. On a CPU that one buffer stays with the partition from step to
    step; see `GradientMemory`.

    On CUDA a Triton kernel does the same, where the package triton is installed, the computation is in float32 and a
    multiprocessor has enough shared memory for the kernel's tiles; elsewhere the blocks run there too.

    It gives up second derivatives: differentiating its gradients is an error; use ``dense`` for those. A weight that
    needs no gradient costs none. Where a margin has parameters of its own (that of no head in ``HEADS`` has), their
    tensor hooks are called twice, inside backward and at its end; a hook of ``register_post_accumulate_grad_hook`` is
    called once.

    Args:
        block: classes a block, ≥ 1; None chooses by the size of caches. Without effect on the Triton kernel.
        products: ``"float32"``, or ``"bfloat16"`` for matrix products of operands rounded to bfloat16, summed in
            float32, where the hardware has them; elsewhere the rounding is imitated and costs time. Sums, exponentials
            and the target's own score are never reduced. While such products run on a CPU, float32 products in other
            threads of the process are reduced too.
        self_normalize: see `Flat`.

    Raises:
        ValueError: a value is out of its range.

    Source:
        the running maximum: Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv 1805.02867,
        §3; recomputing a block of logits in backward: Wijmans et al., "Cut Your Losses in Large-Vocabulary Language
        Models", arXiv 2411.09009, §4. The margin and the unit rows inside the loop are ours.

    >>> from facemargin.heads import make_head
    >>> head = make_head("arcface", embedding_dim=4, num_classes=3, partition=Streaming(block=2))
    >>> head(torch.ones(2, 4), torch.tensor([0, 2])).shape
    torch.Size([])
    """

    name = "streaming"

    def __init__(self, *, block: int | None = None, products: str = "float32", self_normalize: float = 0.0) -> None:
        super().__init__(self_normalize=self_normalize)
        if block is not None and not (is_integer(block) and block >= 1):
            raise ValueError(f"block={block!r} is out of range: it must be an integer ≥ 1, or None to choose one")
        if products not in PRODUCTS:
            raise ValueError(f"products={products!r} is unknown; known products: {', '.join(PRODUCTS)}")
        self.block = None if block is None else int(block)
        self.products = products
        self.memory = GradientMemory()

    def sums(self, head: "Head", features: "Features", rows: ClassRows, labels: Tensor) -> ClassSums:
        """Sums over blocks of classes; see `Flat.sums`."""
        plan = _Plan(head, labels, rows.class_weights, self.block, self.products, self.memory)
        # A margin may have parameters of its own: without being named here they would get no gradient.
        others = [p for p in head.parameters() if p.requires_grad and p is not rows.weight and p is not rows.bias]
        apply: Any = _Sums.apply
        maximum, log_sum, target, weighted = apply(plan, *features, rows.weight, rows.bias, *others)
        return ClassSums(maximum, log_sum, target, weighted)

    def predict(self, head: "Head", features: "Features") -> Tensor:
        """Blockwise argmax; see `Partition.predict`."""
        vectors = features.vectors
        size = self.block or blocks.block_size(len(vectors), vectors.shape[1], vectors.dtype)
        return best_class(head, features, head.weight, head.bias, block=size)[1]

    def options(self) -> dict[str, Any]:
        """See `Partition.options`."""
        return {**super().options(), "block": self.block, "products": self.products}


class _Plan(NamedTuple):
    """What the sums depend on beside tensors with gradients."""

    head: "Head"
    labels: Tensor
    class_weights: Tensor | None
    block: int | None
    products: str
    memory: GradientMemory

    def forward(self, vectors: Tensor, weight: Tensor) -> Callable[..., blocks.Sums]:
        """The function that sums: the Triton kernel where it can run, else the blocks."""
        kernel = _kernel(vectors, weight, self.products)
        chosen = partial(blocks.forward, block=self.block) if kernel is None else kernel.forward
        return partial(chosen, temperature=self.head.temperature, products=self.products)

    def backward(self, vectors: Tensor, weight: Tensor, needs: blocks.Needs) -> Callable[..., blocks.Gradients]:
        """The function that differentiates the sums."""
        kernel = _kernel(vectors, weight, self.products)
        how: dict[str, Any] = {"temperature": self.head.temperature, "products": self.products, "needs": needs}
        if kernel is not None:
            return partial(kernel.backward, **how)
        gradient = self.memory.like(weight) if needs.weight else None
        return partial(blocks.backward, **how, block=self.block, weight_gradient=gradient)

    def label_weights(self, like: Tensor) -> Tensor:
        """(M,) v_y."""
        if self.class_weights is None:
            return torch.ones_like(like)
        return self.class_weights[self.labels.clamp_min(0)].to(like)


class _Target:
    """The margined target scores with the graph behind them, kept from forward to backward.

    The graph begins at detached copies of M samples and M rows. So its gradient for the rows has size (M, D), not
    (C, D), and λ of an annealed margin stays that of the forward.
    """

    def __init__(self, plan: _Plan, tensors: tuple[Tensor, ...], weight: Tensor, bias: Tensor | None) -> None:
        from facemargin.heads.base import Features  # not above: heads import partitions

        dtype, index = tensors[0].dtype, plan.labels.clamp_min(0)
        features = Features(*(tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors))
        rows = _samples_rows(weight, index, dtype)
        biases = None if bias is None else _samples_rows(bias, index, dtype)
        with torch.enable_grad():
            self.scores = plan.head.target_scores(features, rows, biases) / plan.head.temperature
        self.leaves = (*features, rows, biases)

    def gradients(self, grad_scores: Tensor, others: tuple[Tensor, ...]) -> list[Tensor | None]:
        """Of vectors, unit, length, the samples' rows, their biases and other parameters; None where not needed."""
        inputs = [*self.leaves, *others]
        needed = [leaf for leaf in inputs if leaf is not None and leaf.requires_grad]
        if not (needed and self.scores.requires_grad):
            return [None] * len(inputs)
        found = torch.autograd.grad(self.scores, needed, grad_scores, retain_graph=True, allow_unused=True)
        by_leaf = {id(leaf): gradient for leaf, gradient in zip(needed, found, strict=True)}
        return [by_leaf.get(id(leaf)) for leaf in inputs]


class _Sums(torch.autograd.Function):
    """Maximum, log-sum, target and weighted sum over all classes, differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: _Plan,
        vectors: Tensor,
        unit: Tensor,
        length: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *others: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """See `Flat.sums`."""
        ctx.plan, ctx.target = plan, _Target(plan, (vectors, unit, length), weight, bias)
        target = ctx.target.scores.detach()
        maximum, log_sum, weighted_scores, inverse_norms = plan.forward(vectors, weight)(
            *(vectors, weight, bias, plan.labels, target, plan.class_weights),
            unit_rows=plan.head.unit_weights,
            weighted=plan.head.label_smoothing > 0,
        )
        ctx.save_for_backward(vectors, weight, bias, maximum, log_sum, inverse_norms, *others)
        ctx.mark_non_differentiable(maximum)
        return maximum, log_sum, torch.where(plan.labels >= 0, target, 0), weighted_scores

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Gradients of vectors, unit, length, weight, bias and other parameters."""
        with torch.no_grad():
            found = _gradients(ctx, grads[1], grads[2], grads[3])
        why = "its backward recomputes scores outside the graph"
        return (None, *first_only("streaming", why, (*grads, *ctx.saved_tensors), *found))


def _gradients(
    ctx: Any, grad_log: Tensor, grad_target: Tensor, grad_weighted: Tensor | None
) -> tuple[Tensor | None, ...]:
    plan: _Plan = ctx.plan
    vectors, weight, bias, maximum, log_sum, inverse_norms, *others = ctx.saved_tensors
    _, needs_vectors, _, _, needs_weight, needs_bias = ctx.needs_input_grad[:6]
    needs = blocks.Needs(needs_vectors, needs_weight, needs_bias)
    # exp(z − log Z) = exp(z − maximum)·exp(−log_sum), without the rounding of a large log Z.
    grad_log = grad_log * (-log_sum).exp()
    sums = blocks.Gradients(None, None, None)
    if any(needs):
        sums = plan.backward(vectors, weight, needs)(
            *(vectors, weight, bias, plan.labels, plan.class_weights, maximum, inverse_norms, grad_log, grad_weighted)
        )
    grad_target = grad_target + grad_log * (ctx.target.scores.detach() - maximum).exp()
    if grad_weighted is not None:
        grad_target += grad_weighted * plan.label_weights(grad_weighted)
    grad_target = torch.where(plan.labels >= 0, grad_target, 0)
    of_vectors, unit, length, rows, biases, *rest = ctx.target.gradients(grad_target, tuple(others))
    index = plan.labels.clamp_min(0)
    return (
        _added(sums.vectors, of_vectors) if needs.vectors else None,
        unit,
        length,
        _scattered(sums.weight, index, rows) if needs.weight else None,
        _scattered(sums.bias, index, biases) if needs.bias else None,
        *rest,
    )


def _samples_rows(whole: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """A leaf of its own with the rows of a parameter named by ``index``."""
    return whole.detach()[index].to(dtype).requires_grad_(whole.requires_grad)


def _added(whole: Tensor | None, part: Tensor | None) -> Tensor | None:
    return whole if whole is None or part is None else whole.add_(part)


def _scattered(whole: Tensor | None, index: Tensor, parts: Tensor | None) -> Tensor | None:
    """``parts`` added in place to the rows of ``whole`` named by ``index``."""
    if whole is None or parts is None:
        return whole
    if whole.dtype == parts.dtype:
        return whole.index_add_(0, index, parts)
    # Added up before they are narrowed: two halves that fit may have a sum that does not.
    rows, place = torch.unique(index, return_inverse=True)
    whole[rows] = blocks.narrowed(whole[rows].to(parts.dtype).index_add_(0, place, parts), whole.dtype)
    return whole


def _kernel(vectors: Tensor, weight: Tensor, products: str) -> ModuleType | None:
    """The Triton kernels, where they can run."""
    runs = vectors.is_cuda and vectors.dtype == torch.float32 and weight.is_contiguous()
    kernel = _triton() if runs else None
    return kernel if kernel is not None and kernel.fits(vectors.device, products) else None


@lru_cache(maxsize=1)
def _triton() -> ModuleType | None:
    try:
        return import_module(".streaming_triton", __package__)
    except ImportError:
        return None
