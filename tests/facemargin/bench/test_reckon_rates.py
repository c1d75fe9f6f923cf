"""What N asks of the false match rate, against the plain formula in exact fractions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemargin.bench.reckon_rates import fmr_for, pairs_for, people_for


@pytest.mark.parametrize("faces", [1, 10, 1000, 10**6, 10**9])
@pytest.mark.parametrize("fpir", [0.001, 0.01, 0.5])
def test_so_many_comparisons_at_that_rate_give_the_fpir(faces: int, fpir: float) -> None:
    fmr = Fraction(fmr_for(fpir, faces))
    kept = 1.0
    if faces <= 1000:
        kept = float((1 - fmr) ** faces)
    else:  # (1 − x)^N by squaring, in fractions cut to 200 bits
        power, left, kept_exact = 1 - fmr, faces, Fraction(1)
        while left:
            kept_exact = _cut(kept_exact * power) if left & 1 else kept_exact
            power, left = _cut(power * power), left >> 1
        kept = float(kept_exact)
    assert 1 - kept == pytest.approx(fpir, rel=1e-9)


def _cut(number: Fraction) -> Fraction:
    return Fraction(round(number * 2**200), 2**200)


def test_a_billion_faces_need_what_the_page_says() -> None:
    fmr = fmr_for(0.01, 1e9)
    assert fmr == pytest.approx(1e-11, rel=0.01)
    assert pairs_for(fmr) == pytest.approx(3e12, rel=0.01)
    assert people_for(pairs_for(fmr)) == pytest.approx(2.45e6, rel=0.01)


@given(st.integers(2, 10**6))
def test_people_make_the_pairs_that_they_are_needed_for(people: int) -> None:
    assert people_for(people * (people - 1) / 2) == pytest.approx(people)


@given(st.floats(0.001, 0.5), st.integers(1, 10**6), st.integers(1, 1000))
def test_a_shard_that_is_asked_for_its_part_of_the_fpir_uses_the_threshold_of_the_whole(
    fpir: float, shard: int, shards: int
) -> None:
    whole = shard * shards
    part = 1 - (1 - fpir) ** (shard / whole)
    assert fmr_for(part, shard) == pytest.approx(fmr_for(fpir, whole), rel=1e-6)


@pytest.mark.parametrize(("fpir", "faces"), [(0, 10), (1, 10), (-0.1, 10), (float("nan"), 10), (0.01, 0.5)])
def test_what_is_no_rate_or_no_gallery_is_refused(fpir: float, faces: float) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        fmr_for(fpir, faces)
