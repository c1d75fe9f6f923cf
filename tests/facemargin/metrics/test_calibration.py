"""Calibration: probability against a brute-force optimum, FMR against the impostors, and what happens beyond them."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from facemargin.errors import CalibrationError, UnsupportedFmrError
from facemargin.metrics import Calibration, calibrate, calibrate_scores, logistic

IMPOSTORS = 200_000


def scores(seed: int = 0, impostors: int = IMPOSTORS) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return (
        random.normal(0.5, 0.15, 3000).clip(-1, 1).astype(np.float32),
        random.normal(0.02, 0.1, impostors).clip(-1, 1).astype(np.float32),
    )


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return calibrate_scores(*scores(), people=400, source="drawn from two normal laws")


def cross_entropy(slope: float, intercept: float, genuine: np.ndarray, impostor: np.ndarray, prior: float) -> float:
    """Weighted cross-entropy with smoothed targets, written out."""
    total = 0.0
    for values, weight, target in (
        (genuine, prior / genuine.size, (genuine.size + 1) / (genuine.size + 2)),
        (impostor, (1 - prior) / impostor.size, 1 / (impostor.size + 2)),
    ):
        p = 1 / (1 + np.exp(-(slope * values.astype(np.float64) + intercept)))
        total -= weight * float((target * np.log(p) + (1 - target) * np.log(1 - p)).sum())
    return total


def test_the_fit_takes_few_passes_over_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newton's method needs about ten; a search that cannot see its own end needs thousands, minutes at scale."""
    passes, derivatives = [], logistic._derivatives

    def counted(*args: Any) -> Any:
        passes.append(1)
        return derivatives(*args)

    monkeypatch.setattr(logistic, "_derivatives", counted)
    for seed in range(20):
        random = np.random.default_rng(seed)
        genuine, impostor = random.normal(0.5, 0.02 + 0.01 * seed, 600), random.normal(0, 0.125, 5000)
        logistic.fit_logistic(genuine, impostor, prior=0.5)
    assert len(passes) < 20 * 20


@pytest.mark.parametrize("prior", [0.5, 0.1, 0.9])
def test_the_logistic_curve_is_the_optimum(prior: float) -> None:
    genuine, impostor = scores(1, 2000)
    found = calibrate_scores(genuine, impostor, people=50, prior=prior, source="x")
    best = cross_entropy(found.slope, found.intercept, genuine, impostor, prior)
    # No point on a fine grid around it is better, and every larger step is worse.
    for d_slope in np.linspace(-2, 2, 21):
        for d_intercept in np.linspace(-1, 1, 21):
            other = cross_entropy(found.slope + d_slope, found.intercept + d_intercept, genuine, impostor, prior)
            assert other >= best - 1e-13
    step = 1e-4
    for dx, dy in ((step, 0.0), (0.0, step)):
        up = cross_entropy(found.slope + dx, found.intercept + dy, genuine, impostor, prior)
        down = cross_entropy(found.slope - dx, found.intercept - dy, genuine, impostor, prior)
        assert abs(up - down) / (2 * step) < 1e-7


def test_the_prior_is_the_mean_probability() -> None:
    genuine, impostor = scores(2, 5000)
    found = calibrate_scores(genuine, impostor, people=50, prior=0.2, source="x")
    mean = 0.2 * np.mean([found.probability(c) for c in genuine])
    mean += 0.8 * np.mean([found.probability(c) for c in impostor])
    assert mean == pytest.approx(0.2, abs=1e-3)  # the smoothed targets move it by 1e-4


def test_repeating_one_kind_of_pairs_does_not_move_the_curve() -> None:
    genuine, impostor = scores(3, 4000)
    once = calibrate_scores(genuine, impostor, people=50, source="x")
    often = calibrate_scores(genuine, np.tile(impostor, 5), people=50, source="x")
    assert often.slope == pytest.approx(once.slope, rel=1e-2)
    assert often.intercept == pytest.approx(once.intercept, rel=1e-2)


def test_separable_scores_give_a_finite_curve() -> None:
    found = calibrate_scores(np.linspace(0.8, 0.9, 50), np.linspace(-0.1, 0.1, 500), people=20, source="x")
    assert np.isfinite([found.slope, found.intercept]).all()
    assert found.probability(0.85) > 0.97
    assert found.probability(0.0) < 0.03


def test_a_model_worse_than_chance_gives_a_flat_curve() -> None:
    genuine, impostor = scores(4, 1000)
    found = calibrate_scores(-genuine, -impostor, people=20, source="x")
    assert found.slope == 0
    assert found.probability(0.9) == pytest.approx(0.5, abs=1e-3)


