"""The angular margin function ψ of L-Softmax and A-Softmax, and their blend with the plain cosine.

Owns ψ, through Chebyshev polynomials for whole m and through the angle for others. Knows nothing of λ's schedule.
"""

import math

import torch
from torch import Tensor

from .geometry import angle


def psi_of_cosine(cosine: Tensor, margin: int) -> Tensor:
    """ψ for a whole m: (−1)^k T_m(c) − 2k, with T_m the Chebyshev polynomial, cos(mθ) = T_m(cosθ).

    k counts the joins cos(jπ/m), j = 1 … m−1, above c. The derivative (−1)^k m U_{m−1}(c) is finite everywhere: m² at
    c = ±1 and 0 at every join, where acos-based forms give NaN.

    Args:
        cosine: (...,) cosines in [−1, 1]; rounding just beyond is harmless.
        margin: m ≥ 1.

    Returns:
        (...,) values in [1 − 2m, 1], falling monotonically as θ grows.

    Source:
        arXiv 1612.02295 eq. (6); arXiv 1704.08063 §3.2.

    >>> psi_of_cosine(torch.tensor([1.0, 0.0, -1.0]), 4).tolist()
    [1.0, -3.0, -7.0]
    """
    before, polynomial = torch.ones_like(cosine), cosine
    for _ in range(margin - 1):
        before, polynomial = polynomial, 2 * cosine * polynomial - before
    joins_passed = torch.zeros_like(cosine)
    for j in range(1, margin):
        joins_passed = joins_passed + (cosine < math.cos(j * math.pi / margin))
    return _unfold(polynomial, joins_passed)


def psi_of_angle(theta: Tensor, margin: float) -> Tensor:
    """ψ for any real m: (−1)^k cos(mθ) − 2k for θ in [kπ/m, (k+1)π/m], k = 0 … ⌈m⌉ − 1.

    Args:
        theta: (...,) angles in radians, in [0, π].
        margin: m ≥ 1.

    Returns:
        (...,) values in [ψ(π), 1].

    Source:
        arXiv 1612.02295 eq. (6), with m real.

    >>> psi_of_angle(torch.tensor([0.0, torch.pi]), 1.5).tolist()
    [1.0, -2.0]
    """
    joins_passed = (theta.detach() * (margin / math.pi)).floor().clamp_max(math.ceil(margin) - 1)
    return _unfold((margin * theta).cos(), joins_passed)


def psi(cosine: Tensor, unit_features: Tensor, unit_rows: Tensor, margin: float) -> Tensor:
    """ψ of the angle between features and class rows: by polynomial for a whole m, by the angle otherwise.

    Args:
        cosine: (...,) their cosines.
        unit_features: (..., D) unit vectors.
        unit_rows: (..., D) unit vectors.
        margin: m ≥ 1.

    Returns:
        (...,) values of ψ.

    >>> x, w = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    >>> psi((x * w).sum(), x, w, 2).item()
    -1.0
    """
    if float(margin).is_integer():
        return psi_of_cosine(cosine, int(margin))
    return psi_of_angle(angle(unit_features, unit_rows), margin)


def _unfold(folded: Tensor, joins_passed: Tensor) -> Tensor:
    """(−1)^k · folded − 2k: mirrors every other piece and hangs it below the one before."""
    sign = 1 - 2 * torch.remainder(joins_passed, 2)
    return sign * folded - 2 * joins_passed
