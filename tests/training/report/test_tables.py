"""Cells of the tables whose figure is worked out from others."""

from collections.abc import Callable

import pytest

from training.report.results import Cost, HeadResult
from training.report.rows import summarise
from training.report.tables import cost_table, less_the_best, main_table

MakeResult = Callable[..., HeadResult]


@pytest.mark.parametrize("heads", [("softmax", "arcface"), ("arcface", "softmax")])
def test_a_row_is_less_than_the_best_by_what_it_lacks(heads: tuple[str, str], make_result: MakeResult) -> None:
    spread = {"softmax": 0.4, "arcface": 1.2}
    summary = summarise([make_result(head, spread=spread[head]) for head in heads])
    rows = {row.name: row for row in summary.rows}
    lacking = 100 * (rows["softmax"].accuracy.value - rows["arcface"].accuracy.value)
    assert lacking > 5
    assert summary.best == "softmax"
    assert less_the_best(rows["softmax"]) == "-"
    assert less_the_best(rows["arcface"]) == f"−{lacking:.2f}"
    notes = [cells[-1].note for cells in main_table(summary, []).rows if cells[0].text == "arcface"]
    assert notes[0].startswith(f"−{lacking:.2f} points, p (Holm)")


@pytest.mark.parametrize(("medians", "shown"), [((20.0, 10.0, 12.0), "12.0"), ((10.0, 12.0), "11.0"), ((9.0,), "9.0")])
def test_the_time_of_a_step_is_the_median_over_the_seeds(
    medians: tuple[float, ...], shown: str, make_result: MakeResult
) -> None:
    costs = [
        Cost(step_ms=(1.0, ms, 99.0), images_per_second=1, device="cpu", backbone_parameters=1, head_parameters=1)
        for ms in medians
    ]
    summary = summarise([make_result("softmax", seed, cost=cost) for seed, cost in enumerate(costs)])
    (cells,) = cost_table(summary.rows).rows
    assert (cells[1].text, cells[1].note) == (shown, "1.0 to 99.0")