def test_rows_hold_on_the_impostors(fitted: Calibration) -> None:
    _, impostor = scores()
    assert [row.fmr for row in fitted.rows] == [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    for row in fitted.rows:
        threshold = np.float32(row.threshold)
        assert threshold == row.threshold
        assert np.count_nonzero(impostor >= threshold) == row.errors <= row.fmr * IMPOSTORS
        lower = np.nextafter(threshold, np.float32(-1))
        assert np.count_nonzero(impostor >= lower) > row.fmr * IMPOSTORS  # there is no smaller threshold
        assert row.supported == (row.errors >= 30)
        assert (row.impostor_pairs, row.people) == (IMPOSTORS, 400)
    assert [row.supported for row in fitted.rows] == [True, True, True, False, False, False]
    assert fitted.smallest_supported_fmr == 30 / IMPOSTORS


def test_thresholds_of_the_table_are_those_of_the_rows(fitted: Calibration) -> None:
    for row in fitted.rows:
        if row.supported:
            found = fitted.threshold(row.fmr, extrapolate=False)
            assert found.value == row.threshold
            assert not found.extrapolated


@settings(max_examples=80, deadline=None)
@given(exponent=st.floats(-3.8, -0.01))
def test_the_impostors_confirm_every_supported_threshold(fitted: Calibration, exponent: float) -> None:
    """Between two points of the table the real FMR lies between theirs, which are 12 % apart."""
    _, impostor = scores()
    value = fitted.threshold(10**exponent, extrapolate=False).value
    after = int(np.searchsorted(-np.array(fitted.curve.fmrs), -(10**exponent)))
    errors = np.count_nonzero(impostor >= value)
    assert fitted.curve.fmrs[after] * IMPOSTORS - 2 < errors < fitted.curve.fmrs[after - 1] * IMPOSTORS + 1


def test_straight_lines_between_the_points_are_close(fitted: Calibration) -> None:
    impostor = np.sort(scores()[1])
    fmrs = np.geomspace(2e-4, 0.9, 200)
    values = [fitted.threshold(fmr, extrapolate=False).value for fmr in fmrs]
    real = 1 - np.searchsorted(impostor, values) / IMPOSTORS
    assert np.mean(np.abs(np.log(real / fmrs))) < 0.01


@settings(max_examples=200, deadline=None)
@given(exponent=st.floats(-11.9, 0))
def test_fmr_and_threshold_are_inverse(fitted: Calibration, exponent: float) -> None:
    found = fitted.threshold(10**exponent, extrapolate=True)
    assert fitted.fmr(found.value) <= 10**exponent * (1 + 1e-6)
    assert found.fmr <= 10**exponent
    assert found.extrapolated == (10**exponent < fitted.smallest_supported_fmr)
    assert found.value < 1


@settings(max_examples=200, deadline=None)
@given(a=st.floats(-1, 1), b=st.floats(-1, 1))
def test_fmr_falls_and_probability_rises_with_the_cosine(fitted: Calibration, a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    assert fitted.fmr(low) >= fitted.fmr(high) * (1 - 1e-12)
    assert fitted.probability(low) <= fitted.probability(high)
    assert 0 < fitted.fmr(high) <= 1


def test_fmr_is_continuous_where_the_tail_begins(fitted: Calibration) -> None:
    assert fitted.tail is not None
    joint = fitted.tail.start
    before, after = fitted.fmr(joint - 1e-9), fitted.fmr(joint + 1e-9)
    assert before == pytest.approx(after, rel=1e-5)
    assert not fitted.is_extrapolated(joint)
    assert fitted.is_extrapolated(joint + 1e-9)


def test_the_tail_predicts_ten_times_more_impostors() -> None:
    """Fitted to 200,000 impostors, checked on four million others at FMR 1e-5, far beyond its support of 1.5e-4."""
    calibration = calibrate_scores(*scores(5), people=400, source="x")
    threshold = calibration.threshold(1e-5, extrapolate=True).value
    fresh = np.random.default_rng(99).normal(0.02, 0.1, 4_000_000)
    assert 3e-6 < np.mean(fresh >= threshold) < 3e-5


def test_ends_of_the_range(fitted: Calibration) -> None:
    assert fitted.fmr(-1.0) == 1.0
    assert fitted.fmr(1.0) == 1e-12
    assert fitted.threshold(1.0, extrapolate=False).value == pytest.approx(scores()[1].min())


def test_beyond_the_support_is_refused_by_name(fitted: Calibration) -> None:
    with pytest.raises(UnsupportedFmrError, match=r"smallest supported is 0\.00015") as caught:
        fitted.threshold(1e-5, extrapolate=False)
    assert caught.value.smallest_supported == fitted.smallest_supported_fmr
    with pytest.raises(UnsupportedFmrError, match="1e-12"):
        fitted.threshold(1e-13, extrapolate=True)
    without = fitted.model_copy(update={"tail": None})
    with pytest.raises(UnsupportedFmrError):
        without.threshold(1e-5, extrapolate=True)
    assert without.fmr(0.99) == fitted.smallest_supported_fmr


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, np.nan])
def test_a_wrong_max_fmr_is_refused(fitted: Calibration, value: float) -> None:
    with pytest.raises(ValueError, match="max_fmr must be in"):
        fitted.threshold(value, extrapolate=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_cosine_that_is_not_finite_is_refused(fitted: Calibration, value: float) -> None:
    for question in (fitted.fmr, fitted.probability, fitted.is_extrapolated):
        with pytest.raises(ValueError, match="cosine must be finite"):
            question(value)


def test_json_round_trip_and_strictness(fitted: Calibration) -> None:
    text = fitted.model_dump_json()
    assert Calibration.model_validate_json(text) == fitted
    assert len(text) < 10_000
    with pytest.raises(ValidationError, match="extra"):
        Calibration.model_validate(fitted.model_dump() | {"more": 1})
    with pytest.raises(ValidationError, match="finite"):
        Calibration.model_validate(fitted.model_dump() | {"slope": np.nan})
    curve = fitted.curve.model_dump()
    with pytest.raises(ValidationError, match="must not decrease"):
        Calibration.model_validate(fitted.model_dump() | {"curve": curve | {"cosines": curve["cosines"][::-1]}})


def test_tied_impostors_never_exceed_their_fmr() -> None:
    """Cosines rounded to two digits: thousands of ties at every step of the curve."""
    genuine, impostor = scores(6)
    impostor = np.round(impostor, 2)
    found = calibrate_scores(genuine, impostor, people=400, source="x")
    for row in found.rows:
        assert np.count_nonzero(impostor >= np.float32(row.threshold)) == row.errors <= row.fmr * IMPOSTORS
    grid = np.linspace(-1, 1, 501)
    rates = [found.fmr(c) for c in grid]
    assert all(a >= b * (1 - 1e-12) for a, b in itertools.pairwise(rates))


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.2])
def test_the_generalised_pareto_fit_finds_its_parameters(shape: float) -> None:
    from facemargin.metrics.tail import fit_generalised_pareto

    uniform = np.random.default_rng(0).random(20_000)
    excess = 0.05 * (-np.log(uniform) if shape == 0 else (uniform**-shape - 1) / shape)
    found_shape, found_scale = fit_generalised_pareto(excess, least_end=0.2)
    assert found_shape == pytest.approx(shape, abs=0.03)
    assert found_scale == pytest.approx(0.05, rel=0.04)


