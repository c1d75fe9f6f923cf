"""What the rows of error rates by group say."""

import pytest

from training.group_rates import RatioRow


@pytest.mark.parametrize(
    ("groups", "message"),
    [((None, None), "two groups with at least 30 errors each"), (("a", "b"), "in too many resamples of the people")],
)
def test_a_ratio_that_is_not_supported_says_which_of_the_two_reasons(
    groups: tuple[str | None, str | None], message: str
) -> None:
    row = RatioRow(highest=groups[0], lowest=groups[1], ratio=None, low=None, high=None, shown=False, left_out=())
    assert message in row.text()
    assert row.text().startswith("not supported: ")
