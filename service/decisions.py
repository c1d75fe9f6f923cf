"""From similarities to decisions with a stated error rate.

Owns how ``max_fmr`` and ``max_fpir`` become a threshold and what is said beside a similarity. A gallery of N templates
is N chances of a false match, so a search at ``max_fpir`` compares at FMR 1 - (1 - max_fpir)^(1/N).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from facemargin.metrics.calibration import Calibration
from service.errors import CalibrationMissingError


@dataclass(frozen=True)
class Criterion:
    """What a similarity is compared with.

    Attributes:
        threshold: a pair matches from this cosine on.
        fmr: the false match rate at the threshold; None where nobody measured it.
        extrapolated: whether that comes from the fitted tail instead of from observed impostors.
    """

    threshold: float
    fmr: float | None
    extrapolated: bool


class Evidence(NamedTuple):
    """What a similarity means: P(same person), and the share of impostors that reach it; None without calibration."""

    probability: float | None
    fmr: float | None


class Decisions:
    """Thresholds of one model.

    Args:
        calibration: of the bundle, or None.
        extrapolate: whether rates below what the data support are answered by the fitted tail.
    """

    def __init__(self, calibration: Calibration | None, *, extrapolate: bool) -> None:
        self.calibration = calibration
        self.extrapolate = extrapolate

    def criterion(self, max_fmr: float, threshold: float | None = None) -> Criterion:
        """The criterion for one comparison; a given threshold goes before the rate.

        Raises:
            CalibrationMissingError: no threshold is given and the bundle has no calibration.
            UnsupportedFmrError: the rate is below what may be answered.
        """
        if threshold is not None:
            return self._given(threshold)
        if self.calibration is None:
            raise CalibrationMissingError(
                "the model has no calibration, so no threshold can be derived from an error rate; "
                "run `facemargin calibrate` on its bundle, or send an explicit 'threshold'"
            )
        found = self.calibration.threshold(max_fmr, extrapolate=self.extrapolate)
        return Criterion(found.value, found.fmr, found.extrapolated)

    def search_criterion(self, max_fpir: float, templates: int, threshold: float | None = None) -> Criterion:
        """The criterion for a search among this many templates.

        Raises:
            CalibrationMissingError, UnsupportedFmrError: as `criterion`.
        """
        return self.criterion(fmr_of_search(max_fpir, max(templates, 1)), threshold)

    def evidence(self, similarity: float) -> Evidence:
        """What a similarity means."""
        if self.calibration is None:
            return Evidence(None, None)
        return Evidence(self.calibration.probability(similarity), self.calibration.fmr(similarity))

    def _given(self, threshold: float) -> Criterion:
        if self.calibration is None:
            return Criterion(threshold, None, extrapolated=False)
        return Criterion(threshold, self.calibration.fmr(threshold), self.calibration.is_extrapolated(threshold))


def fmr_of_search(fpir: float, templates: int) -> float:
    """FMR = 1 - (1 - FPIR)^(1/N), without the loss of digits that the formula as written has for small rates."""
    if templates == 1 or fpir >= 1.0:
        return fpir
    return -math.expm1(math.log1p(-fpir) / templates)


def fpir_of_search(fmr: float, templates: int) -> float:
    """FPIR = 1 - (1 - FMR)^N: the chance that a stranger reaches this similarity with anybody."""
    if templates == 1 or fmr >= 1.0:
        return fmr
    return -math.expm1(templates * math.log1p(-fmr))
