"""What a gallery's size asks of the false match rate, and that of the data behind a threshold."""

import math

SUPPORT = 30
"""Impostor errors that a threshold needs behind it, as in a bundle's calibration."""


def fmr_for(fpir: float, faces: float) -> float:
    """False match rate of one comparison, so that N independent ones give FPIR: 1 − (1 − FPIR)^(1/N).

    Args:
        fpir: false positive identification rate, in (0, 1).
        faces: N, at least 1.

    Raises:
        ValueError: out of range.

    >>> f"{fmr_for(0.01, 1e9):.2e}"
    '1.01e-11'
    """
    if not 0 < fpir < 1:
        raise ValueError(f"fpir is {fpir}; it must be above 0 and below 1")
    if faces < 1:
        raise ValueError(f"faces is {faces}; it must be at least 1")
    return -math.expm1(math.log1p(-fpir) / faces)


def pairs_for(fmr: float) -> float:
    """Impostor pairs that a threshold at a false match rate needs: `SUPPORT` / FMR."""
    return SUPPORT / fmr


def people_for(pairs: float) -> float:
    """People with one photograph each who make so many pairs: n(n − 1)/2 = pairs."""
    return (1 + math.sqrt(1 + 8 * pairs)) / 2
