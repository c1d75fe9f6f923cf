"""How the streaming partition's blocks multiply matrices: in float32, or with operands rounded to bfloat16.

Owns the switch into oneDNN's reduced precision and back, and the rounding that stands in for it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

PRODUCTS = ("float32", "bfloat16")


class Products:
    """Matrix products of one pass over the classes.

    bfloat16 means operands rounded to 8 bits of mantissa and products summed in float32. CPUs that have such products
    (AMX, AVX512-BF16) do the rounding inside oneDNN. Everywhere else operands are rounded first and multiplied in the
    dtype they came in, which gives the same numbers up to rounding in float32, but is slower than float32.

    Args:
        name: ``"float32"`` (the dtype of the operands, so float64 stays float64) or ``"bfloat16"``.
        like: a tensor on the device, and of the dtype, of the operands.
    """

    def __init__(self, name: str, like: Tensor) -> None:
        reduced = name == "bfloat16"
        self._native = reduced and like.is_cpu and like.dtype == torch.float32 and hardware_has_bfloat16()
        self.rounds = reduced and not self._native

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within it float32 products take the hardware's bfloat16, where that is asked for and there.

        The switch is one for the whole process: another thread's products are reduced too in the meantime.
        """
        if not self._native:
            yield
            return
        with _onednn_bfloat16():
            yield

    def round_(self, operand: Tensor) -> Tensor:
        """Round to bfloat16 in place, where the hardware does not."""
        return operand.copy_(operand.bfloat16()) if self.rounds else operand


@lru_cache(maxsize=1)
def hardware_has_bfloat16() -> bool:
    """Whether float32 products on this CPU can be computed from bfloat16 operands with float32 sums.

    Found by trying it: without the hardware oneDNN silently keeps float32. The answer holds for the process.
    """
    if not hasattr(_onednn_matmul(), "fp32_precision"):
        return False
    between = torch.full((64, 64), 1 + 2**-10)  # lies between bfloat16's 1 and 1 + 2**-7
    with _onednn_bfloat16(), torch.autocast("cpu", enabled=False):  # the answer is kept, and must not be autocast's
        return bool((between @ torch.ones(64, 64) == 64).all())


class _Switch:
    """Who is within the reduced precision of the process: the first to enter switches it on, the last to leave off."""

    lock = threading.Lock()
    inside = 0
    before = "none"


@contextmanager
def _onednn_bfloat16() -> Iterator[None]:
    matmul = _onednn_matmul()
    with _Switch.lock:
        if _Switch.inside == 0:
            _Switch.before = _own_precision(matmul)
            matmul.fp32_precision = "bf16"
        _Switch.inside += 1
    try:
        yield
    finally:
        with _Switch.lock:
            _Switch.inside -= 1
            if _Switch.inside == 0:
                matmul.fp32_precision = _Switch.before


def _own_precision(matmul: Any) -> str:
    """What to set again: "none" where it says what the setting above it says, so that it goes on following that."""
    before: str = matmul.fp32_precision
    above: Any = torch.backends.mkldnn
    return "none" if before == above.fp32_precision else before


def _onednn_matmul() -> Any:
    """PyTorch's settings of oneDNN's matrix products; None before PyTorch 2.9."""
    return getattr(torch.backends.mkldnn, "matmul", None)
