"""The sums of the streaming partition, one block of classes after another, in plain PyTorch on any device.

Owns the loop over blocks and its buffers. Knows nothing of heads, margins or autograd: `forward` and `backward` are the
two halves that ``streaming`` puts into an autograd function. Nothing of size M×C is ever made, nor a normalised or
widened copy of more than one block of rows.

With s_ij = ⟨x_i, w_j⟩ and n_j = 1 / max(‖w_j‖, NORM_FLOOR) (1 where rows are not unit), z_ij = (s_ij·n_j + b_j) / T.
Rows are never normalised: the columns of a block of s are scaled by n_j instead. What a block costs beside its matrix
products is one pass over its rows for their norms, one to start their gradient, and passes over (M, B) numbers that
lie in cache: five forward, six backward.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .streaming_products import Products

_BLOCK_BYTES = 32 * 2**20
_SMALLEST_BLOCK = 64
_CACHED_ROWS = 1024


class Sums(NamedTuple):
    """What M samples need to know of the classes, the target's score replaced.

    Attributes:
        maximum: (M,) the largest score; −∞ without classes.
        log_sum: (M,) log Σ_j exp(z_j − maximum); −∞ without classes.
        weighted_scores: (M,) Σ_j v_j·z_j, or None when not asked for.
        inverse_norms: (C,) n_j, to be handed to `backward`, or None when rows are not unit.
    """

    maximum: Tensor
    log_sum: Tensor
    weighted_scores: Tensor | None
    inverse_norms: Tensor | None


class Needs(NamedTuple):
    """Which gradients to compute."""

    vectors: bool
    weight: bool
    bias: bool


ALL = Needs(vectors=True, weight=True, bias=True)


class Gradients(NamedTuple):
    """The gradients of the sums, without the target's own path; None where not needed.

    Attributes:
        vectors: (M, D).
        weight: (C, D) in the weight's dtype; half precision saturates instead of overflowing.
        bias: (C,) in the bias's dtype.
    """

    vectors: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def block_size(samples: int, dim: int, dtype: torch.dtype) -> int:
    """How many classes a block has by default: as many as keep what it touches within 32 MB.

    Touched are B rows, their gradient, and two (M, B) matrices.

    >>> block_size(128, 512, torch.float32)
    6528
    """
    fitting = _BLOCK_BYTES // (2 * (samples + dim) * dtype.itemsize)
    return max(_SMALLEST_BLOCK, fitting // _SMALLEST_BLOCK * _SMALLEST_BLOCK)


@torch.no_grad()
def forward(
    vectors: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    target: Tensor,
    class_weights: Tensor | None,
    *,
    unit_rows: bool,
    temperature: float,
    weighted: bool,
    products: str = "float32",
    block: int | None = None,
) -> Sums:
    """Running log-sum-exp over the classes with the target's score replaced inside it.

    Args:
        vectors: (M, D) float32 or float64, the dtype of everything computed.
        weight: (C, D), any floating dtype, C ≥ 1.
        bias: (C,) or None.
        labels: (M,) int64 in [0, C), or −1 where the sample's class is not among these rows.
        target: (M,) margined scores, divided by the temperature.
        class_weights: (C,) v_j, or None for 1; only used with ``weighted``.
        unit_rows: whether rows are normalised.
        temperature: T > 0.
        weighted: whether Σ_j v_j·z_ij is needed.
        products: how matrices are multiplied; see `Products`.
        block: classes a block, or None for `block_size`.
    """
    inverse_norms = vectors.new_empty(len(weight)) if unit_rows else None
    loop = _Loop(vectors, weight, bias, labels, inverse_norms, temperature, products, block)
    present = labels >= 0
    maximum, total = target.masked_fill(~present, -torch.inf), present.to(target.dtype)
    weighted_scores = torch.zeros_like(target) if weighted else None
    with loop.products.active():
        for part in loop.parts():
            scores = loop.scores(part)
            if weighted_scores is not None:
                loop.set_labels(scores, part, 0.0)
                weighted_scores += scores.sum(1) if class_weights is None else scores @ class_weights[part].to(scores)
            loop.set_labels(scores, part, -torch.inf)
            higher = torch.maximum(maximum, scores.amax(1))
            total *= (maximum - higher).exp_()
            total += scores.sub_(higher.unsqueeze(1)).exp_().sum(1)
            maximum = higher
    if weighted_scores is not None:
        shares = 1 if class_weights is None else class_weights[labels.clamp_min(0)].to(target)
        weighted_scores += torch.where(present, shares * target, 0)
    return Sums(maximum, total.log_(), weighted_scores, inverse_norms)


@torch.no_grad()
def backward(
    vectors: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    class_weights: Tensor | None,
    log_z: Tensor,
    inverse_norms: Tensor | None,
    grad_log: Tensor,
    grad_weighted: Tensor | None,
    *,
    temperature: float,
    products: str = "float32",
    block: int | None = None,
    needs: Needs = ALL,
    weight_gradient: Tensor | None = None,
) -> Gradients:
    """Gradients of Σ_i grad_log_i·log Z_i + grad_weighted_i·Σ_j v_j·z_ij, except along the replaced target scores.

    Scores are recomputed. With g_ij = (grad_log_i·exp(z_ij − log Z_i) + grad_weighted_i·v_j) / T for j ≠ labels_i, and
    0 at the label:

        ∂L/∂x_i = Σ_j g_ij·n_j·w_j
        ∂L/∂w_j = Σ_i g_ij·n_j·x_i − n_j²·(Σ_i g_ij·n_j·s_ij)·w_j
        ∂L/∂b_j = Σ_i g_ij

    The term along w_j is the derivative of the normalisation. A row under the floor is divided by a constant and a row
    that is not unit by nothing; both lack it.

    Args:
        vectors: as in `forward`; likewise ``weight``, ``bias``, ``labels``, ``class_weights``, ``temperature``,
            ``products`` and ``block``.
        log_z: (M,) log Z_i over these classes or over more of them. Only grad_log_i·exp(−log Z_i) matters, and
            (grad_log_i·exp(−log_sum_i), maximum_i) says the same more exactly where log Z_i is large.
        inverse_norms: (C,) from `forward`; None when rows are not unit.
        grad_log: (M,).
        grad_weighted: (M,) or None.
        needs: which gradients to compute.
        weight_gradient: (C, D) memory to write the weight's gradient to, or None for new memory.
    """
    loop = _Loop(vectors, weight, bias, labels, inverse_norms, temperature, products, block)
    grad_vectors = torch.zeros_like(vectors) if needs.vectors else None
    grad_weight = _Output(weight, loop.size, vectors.dtype, weight_gradient) if needs.weight else None
    grad_bias = _Output(bias, loop.size, vectors.dtype) if needs.bias and bias is not None else None
    factor, shift = (grad_log / temperature).unsqueeze(1), log_z.unsqueeze(1)
    with loop.products.active():
        for part in loop.parts():
            rows = loop.rows(part)
            dots = loop.dots(rows)
            gradient = loop.shifted(part, dots, shift).exp_().mul_(factor)
            if grad_weighted is not None:
                v = gradient.new_ones(len(rows)) if class_weights is None else class_weights[part].to(gradient)
                gradient.addr_(grad_weighted / temperature, v)
            loop.set_labels(gradient, part, 0.0)
            if grad_bias is not None:
                torch.sum(gradient, 0, out=grad_bias.open(part))
                grad_bias.close(part)
            along = None if grad_weight is None else loop.along_rows(part, gradient, dots)
            if inverse_norms is not None:
                gradient *= inverse_norms[part]
            loop.products.round_(gradient)
            if grad_weight is not None:
                _write_rows(grad_weight.open(part), gradient, loop.x, rows, along)
                grad_weight.close(part)
            if grad_vectors is not None:
                grad_vectors.addmm_(gradient, rows)
    return Gradients(
        grad_vectors,
        None if grad_weight is None else grad_weight.whole,
        None if grad_bias is None else grad_bias.whole,
    )


class _Loop:
    """Scores block by block. Every large buffer is made once, before the loop."""

    def __init__(
        self,
        vectors: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        inverse_norms: Tensor | None,
        temperature: float,
        products: str,
        block: int | None,
    ) -> None:
        from facemargin.heads.geometry import NORM_FLOOR  # not above: heads import partitions

        samples, dim = vectors.shape
        self._floor = NORM_FLOOR
        self.products = Products(products, vectors)
        self.size = min(block or block_size(samples, dim, vectors.dtype), len(weight))
        self.x = self.products.round_(vectors.clone()) if self.products.rounds else vectors
        self._weight, self._bias, self._inverse_norms, self._temperature = weight, bias, inverse_norms, temperature
        self._first = vectors.new_empty(samples * self.size)
        self._second: Tensor | None = None
        copies = self.products.rounds or weight.dtype != vectors.dtype
        self._rows = vectors.new_empty(self.size, dim) if copies else None
        self._labels, self._samples = labels.sort()
        edges = torch.arange(0, len(weight) + self.size, self.size, device=labels.device)
        self._edges: list[int] = torch.searchsorted(self._labels, edges).tolist()

    def parts(self) -> Iterator[slice]:
        """The blocks, as slices of the classes."""
        for start in range(0, len(self._weight), self.size):
            yield slice(start, min(start + self.size, len(self._weight)))

    def rows(self, part: slice) -> Tensor:
        """(B, D) rows as an operand of products."""
        rows = self._weight[part]
        if self._rows is not None:
            rows = self._rows[: len(rows)].copy_(rows)
        return self.products.round_(rows)

    def dots(self, rows: Tensor) -> Tensor:
        """(M, B) ⟨x_i, w_j⟩ / T; valid until the next call."""
        return self._multiply(rows, self._matrix(len(rows)))

    def scores(self, part: slice) -> Tensor:
        """(M, B) scores divided by the temperature, the target's not replaced; the inverse norms are written."""
        rows = self.rows(part)
        scores = self._matrix(len(rows))
        if self._inverse_norms is None:
            self._multiply(rows, scores)
        else:
            inverse = self._inverse_norms[part]
            for start in range(0, len(rows), _CACHED_ROWS):
                piece = slice(start, start + _CACHED_ROWS)
                self._multiply(rows[piece], scores[:, piece])
                torch.linalg.vector_norm(rows[piece], dim=1, out=inverse[piece])  # from cache, where they are now
            scores *= inverse.clamp_min_(self._floor).reciprocal_()
        return scores if self._bias is None else scores.add_(self._biases(self._bias, part))

    def shifted(self, part: slice, dots: Tensor, shift: Tensor) -> Tensor:
        """(M, B) z_ij − shift_i in another buffer, in one pass over it."""
        if self._second is None:
            self._second = torch.empty_like(self._first)
        out = self._second[: dots.numel()].view_as(dots)
        if self._inverse_norms is None:
            torch.sub(dots, shift, out=out)
        else:
            torch.addcmul(-shift, dots, self._inverse_norms[part], out=out)
        return out if self._bias is None else out.add_(self._biases(self._bias, part))

    def set_labels(self, matrix: Tensor, part: slice, value: float) -> None:
        """Set the entries of a block where the class is the sample's label."""
        number = part.start // self.size
        found = slice(self._edges[number], self._edges[number + 1])
        if found.start < found.stop:
            matrix[self._samples[found], self._labels[found] - part.start] = value

    def along_rows(self, part: slice, gradient: Tensor, dots: Tensor) -> Tensor | None:
        """(B,) n_j²·Σ_i g_ij·n_j·s_ij, 0 under the floor; None where rows are not unit. Overwrites ``dots``."""
        if self._inverse_norms is None:
            return None
        inverse = self._inverse_norms[part]
        floor = inverse.new_full((), self._floor).reciprocal_()
        return torch.where(inverse < floor, dots.mul_(gradient).sum(0) * inverse.pow(3) * self._temperature, 0)

    def _matrix(self, classes: int) -> Tensor:
        return self._first[: len(self.x) * classes].view(len(self.x), classes)

    def _multiply(self, rows: Tensor, out: Tensor) -> Tensor:
        return out.addmm_(self.x, rows.T, beta=0, alpha=1 / self._temperature)

    def _biases(self, bias: Tensor, part: slice) -> Tensor:
        return bias[part].to(self.x.dtype) / self._temperature


