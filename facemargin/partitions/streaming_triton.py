"""The sums of the streaming partition as Triton kernels, for CUDA. Nothing of size M×C and no normalised W ever exists.

Owns the kernels and how they are launched. Knows nothing of heads, margins or autograd: `forward` and `backward` are
the two halves that ``streaming`` puts into an autograd function. Importing this module needs the package triton.

With s_ij = ⟨x_i, w_j⟩ and n_j = 1 / max(‖w_j‖, NORM_FLOOR) (1 where rows are not unit), z_ij = (s_ij·n_j + b_j) / T.

*Forward*: 2·M·C·D operations. Each program takes one tile of samples and every S-th tile of classes and keeps a running
maximum and sum; the S partial results of a sample are combined at the end.

*Backward*: 6·M·C·D operations, 8 together with the forward's, which is the least that recomputation allows. It walks
over blocks of classes, small enough that all of a block's data fit the L2 cache, in three steps:

1. ``_score_gradients_kernel`` recomputes z and writes g_ij = n_j·(∂L/∂z_ij) / T for the block, with the column sums
   ∂L/∂b_j = Σ_i g_ij / n_j and a_j = n_j²·Σ_i g_ij·s_ij;
2. ``_weight_gradient_kernel`` writes the block's final gradient, ∂L/∂w_j = Σ_i g_ij·x_i − a_j·w_j. This is the whole
   derivative of the normalisation, since a_j·w_j is the part of n_j·d_j along w_j; under the floor a_j = 0;
3. ``_vector_gradient_kernel`` adds Σ_j g_ij·w_j to partial sums of ∂L/∂x_i, one for each of a few shares of the block.

One kernel that does all three for a tile of classes would save the round trip of g through the cache, but must hold a
tile of D columns in accumulators, which for D = 512 leaves too few registers, and can only sum ∂L/∂x by float atomics
or by a second recomputation. Here every float is added in a fixed order: equal inputs give equal bits on the same GPU.

Extra memory: about `_BLOCK_BYTES` each for g, for the block's rows where they must be converted, and for the partial
sums, however large C is; counted for M = 1024, D = 512, float32 rows and bfloat16 products, 43 MB. A block is at least
one tile of classes: beyond M = 32,768 samples in float32, 65,536 in bfloat16, g grows with M.

Tiles were chosen by arithmetic for an H200 (132 multiprocessors, 227 KB of shared memory each, 50 MB of L2). They need
64 KB of shared memory in float32 and 144 KB in bfloat16; a GPU that has less is refused by `fits`, and ``streaming``
runs its blocks there. No GPU was available: the results were tested in Triton's interpreter, the kernels were compiled
for sm_90, and neither speed nor memory was measured on one.
"""
# The kernels' arguments are pointers and constants of Triton's own language, and triton has no types.
# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator, no-untyped-def"

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from facemargin.heads.geometry import NORM_FLOOR

from .streaming_blocks import ALL, Gradients, Needs, Sums

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError(
        "facemargin.partitions.streaming_triton needs the package triton, which is not installed; "
        "use the PyTorch blocks of the streaming partition instead"
    ) from error

_BLOCK_BYTES = 16 * 2**20
_MOST_CLASSES = 2**18  # a block has at most this many classes: a grid's second axis ends at 65,535 tiles

_INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
_SMALLEST_SQUARE = tl.constexpr(NORM_FLOOR**2)
_LARGEST_INVERSE = tl.constexpr(1 / NORM_FLOOR)
_LARGEST_HALF = tl.constexpr(65504.0)


