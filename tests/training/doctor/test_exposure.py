"""Pictures that hold no pictures but normalised numbers are found."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from training.doctor.case import Case
from training.doctor.exposure import exposure_findings

CHANGES = {
    "numbers 0-1 cast to bytes": lambda one: (one / 255.0).astype(np.uint8),
    "numbers -1 to 1 cast to bytes": lambda one: ((one - 127.5) / 127.5).astype(np.int8).astype(np.uint8),
}


def test_a_right_set_is_ok(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    (found,) = exposure_findings(case_of(data=write("right", drawn_faces)))
    assert found.state == "ok"


@pytest.mark.parametrize("how", CHANGES)
def test_a_set_normalised_before_saving_is_a_problem(
    how: str, drawn_faces: Any, write: Any, case_of: Callable[..., Case]
) -> None:
    people = {name: [CHANGES[how](one) for one in pictures] for name, pictures in drawn_faces.items()}
    (found,) = exposure_findings(case_of(data=write("wrong", people)))
    assert found.state == "problem"
    assert len(found.names) == 24


def test_a_very_dark_set_is_a_note(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    people = {name: [one // 6 for one in pictures] for name, pictures in drawn_faces.items()}
    (found,) = exposure_findings(case_of(data=write("dark", people)))
    assert found.state == "note"
    assert "very dark" in found.detail
