"""What a cosine means: P(same | cosine), the false match rate of a threshold, and the threshold of a false match rate.

A `Calibration` is fitted to all pairs of people the model never saw and travels in the bundle's manifest as JSON. Owns
the three maps and how far each may be trusted; `facemargin.metrics.tail` has the mathematics beyond the observed
impostors. A pair is accepted when cosine >= threshold.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from facemargin.errors import CalibrationError, UnsupportedFmrError
from facemargin.metrics.logistic import fit_logistic
from facemargin.metrics.pairs import all_pairs
from facemargin.metrics.scores import Scores, as_scores, just_above
from facemargin.metrics.tail import Tail, fit_tail
from facemargin.metrics.verification import SUPPORTING_ERRORS, allowed_errors

ROW_FMRS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""False match rates of the manifest's impostor table."""

SMALLEST_FMR = 1e-12
"""No FMR below this is ever stated or accepted: the tail is a model, not evidence of impossibility."""

MIN_GENUINE_PAIRS = 10
MIN_IMPOSTOR_PAIRS = 300  # so that the first row, FMR 1e-1, stands on 30 errors

_UPPER_KNOTS = (1.0, 0.999, 0.99, 0.975, 0.95, *(k / 20 for k in range(18, 2, -1)))
_KNOTS_PER_DECADE = 20
_JSON = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Threshold(NamedTuple):
    """A cosine to compare with, the FMR it stands for, and whether that comes from the fitted tail."""

    value: float
    fmr: float
    extrapolated: bool


class ThresholdRow(BaseModel):
    """One line of the impostor table.

    Attributes:
        fmr: the bound.
        threshold: the smallest float32 number that at most fmr * impostor_pairs impostor cosines reach.
        impostor_pairs: impostor pairs behind the row.
        people: people behind those pairs.
        errors: impostor cosines >= threshold.
        supported: errors >= 30.
    """

    model_config = _JSON

    fmr: float = Field(gt=0, le=1)
    threshold: float
    impostor_pairs: int = Field(ge=1)
    people: int = Field(ge=2)
    errors: int = Field(ge=0)
    supported: bool


