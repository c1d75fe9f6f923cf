"""Where the streaming partition writes the weight's gradient: the same memory in every step."""

import threading
import weakref

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_CACHE_LINE = 64


class GradientMemory:
    """Memory for the gradient of one parameter, handed out again as soon as nobody holds what was written last.

    A loop that sets gradients to None frees and allocates 1 GB in every step at C = 500,000, D = 512, and the system
    hands it out page by page as it is first touched: a sixth of the time of a step's matrix products at M = 128
    (measured). So the memory stays here between steps, one gradient and no more: while somebody still holds the last
    one (gradients are being accumulated, or were kept), the next goes to memory of its own, so accumulating takes two
    buffers. It is held as long as this object lives, during evaluation too, or until it is asked for a parameter that
    is not on a CPU, or of another size. Copies and pickles start without any.

    Only for CPUs; CUDA's allocator does the same by itself.

    >>> memory, parameter = GradientMemory(), torch.zeros(3, 2)
    >>> first = memory.like(parameter)
    >>> address = first.data_ptr()
    >>> memory.like(parameter).data_ptr() == address
    False
    >>> del first
    >>> memory.like(parameter).data_ptr() == address
    True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._whole: npt.NDArray[np.uint8] | None = None
        self._handed_out: weakref.ref[npt.NDArray[np.uint8]] | None = None

    def like(self, parameter: Tensor) -> Tensor:
        """Uninitialised memory in the shape, dtype and device of a parameter."""
        if not parameter.is_cpu:
            with self._lock:
                self._whole = self._handed_out = None
            return torch.empty_like(parameter, memory_format=torch.contiguous_format)
        memory = torch.from_numpy(self._part(parameter.numel() * parameter.element_size()))
        return memory.view(parameter.dtype).view(parameter.shape)

    def _part(self, size: int) -> npt.NDArray[np.uint8]:
        """An array that lives exactly as long as the tensors made of it, which is how its end is noticed."""
        with self._lock:
            if self._handed_out is not None and self._handed_out() is not None:
                return _aligned(size)[:]
            if self._whole is None or len(self._whole) != size:
                self._whole = None  # first, so that two never exist at once
                self._whole = _aligned(size)
            part = self._whole[:]
            self._handed_out = weakref.ref(part)
            return part

    def __reduce__(self) -> "tuple[type[GradientMemory], tuple[()]]":
        """Copies and pickles are empty."""
        return GradientMemory, ()


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    """From numpy, which asks Linux for huge pages."""
    memory = np.empty(size + _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + size]