class _Output:
    """A parameter's gradient, written block by block in the dtype of the computation."""

    def __init__(self, parameter: Tensor, size: int, dtype: torch.dtype, memory: Tensor | None = None) -> None:
        self.whole = torch.empty_like(parameter) if memory is None else memory
        narrow = parameter.dtype != dtype
        self._wide = parameter.new_empty((size, *parameter.shape[1:]), dtype=dtype) if narrow else None

    def open(self, part: slice) -> Tensor:
        """Where to write a block."""
        return self.whole[part] if self._wide is None else self._wide[: part.stop - part.start]

    def close(self, part: slice) -> None:
        """The block is complete."""
        if self._wide is not None:
            self.whole[part] = narrowed(self.open(part), self.whole.dtype)


def narrowed(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """A gradient in the parameter's dtype, saturated as by `facemargin.heads.geometry.widen`."""
    if gradient.dtype == dtype:
        return gradient
    largest = torch.finfo(dtype).max
    return gradient.clamp(-largest, largest).to(dtype)


def _write_rows(out: Tensor, gradient: Tensor, x: Tensor, rows: Tensor, along: Tensor | None) -> None:
    """out_j = Σ_i gradient_ij·x_i − along_j·rows_j."""
    if along is None:
        torch.mm(gradient.T, x, out=out)
    else:
        torch.mul(rows, along.neg_().unsqueeze(1), out=out)
        out.addmm_(gradient.T, x)
