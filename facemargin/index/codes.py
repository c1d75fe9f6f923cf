"""Unit vectors in one byte a component, searched by FAISS; owns what a code means and what is lost by it.

FAISS compares codes of ``QT_8bit_direct`` with integer arithmetic, 1.6 times as fast as it decodes ``QT_8bit``. It
takes components as they are, so the scale is made here: one for all components, since a scale of each is not an L2
distance of integers.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facemargin.index.faiss_library import load_faiss

LEAST_REACH = 3.2
"""Times 1/√D. Clipping to a cube never lengthens a distance, and rounding adds at most 2R/255 to one, R = reach·√D:
codes of two unit vectors are at most 2 + 2R/255 apart. Code 0 is a vertex of the cube, at least R − 1 − R/255 from the
code of a unit vector, and that is more for every R above 3.04: what was zeroed lies behind all that lives."""
_QUANTILE = 0.9999
_MARGIN = 1.1
_SAMPLED_ROWS = 1024
_ROWS_AT_A_TIME = 512


class Quantiser:
    """code = round((clip(x, −reach, reach) + reach) · 255 / (2·reach)), a byte for each component.

    Clipping shortens distances and never lengthens them: a vector with an outlier is not missed for it, it may only be
    looked at in vain by whoever ranks the candidates again.

    Args:
        reach: largest component that is kept.
    """

    def __init__(self, reach: float) -> None:
        self.reach = reach
        self._scale = np.float32(255.0 / (2.0 * reach))

    @classmethod
    def for_vectors(cls, parts: Sequence[NDArray[np.float32]]) -> "Quantiser":
        """Choose the reach by some of (N, D) unit vectors: a little beyond all but one in 10,000 components."""
        step = max(1, sum(map(len, parts)) // _SAMPLED_ROWS)
        sizes = np.concatenate([np.abs(part[::step]).ravel() for part in parts])
        return cls(max(_MARGIN * float(np.quantile(sizes, _QUANTILE)), LEAST_REACH / parts[0].shape[1] ** 0.5))

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Codes of (N, D) vectors."""
        codes = np.empty(vectors.shape, dtype=np.uint8)
        for start in range(0, len(vectors), _ROWS_AT_A_TIME):  # what is in between stays in the processor's cache
            part = vectors[start : start + _ROWS_AT_A_TIME] + np.float32(self.reach)
            part *= self._scale
            np.rint(np.clip(part, 0.0, 255.0, out=part), out=part)
            codes[start : start + _ROWS_AT_A_TIME] = part
        return codes


class Codes:
    """A fixed number of codes that can be searched by many threads, and erased one by one while they search.

    Args:
        codes: (N, D) uint8, copied.
    """

    def __init__(self, codes: NDArray[np.uint8]) -> None:
        faiss = load_faiss()
        self._flat = faiss.IndexScalarQuantizer(codes.shape[1], faiss.ScalarQuantizer.QT_8bit_direct, faiss.METRIC_L2)
        self._flat.add_sa_codes(np.ascontiguousarray(codes))
        memory: NDArray[np.uint8] = faiss.rev_swig_ptr(self._flat.codes.data(), codes.size)
        self.memory = memory.reshape(codes.shape)
        """FAISS's own memory, (N, D)."""

    def nearest(self, queries: NDArray[np.uint8], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Squared distances to the ``count`` nearest codes of each query, and their rows, both (Q, count).

        Args:
            queries: (Q, D) codes.
            count: at most N.
        """
        distances, rows = self._flat.search(queries.astype(np.float32), count)
        return distances, rows

    def erase(self, rows: NDArray[np.int64]) -> None:
        """Overwrite codes with zeros, which are farther from every unit vector than any other (`LEAST_REACH`)."""
        self.memory[rows] = 0
