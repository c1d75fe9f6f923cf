"""Rows of a matrix that stays dense."""

import numpy as np
import pytest

from facemargin.errors import DuplicateIdError, UnknownIdError
from facemargin.index.rows import RowMap


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def test_rows_and_ids_are_inverse_when_the_map_grows_by_any_steps() -> None:
    rows, held = RowMap(), 0
    for count in (1, 63, 1, 0, 500, 2):
        rows.append(np.arange(held, held + count, dtype=np.int64) * 3)
        held += count
    assert len(rows) == held
    every = np.arange(held)
    np.testing.assert_array_equal(rows.ids(every), every * 3)
    np.testing.assert_array_equal(rows.rows(every * 3), every)
    assert rows.ids(every[:6].reshape(2, 3)).shape == (2, 3)


def test_the_last_row_fills_a_hole() -> None:
    rows = RowMap()
    rows.append(ids(10, 11, 12, 13))
    assert list(rows.remove(ids(11, 12))) == [(1, 3), (2, 2)]
    assert rows.ids(np.arange(2)).tolist() == [10, 13]
    assert rows.rows(ids(13, 10)).tolist() == [1, 0]


def test_ids_are_known_or_not() -> None:
    rows = RowMap()
    rows.append(ids(7))
    with pytest.raises(DuplicateIdError, match="id 7 "):
        rows.refuse_known(ids(3, 7))
    with pytest.raises(UnknownIdError, match="id 3 "):
        rows.rows(ids(7, 3))
    assert rows.places.known(ids(3, 7, 9)).tolist() == [7]
