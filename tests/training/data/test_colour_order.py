"""The verdict on the colour order of a set, rule by rule, and the colour of one picture."""

import numpy as np
import pytest

from training.data.colour_order import cold_pictures, colour_order, picture_colour


@pytest.mark.parametrize(
    ("warmth", "verdict", "said"),
    [
        ([20.0] * 5, "rgb", "20 levels redder than blue"),
        ([20.0] * 4, "cannot tell", "only 4 coloured"),
        ([-20.0] * 60 + [20.0] * 40, "bgr", "20 levels bluer than red"),
        ([20.0] * 195 + [-20.0] * 5, "mixed", "5 of 200 coloured pictures look swapped"),
        ([20.0] * 196 + [-20.0] * 4, "rgb", "redder"),  # 2.0 %, but only four
        ([20.0] * 495 + [-20.0] * 5, "rgb", "redder"),  # five, but only 1.0 %
        ([20.0] * 60 + [-9.0] * 40, "rgb", "redder"),  # bluish, but none is below −10
        ([], "cannot tell", "only 0 coloured"),
    ],
)
def test_the_verdict_follows_the_median_and_the_cold_pictures(warmth: list[float], verdict: str, said: str) -> None:
    found = colour_order(np.array(warmth), np.full(len(warmth), 30.0))
    assert found.verdict == verdict
    assert said in found.reason
    assert (found.coloured, found.grey, found.cold) == (len(warmth), 0, sum(value < -10 for value in warmth))


def test_grey_pictures_say_nothing_about_the_order() -> None:
    found = colour_order(np.array([-20.0] * 96 + [20.0] * 4), np.array([1.0] * 96 + [30.0] * 4))
    assert (found.verdict, found.coloured, found.grey, found.cold) == ("grey", 4, 96, 0)
    found = colour_order(np.array([-20.0] * 95 + [20.0] * 5), np.array([1.0] * 95 + [30.0] * 5))
    assert (found.verdict, found.warmth) == ("rgb", 20.0)
    assert "95 are grey" in found.reason


def test_cold_pictures_come_the_coldest_first() -> None:
    assert cold_pictures(np.array([-11.0, 5.0, -30.0, -50.0]), np.array([9.0, 9.0, 9.0, 1.0])).tolist() == [2, 0]


def test_the_warmth_is_that_of_the_middle_and_the_chroma_that_of_the_whole() -> None:
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    image[30:76, 30:71, 0] = 80
    image[:, :10, 2] = 50
    found = picture_colour(image)
    assert found.warmth == pytest.approx(80)
    assert found.chroma == pytest.approx(0.46 * 0.41 * 80 + 0.1 * 50)