def test_no_cosine_below_one_is_called_impossible() -> None:
    """Impostors that all stop at 0.3 would give a law ending there; its end is held at 1."""
    impostor = np.random.default_rng(0).uniform(-0.3, 0.3, 50_000)
    found = calibrate_scores(np.linspace(0.4, 0.9, 100), impostor, people=300, source="x")
    assert found.tail is not None
    assert found.tail.survival(0.5) > 0
    assert found.threshold(1e-8, extrapolate=True).value < 1


def test_calibrate_counts_pairs_and_people() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 3)
    rows = random.normal(size=(20, 16))[labels] + 0.5 * random.normal(size=(60, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = calibrate(rows, [f"p{k}" for k in labels], source="twenty drawn people")
    assert (found.people, found.genuine_pairs, found.impostor_pairs) == (20, 60, 60 * 59 // 2 - 60)
    assert found.source == "twenty drawn people"
    assert found.prior == 0.5


def test_too_little_data_is_refused() -> None:
    genuine, impostor = scores(0, 400)
    with pytest.raises(CalibrationError, match="at least 10 pairs of one person, these photographs make 9"):
        calibrate_scores(genuine[:9], impostor, people=5, source="x")
    with pytest.raises(CalibrationError, match="at least 300 pairs of two people, these photographs make 299"):
        calibrate_scores(genuine, impostor[:299], people=5, source="x")
    with pytest.raises(CalibrationError, match="same similarity"):
        calibrate_scores(np.full(20, 0.5), np.full(400, 0.5), people=5, source="x")
    with pytest.raises(ValueError, match="prior must be in"):
        calibrate_scores(genuine, impostor, people=5, prior=1.0, source="x")
    with pytest.raises(ValueError, match="impostor must be finite"):
        calibrate_scores(genuine, np.append(impostor, np.nan), people=5, source="x")