class _Tile(NamedTuple):
    """One program's share of a matrix product, and how it is launched."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def options(self) -> dict[str, Any]:
        """What every kernel with products takes. Fusion into multiply-adds is named: triton's default changes."""
        return {"DEPTH": self.depth, "num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}

    def shared_memory(self, dtype: torch.dtype) -> int:
        """Bytes: the operands of all stages, or the float32 result on its way to memory, which may come after them."""
        operands = self.stages * (self.rows + self.columns) * self.depth * dtype.itemsize
        return max(operands, 4 * self.rows * self.columns)


class _Products(NamedTuple):
    """How products are computed.

    Attributes:
        dtype: of the operands.
        scores: tile of samples × classes; exponentials follow the product, so two programs share a multiprocessor and
            one's exponentials overlap the other's products.
        gradients: tile of classes or samples × dimensions; products only, so one large tile a multiprocessor.
    """

    dtype: torch.dtype
    scores: _Tile
    gradients: _Tile


_PRODUCTS = {
    "float32": _Products(torch.float32, _Tile(128, 128, 16, 8, 3), _Tile(128, 128, 16, 8, 3)),
    "bfloat16": _Products(torch.bfloat16, _Tile(128, 128, 64, 4, 3), _Tile(128, 256, 64, 8, 3)),
}
_INTERPRETER_TILE = _Tile(16, 32, 16, 1, 1)  # small, so that small shapes meet several tiles and ragged ends


@triton.jit
def _product(left, right, total):
    """total + left @ right, accumulated in float32."""
    if _INTERPRETED:  # whose dot takes bfloat16 for integers; their products are exact in float32
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def _rounded(values, dtype: tl.constexpr):
    """Float32 values in ``dtype``, rounded to nearest even."""
    if _INTERPRETED and dtype == tl.bfloat16:  # the interpreter cuts the digits off
        bits = values.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        values = bits.to(tl.float32, bitcast=True)
    return values.to(dtype)


@triton.jit
def _prepare_rows_kernel(weight, converted, inverse_norms, classes, dim, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """Rows in the products' dtype, unless ``converted`` is None, and the inverse norms of these, unless None.

    The norms are those of the rounded rows, so that a unit row has length 1 in the products as well.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    base = row.to(tl.int64)[:, None] * dim
    squared = tl.zeros([ROWS], tl.float32)
    for start in range(0, dim, DEPTH):
        column = start + tl.arange(0, DEPTH)
        inside = (row < classes)[:, None] & (column < dim)[None, :]
        values = tl.load(weight + base + column[None, :], mask=inside, other=0.0).to(tl.float32)
        if converted is not None:
            narrow = _rounded(values, converted.dtype.element_ty)
            tl.store(converted + base + column[None, :], narrow, mask=inside)
            values = narrow.to(tl.float32)
        squared += tl.sum(values * values, axis=1)
    if inverse_norms is not None:
        floored = squared <= _SMALLEST_SQUARE
        inverse = tl.where(floored, _LARGEST_INVERSE, 1.0 / tl.sqrt(tl.where(floored, 1.0, squared)))
        tl.store(inverse_norms + row, inverse, mask=row < classes)


@triton.jit
def _dots(
    vectors,
    rows,
    sample,
    cls,
    samples,
    classes,
    dim,
    SAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """s_ij = ⟨x_i, w_j⟩ for one tile, 0 outside."""
    left = vectors + sample.to(tl.int64)[:, None] * dim
    right = rows + cls.to(tl.int64)[None, :] * dim
    dots = tl.zeros([SAMPLES, CLASSES], tl.float32)
    for start in range(0, dim, DEPTH):
        column = start + tl.arange(0, DEPTH)
        x = tl.load(left + column[None, :], mask=(sample < samples)[:, None] & (column < dim)[None, :], other=0.0)
        w = tl.load(right + column[:, None], mask=(column < dim)[:, None] & (cls < classes)[None, :], other=0.0)
        dots = _product(x, w, dots)
    return dots


@triton.jit
def _scores(dots, inverse_norms, bias, cls, classes, inverse_temperature):
    """z_ij = (s_ij·n_j + b_j) / T for one tile, 0 outside."""
    known = cls < classes
    scale = tl.full(cls.shape, inverse_temperature, tl.float32)
    if inverse_norms is not None:
        scale *= tl.load(inverse_norms + cls, mask=known, other=0.0)
    scores = dots * scale[None, :]
    if bias is not None:
        scores += (tl.load(bias + cls, mask=known, other=0.0).to(tl.float32) * inverse_temperature)[None, :]
    return scores


@triton.jit
def _sums_kernel(
    vectors,
    rows,
    inverse_norms,
    bias,
    labels,
    target,
    class_weights,
    maxima,
    sums,
    weighted_sums,
    samples,
    classes,
    dim,
    first,
    inverse_temperature,
    SAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Carry the partial maximum, sum and weighted sum of one tile of samples over a share of a block's classes."""
    sample = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    inside = sample < samples
    label = (tl.load(labels + sample, mask=inside, other=-1) - first).to(tl.int32)
    replaced = tl.load(target + sample, mask=inside, other=0.0)
    state = tl.program_id(1) * samples + sample
    maximum = tl.load(maxima + state, mask=inside, other=float("-inf"))
    total = tl.load(sums + state, mask=inside, other=0.0)
    if weighted_sums is not None:
        weighted = tl.load(weighted_sums + state, mask=inside, other=0.0)
    # Neighbouring programs take the same classes at the same time: the rows are read once from memory, then from L2.
    for tile in range(tl.program_id(1), tl.cdiv(classes, CLASSES), tl.num_programs(1)):
        cls = tile * CLASSES + tl.arange(0, CLASSES)
        known = (cls < classes)[None, :]
        dots = _dots(vectors, rows, sample, cls, samples, classes, dim, SAMPLES, CLASSES, DEPTH)
        scores = _scores(dots, inverse_norms, bias, cls, classes, inverse_temperature)
        scores = tl.where(cls[None, :] == label[:, None], replaced[:, None], scores)
        if weighted_sums is not None:
            counted = tl.where(known, scores, 0.0)
            if class_weights is not None:
                counted *= tl.load(class_weights + cls, mask=cls < classes, other=0.0).to(tl.float32)[None, :]
            weighted += tl.sum(counted, axis=1)
        scores = tl.where(known, scores, float("-inf"))
        larger = tl.maximum(maximum, tl.max(scores, axis=1))
        shift = tl.where(larger == float("-inf"), 0.0, larger)  # −∞ − (−∞) would be NaN
        total = total * tl.exp(maximum - shift) + tl.sum(tl.exp(scores - shift[:, None]), axis=1)
        maximum = larger
    tl.store(maxima + state, maximum, mask=inside)
    tl.store(sums + state, total, mask=inside)
    if weighted_sums is not None:
        tl.store(weighted_sums + state, weighted, mask=inside)


@triton.jit
def _score_gradients_kernel(
    vectors,
    rows,
    inverse_norms,
    bias,
    labels,
    class_weights,
    log_z,
    grad_log,
    grad_weighted,
    gradients,
    along,
    bias_gradients,
    samples,
    classes,
    dim,
    width,
    first,
    inverse_temperature,
    SAMPLES: tl.constexpr,
    CLASSES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """One tile of g (samples, width), and its column sums Σ_i g_ij·s_ij and Σ_i g_ij / n_j (sample tiles, width)."""
    sample = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    cls = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    inside = sample < samples
    known = cls < classes
    dots = _dots(vectors, rows, sample, cls, samples, classes, dim, SAMPLES, CLASSES, DEPTH)
    scores = _scores(dots, inverse_norms, bias, cls, classes, inverse_temperature)
    log_p = scores - tl.load(log_z + sample, mask=inside, other=0.0)[:, None]
    gradient = tl.load(grad_log + sample, mask=inside, other=0.0)[:, None] * tl.exp(log_p)
    if grad_weighted is not None:
        share = tl.load(grad_weighted + sample, mask=inside, other=0.0)[:, None]
        if class_weights is not None:
            share = share * tl.load(class_weights + cls, mask=known, other=0.0).to(tl.float32)[None, :]
        gradient += share
    # The label's plain score may lie far above log Z, which holds the margined one: where, never a product with 0.
    label = (tl.load(labels + sample, mask=inside, other=-1) - first).to(tl.int32)
    kept = inside[:, None] & known[None, :] & (cls[None, :] != label[:, None])
    gradient = tl.where(kept, gradient * inverse_temperature, 0.0)
    column = tl.program_id(0) * width + cls
    if bias_gradients is not None:
        tl.store(bias_gradients + column, tl.sum(gradient, axis=0), mask=known)
    if inverse_norms is not None:
        gradient *= tl.load(inverse_norms + cls, mask=known, other=0.0)[None, :]
    narrow = _rounded(gradient, gradients.dtype.element_ty)
    if along is not None:  # of the rounded g, so that what leaves the sum along w_j is what entered it
        tl.store(along + column, tl.sum(narrow.to(tl.float32) * dots, axis=0), mask=known)
    tl.store(gradients + sample[:, None] * width + cls[None, :], narrow, mask=inside[:, None] & known[None, :])


@triton.jit
def _weight_gradient_kernel(
    gradients,
    vectors,
    rows,
    inverse_norms,
    along,
    grad_weight,
    samples,
    classes,
    dim,
    width,
    sample_tiles,
    CLASSES: tl.constexpr,
    DIMS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """∂L/∂w_j = Σ_i g_ij·x_i − a_j·w_j for one tile of classes × dimensions."""
    cls = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    column = tl.program_id(0) * DIMS + tl.arange(0, DIMS)
    known = cls < classes
    total = tl.zeros([CLASSES, DIMS], tl.float32)
    for start in range(0, samples, DEPTH):
        sample = start + tl.arange(0, DEPTH)
        inside = sample < samples
        offsets = sample[None, :] * width + cls[:, None]
        g = tl.load(gradients + offsets, mask=inside[None, :] & known[:, None], other=0.0)
        offsets = sample.to(tl.int64)[:, None] * dim + column[None, :]
        x = tl.load(vectors + offsets, mask=inside[:, None] & (column < dim)[None, :], other=0.0)
        total = _product(g, x, total)
    place = cls.to(tl.int64)[:, None] * dim + column[None, :]
    mask = known[:, None] & (column < dim)[None, :]
    if inverse_norms is not None:
        part = tl.zeros([CLASSES], tl.float32)
        for tile in range(0, sample_tiles):
            part += tl.load(along + tile * width + cls, mask=known, other=0.0)
        inverse = tl.load(inverse_norms + cls, mask=known, other=0.0)
        part = tl.where(inverse < _LARGEST_INVERSE, part * inverse * inverse, 0.0)
        total -= part[:, None] * tl.load(rows + place, mask=mask, other=0.0).to(tl.float32)
    if grad_weight.dtype.element_ty == tl.float16:
        total = tl.clamp(total, -_LARGEST_HALF, _LARGEST_HALF, propagate_nan=tl.PropagateNan.ALL)
    tl.store(grad_weight + place, _rounded(total, grad_weight.dtype.element_ty), mask=mask)


@triton.jit
def _vector_gradient_kernel(
    gradients,
    rows,
    partials,
    samples,
    classes,
    dim,
    width,
    SAMPLES: tl.constexpr,
    DIMS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Add Σ_j g_ij·w_j over a share of the block's classes to one tile of that share's partial sum."""
    sample = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    column = tl.program_id(1) * DIMS + tl.arange(0, DIMS)
    inside = sample < samples
    place = (tl.program_id(2).to(tl.int64) * samples + sample)[:, None] * dim + column[None, :]
    mask = inside[:, None] & (column < dim)[None, :]
    total = tl.load(partials + place, mask=mask, other=0.0)
    for start in range(tl.program_id(2) * DEPTH, classes, tl.num_programs(2) * DEPTH):
        cls = start + tl.arange(0, DEPTH)
        known = cls < classes
        offsets = sample[:, None] * width + cls[None, :]
        g = tl.load(gradients + offsets, mask=inside[:, None] & known[None, :], other=0.0)
        offsets = cls.to(tl.int64)[:, None] * dim + column[None, :]
        w = tl.load(rows + offsets, mask=known[:, None] & (column < dim)[None, :], other=0.0)
        total = _product(g, w, total)
    tl.store(partials + place, total, mask=mask)


def fits(device: torch.device, products: str) -> bool:
    """Whether a program of the device can have the shared memory that the tiles need."""
    how = _PRODUCTS[products]
    needed = max(tile.shared_memory(how.dtype) for tile in (how.scores, how.gradients))
    return needed <= _most_shared_memory(device)


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
) -> Sums:
    """Running log-sum-exp over the classes with the target's score replaced inside it.

    z_ij = (⟨x_i, r_j⟩ + b_j) / T with r_j = w_j, or w_j / max(‖w_j‖, NORM_FLOOR) for unit rows; z_ij = target_i where
    j = labels_i.

    Args:
        vectors: (M, D) float32.
        weight: (C, D) float32, bfloat16 or float16, contiguous.
        bias: (C,) or None.
        labels: (M,) int64 in [0, C), or −1 where the sample's class is not among these rows.
        target: (M,) float32 margined scores, divided by the temperature.
        class_weights: (C,) v_j, or None for 1; only used with ``weighted``.
        unit_rows: whether rows are normalised.
        temperature: T > 0.
        weighted: whether Σ_j v_j·z_ij is needed.
        products: dtype of the operands of matrix products, ``"float32"`` or ``"bfloat16"``. Sums, exponentials and
            logarithms are float32 always.

    Raises:
        ValueError: ``products`` is unknown, ``weight`` is not contiguous, or the tensors are not on a GPU.
    """
    how = _how(vectors, weight, products)
    x, labels, target = vectors.to(how.dtype).contiguous(), labels.contiguous(), target.float().contiguous()
    samples, dim = x.shape
    tile = how.scores._replace(depth=_fitted(how.scores.depth, dim))
    rows = _Rows(weight, how.dtype, most=len(weight))
    inverse_norms = x.new_empty(len(weight), dtype=torch.float32) if unit_rows else None
    sample_tiles, shares = triton.cdiv(samples, tile.rows), triton.cdiv(rows.block, tile.columns)
    shares = _shares(2 * _processors(x), sample_tiles, most=shares)
    maxima = x.new_full((shares, samples), -torch.inf, dtype=torch.float32)
    sums = torch.zeros_like(maxima)
    weighted_sums = torch.zeros_like(maxima) if weighted else None
    with _device_of(x):
        for block in rows.blocks():
            block_norms = _part(inverse_norms, block)
            block_rows = rows.prepare(block, block_norms)
            if samples == 0:
                continue
            _sums_kernel[sample_tiles, shares](
                x,
                block_rows,
                block_norms,
                _part(bias, block),
                labels,
                target,
                _part(class_weights, block),
                maxima,
                sums,
                weighted_sums,
                samples,
                len(block_rows),
                dim,
                block.start,
                1 / temperature,
                SAMPLES=tile.rows,
                CLASSES=tile.columns,
                **tile.options(),
            )
    return _combined(maxima, sums, weighted_sums, inverse_norms)


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
    needs: Needs = ALL,
) -> Gradients:
    """Gradients of Σ_i grad_log_i·log Z_i + grad_weighted_i·Σ_j v_j·z_ij, except along the replaced target scores.

    ∂L/∂z_ij = grad_log_i·exp(z_ij − log Z_i) + grad_weighted_i·v_j for j ≠ labels_i, and 0 at the label. Scores are
    recomputed; each block of the weight's gradient is written once.

    Args:
        vectors: as in `forward`; likewise ``weight``, ``bias``, ``labels``, ``class_weights``, ``temperature`` and
            ``products``.
        log_z: (M,) float32, maximum + log_sum, over these classes or over more of them.
        inverse_norms: (C,) from `forward`; None when rows are not unit.
        grad_log: (M,) float32.
        grad_weighted: (M,) float32 or None.
        needs: which gradients to compute; a kernel that serves none of them is not launched.

    Raises:
        ValueError: as in `forward`.
    """
    how = _how(vectors, weight, products)
    if len(vectors) == 0 or len(weight) == 0:
        return Gradients(
            torch.zeros_like(vectors, dtype=torch.float32) if needs.vectors else None,
            torch.zeros_like(weight) if needs.weight else None,
            torch.zeros_like(bias) if needs.bias and bias is not None else None,
        )
    x, labels = vectors.to(how.dtype).contiguous(), labels.contiguous()
    per_sample = [None if one is None else one.float().contiguous() for one in (log_z, grad_log, grad_weighted)]
    samples, dim = x.shape
    scores = how.scores._replace(depth=_fitted(how.scores.depth, dim))
    product = how.gradients._replace(columns=_fitted(how.gradients.columns, dim))
    most = min(_MOST_CLASSES, _BLOCK_BYTES // (samples * how.dtype.itemsize))
    rows = _Rows(weight, how.dtype, most=most, multiple=scores.columns)
    sample_tiles = triton.cdiv(samples, scores.rows)
    tiles = (triton.cdiv(samples, product.rows), triton.cdiv(dim, product.columns))
    shares = _shares(_processors(x), tiles[0] * tiles[1], most=triton.cdiv(rows.block, product.depth))
    gradients = x.new_empty((samples, rows.block))
    column_sums = partial(x.new_empty, (sample_tiles, rows.block), dtype=torch.float32)
    along = column_sums() if needs.weight and inverse_norms is not None else None
    grad_bias = torch.empty_like(bias) if needs.bias and bias is not None else None
    bias_sums = None if grad_bias is None else column_sums()
    grad_weight = torch.empty_like(weight) if needs.weight else None
    partials = x.new_zeros((shares, samples, dim), dtype=torch.float32) if needs.vectors else None
    with _device_of(x):
        for block in rows.blocks():
            block_norms = _part(inverse_norms, block)
            block_rows = rows.prepare(block, None)
            sizes = (samples, len(block_rows), dim, rows.block)
            _score_gradients_kernel[sample_tiles, triton.cdiv(len(block_rows), scores.columns)](
                x,
                block_rows,
                block_norms,
                _part(bias, block),
                labels,
                _part(class_weights, block),
                *per_sample,
                gradients,
                along,
                bias_sums,
                *sizes,
                block.start,
                1 / temperature,
                SAMPLES=scores.rows,
                CLASSES=scores.columns,
                **scores.options(),
            )
            if grad_bias is not None and bias_sums is not None:
                grad_bias[block] = bias_sums[:, : len(block_rows)].sum(0)
            if grad_weight is not None:
                _weight_gradient_kernel[tiles[1], triton.cdiv(len(block_rows), product.rows)](
                    gradients,
                    x,
                    block_rows,
                    block_norms,
                    along,
                    grad_weight[block],
                    *sizes,
                    sample_tiles,
                    CLASSES=product.rows,
                    DIMS=product.columns,
                    **product.options(),
                )
            if partials is not None:
                _vector_gradient_kernel[*tiles, shares](
                    gradients,
                    block_rows,
                    partials,
                    *sizes,
                    SAMPLES=product.rows,
                    DIMS=product.columns,
                    **product.options(),
                )
    return Gradients(None if partials is None else partials.sum(0), grad_weight, grad_bias)


class _Rows:
    """The rows of the weight, block by block, in the dtype of the products."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, *, most: int, multiple: int = 1) -> None:
        self._weight = weight
        self._converted = weight.dtype != dtype
        if self._converted:
            most = min(most, _BLOCK_BYTES // (max(weight.shape[1], 1) * dtype.itemsize))
        whole = triton.cdiv(max(len(weight), 1), multiple)
        self.block = multiple * max(1, min(most // multiple, whole))
        shape = (self.block if self._converted else 0, weight.shape[1])
        self._buffer = torch.empty(shape, dtype=dtype, device=weight.device)

    def blocks(self) -> Iterator[slice]:
        """Slices of consecutive classes."""
        classes = len(self._weight)
        return (slice(start, min(start + self.block, classes)) for start in range(0, classes, self.block))

    def prepare(self, block: slice, inverse_norms: Tensor | None) -> Tensor:
        """The block's rows, converted if they must be; fills ``inverse_norms``."""
        rows = self._weight[block]
        buffer = self._buffer[: len(rows)] if self._converted else None
        if buffer is not None or inverse_norms is not None:
            count, dim = rows.shape
            options = {"ROWS": 16, "DEPTH": _fitted(512, dim), "num_warps": 4, "enable_fp_fusion": True}
            _prepare_rows_kernel[triton.cdiv(count, 16),](rows, buffer, inverse_norms, count, dim, **options)
        return rows if buffer is None else buffer


def _how(vectors: Tensor, weight: Tensor, products: str) -> _Products:
    if products not in _PRODUCTS:
        raise ValueError(f"products={products!r} is unknown; known are: {', '.join(_PRODUCTS)}")
    if not weight.is_contiguous():
        raise ValueError(f"weight must be contiguous, its strides are {weight.stride()}: use weight.contiguous()")
    how = _PRODUCTS[products]
    if vectors.is_cuda:
        return how
    if not _INTERPRETED.value:
        raise ValueError(f"vectors are on {vectors.device}, the Triton kernels need cuda: use the PyTorch blocks there")
    return how._replace(scores=_INTERPRETER_TILE, gradients=_INTERPRETER_TILE)


def _device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which may be another one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _fitted(size: int, dim: int) -> int:
    """The tile's size, or less where the dimension is smaller; never under 16, the least `tl.dot` takes."""
    return min(size, max(16, int(triton.next_power_of_2(dim))))


def _processors(tensor: Tensor) -> int:
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count if tensor.is_cuda else 4


def _most_shared_memory(device: torch.device) -> int:
    most: int = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    return most


def _shares(programs: int, tiles: int, *, most: int) -> int:
    """In how many shares the classes are split, so that there are about ``programs`` programs."""
    return max(1, min(programs // max(tiles, 1), most))


def _part(values: Tensor | None, block: slice) -> Tensor | None:
    return None if values is None else values[block]


def _combined(maxima: Tensor, sums: Tensor, weighted: Tensor | None, inverse_norms: Tensor | None) -> Sums:
    maximum = maxima.amax(0)
    factors = (maxima - maximum.clamp_min(torch.finfo(torch.float32).min)).exp()
    log_sum = (sums * factors).sum(0).log()
    return Sums(maximum, log_sum, None if weighted is None else weighted.sum(0), inverse_norms)