class ImpostorCurve(BaseModel):
    """The impostor distribution as a table, about 20 points per decade down to the last FMR that 30 errors support.

    Attributes:
        cosines: non-decreasing; a repeated value is a jump, at tied impostors.
        fmrs: strictly decreasing, from 1; at most `fmr` of the impostors reach the cosine beside it.
    """

    model_config = _JSON

    cosines: tuple[float, ...] = Field(min_length=2)
    fmrs: tuple[float, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _is_a_curve(self) -> Self:
        if len(self.cosines) != len(self.fmrs):
            raise ValueError(f"cosines and fmrs must be equally long, got {len(self.cosines)} and {len(self.fmrs)}")
        if any(later < earlier for earlier, later in pairwise(self.cosines)):
            raise ValueError("cosines must not decrease")
        if any(later >= earlier for earlier, later in pairwise(self.fmrs)) or self.fmrs[0] != 1 or self.fmrs[-1] <= 0:
            raise ValueError("fmrs must decrease strictly, from 1, and stay above 0")
        return self

    def fmr(self, cosine: float) -> float:
        """FMR between the points by straight lines of log FMR over the cosine; at a jump, the lower value."""
        after = int(np.searchsorted(self.cosines, cosine, side="right"))
        if after == 0:
            return 1.0
        if after == len(self.cosines):
            return self.fmrs[-1]
        left, right = self.cosines[after - 1], self.cosines[after]
        share = (cosine - left) / (right - left)
        low, high = math.log(self.fmrs[after]), math.log(self.fmrs[after - 1])
        return math.exp(high + share * (low - high))

    def threshold(self, fmr: float) -> float:
        """The inverse of `fmr` for an FMR within the table."""
        return float(np.interp(-np.log(fmr), -np.log(self.fmrs), self.cosines))


class Calibration(BaseModel):
    """Everything a service needs to turn a cosine of one model into words.

    P(same | c) = 1 / (1 + exp(-(slope c + intercept))) at the stated prior P(same).

    Attributes:
        slope: >= 0, so that the probability never falls as the cosine rises.
        intercept: of the logistic curve.
        prior: P(same) that the probability assumes, in (0, 1).
        genuine_pairs: pairs of one person behind the fit.
        impostor_pairs: pairs of two people.
        people: number of people.
        rows: the impostor table at FMR 1e-1 … 1e-6.
        curve: the whole impostor distribution as far as it is supported.
        tail: the model beyond, or None where none could be fitted.
        source: whose photographs these were, in words.
    """

    model_config = _JSON

    slope: float = Field(ge=0)
    intercept: float
    prior: float = Field(gt=0, lt=1)
    genuine_pairs: int = Field(ge=1)
    impostor_pairs: int = Field(ge=1)
    people: int = Field(ge=2)
    rows: tuple[ThresholdRow, ...]
    curve: ImpostorCurve
    tail: Tail | None
    source: str

    @property
    def smallest_supported_fmr(self) -> float:
        """The lowest FMR that at least 30 impostor errors stand behind."""
        return self.curve.fmrs[-1]

    def probability(self, cosine: float) -> float:
        """P(same | cosine) at the stated prior.

        Raises:
            ValueError: a cosine that is not finite.
        """
        z = self.slope * _finite(cosine) + self.intercept
        return 1.0 / (1.0 + math.exp(-z)) if z >= 0 else math.exp(z) / (1.0 + math.exp(z))

    def fmr(self, cosine: float) -> float:
        """Share of impostor pairs that reach this cosine: 1 at the lowest observed, never below 1e-12.

        From the observed impostors as far as 30 of them reach, from the fitted tail beyond; where there is no tail, the
        smallest supported FMR, which is then an upper bound. Monotone, and continuous where the two meet.

        Raises:
            ValueError: a cosine that is not finite.
        """
        if self.tail is None or not self.is_extrapolated(cosine):
            return self.curve.fmr(_finite(cosine))
        return max(SMALLEST_FMR, self.smallest_supported_fmr * self.tail.survival(cosine))

    def is_extrapolated(self, cosine: float) -> bool:
        """Whether the FMR at this cosine lies beyond what the impostors support."""
        return _finite(cosine) > self.curve.cosines[-1]

    def threshold(self, max_fmr: float, *, extrapolate: bool) -> Threshold:
        """The cosine from which on a pair may be accepted at this false match rate.

        Args:
            max_fmr: the bound, in (0, 1].
            extrapolate: whether the fitted tail may be used beyond the supported table.

        Raises:
            ValueError: a max_fmr outside (0, 1].
            UnsupportedFmrError: beyond the table without permission or without a tail, or below 1e-12.
        """
        if not 0.0 < max_fmr <= 1.0:
            raise ValueError(f"max_fmr must be in (0, 1], got {max_fmr}")
        if max_fmr >= self.smallest_supported_fmr:
            value = self.curve.threshold(max_fmr)
            return Threshold(value, min(max_fmr, self.curve.fmr(value)), extrapolated=False)
        if self.tail is None or not extrapolate:
            raise UnsupportedFmrError(max_fmr, self.smallest_supported_fmr)
        if max_fmr < SMALLEST_FMR:
            raise UnsupportedFmrError(max_fmr, SMALLEST_FMR)
        return Threshold(self.tail.quantile(max_fmr / self.smallest_supported_fmr), max_fmr, extrapolated=True)


def calibrate(
    embeddings: NDArray[np.floating[Any]], people: Sequence[str], *, prior: float = 0.5, source: str
) -> Calibration:
    """Fit a `Calibration` to all pairs of a set of photographs; every pair weighs the same within its kind.

    Args:
        embeddings: (N, D) unit rows of people in neither training nor test.
        people: N names.
        prior: P(same) that the probability shall assume, in (0, 1).
        source: whose photographs these are, for the manifest.

    Raises:
        ValueError: embeddings, people or prior of the wrong form.
        CalibrationError: too few pairs of a kind, or cosines that are all equal.
    """
    scores = all_pairs(embeddings, people)
    return calibrate_scores(scores.genuine, scores.impostor, people=len(set(people)), prior=prior, source=source)


def calibrate_scores(genuine: Scores, impostor: Scores, *, people: int, prior: float = 0.5, source: str) -> Calibration:
    """Fit a `Calibration` to similarities; as `calibrate`, for pairs that were chosen elsewhere.

    Raises:
        ValueError: similarities that are not finite or a prior outside (0, 1).
        CalibrationError: too few pairs of a kind, or cosines that are all equal.
    """
    for kind, found, needed in (
        ("pairs of one person", len(genuine), MIN_GENUINE_PAIRS),
        ("pairs of two people", len(impostor), MIN_IMPOSTOR_PAIRS),
    ):
        if found < needed:
            raise CalibrationError(f"calibration needs at least {needed} {kind}, these photographs make {found}")
    slope, intercept = fit_logistic(as_scores("genuine", genuine), as_scores("impostor", impostor), prior=prior)
    ordered = np.sort(as_scores("impostor", impostor))
    curve = _impostor_curve(ordered)
    return Calibration(
        slope=slope,
        intercept=intercept,
        prior=prior,
        genuine_pairs=len(genuine),
        impostor_pairs=len(impostor),
        people=people,
        rows=tuple(_row(ordered, fmr, people) for fmr in ROW_FMRS),
        curve=curve,
        tail=fit_tail(ordered, start=curve.cosines[-1]),
        source=source,
    )


def _impostor_curve(ordered: Scores) -> ImpostorCurve:
    """The table: thresholds at FMRs that get denser towards 0, down to the last with 30 allowed errors."""
    smallest = SUPPORTING_ERRORS / ordered.size
    decades = math.ceil(-math.log10(smallest))
    lower = (float(f"{10 ** (-1 - k / _KNOTS_PER_DECADE):.4g}") for k in range(decades * _KNOTS_PER_DECADE))
    fmrs = [fmr for fmr in (*_UPPER_KNOTS, *lower) if fmr > smallest] + [smallest]
    return ImpostorCurve(cosines=tuple(_observed_threshold(ordered, fmr) for fmr in fmrs), fmrs=tuple(fmrs))


def _row(ordered: Scores, fmr: float, people: int) -> ThresholdRow:
    """One line of the impostor table from ascending impostor cosines."""
    threshold = _observed_threshold(ordered, fmr)
    errors = int(ordered.size - np.searchsorted(ordered, threshold, side="left"))
    return ThresholdRow(
        fmr=fmr,
        threshold=threshold,
        impostor_pairs=ordered.size,
        people=people,
        errors=errors,
        supported=errors >= SUPPORTING_ERRORS,
    )


def _observed_threshold(ordered: Scores, fmr: float) -> float:
    """The smallest floating-point number that at most `fmr` of the ascending scores reach."""
    allowed = allowed_errors(ordered.size, fmr)
    return float(ordered[0] if allowed >= ordered.size else just_above(ordered[ordered.size - 1 - allowed]))


def _finite(cosine: float) -> float:
    """The cosine itself as a float, when it is finite."""
    if not math.isfinite(cosine):
        raise ValueError(f"cosine must be finite, got {cosine}")
    return float(cosine)
