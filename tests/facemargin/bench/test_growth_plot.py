"""Pictures of growth: names that do not touch, and a file that is a picture."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from facemargin.bench.growth_plot import Curve, Panel, _draw_panel, draw, spread
from facemargin.preprocessing import read_image


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_names_are_apart_in_the_order_of_their_curves_and_not_above_the_panel(heights: list[float]) -> None:
    found = spread(sorted(heights), 0.06)
    assert all(upper - lower > 0.06 - 1e-9 for lower, upper in pairwise(found))
    assert max(found) <= 1
    if len(heights) == 1:
        assert found == heights


def test_names_that_are_apart_stay_where_they_are() -> None:
    assert spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])


@pytest.mark.parametrize("panels", [1, 2, 3])
def test_each_panel_with_points_is_drawn(tmp_path: Path, panels: int) -> None:
    curves = [
        Curve("one", "#1f5fa8", [(10, 1.0), (1000, 50.0)], [2.0, 90.0]),
        Curve("two", "#c8501e", [(10, 1.0)], dashed=True),
        Curve("nothing", "#000000", []),
    ]
    shown = [Panel("ms", "vectors", curves, note="a note")] * panels
    picture = draw([*shown, Panel("empty", "vectors", [Curve("nothing", "#000000", [])])], tmp_path / "new" / "p.png")
    height, width = read_image(picture).shape[:2]
    assert (height, width) == (507 * -(-panels // 2), 1352)  # two in a row


@pytest.mark.parametrize("lowest", [0.3, 0.99, 1.0])
def test_shares_are_drawn_on_a_plain_axis_that_ends_at_one(lowest: float) -> None:
    axes = Figure().add_subplot()
    curve = Curve("one", "#1f5fa8", [(10, lowest), (1000, 1.0)])
    _draw_panel(axes, Panel("recall", "vectors", [curve], linear=True))
    low, high = axes.get_ylim()
    assert (axes.get_yscale(), axes.get_xscale()) == ("linear", "log")
    assert low <= min(lowest, 0.95)
    assert 1 < high < 1.01
