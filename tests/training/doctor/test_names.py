"""Shared people are found across spellings; numbers are no names, and groups of a `.bin` have none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.doctor.case import Case
from training.doctor.names import name_findings, normalised, reported_people


@pytest.mark.parametrize("name", ["Ann Lee", "ann_lee", "ANN-LEE", "Ánn.Lee"])
def test_spellings_of_one_name_are_equal(name: str) -> None:
    assert normalised(name) == "ann_lee"


def found_in(case: Case) -> tuple[str, tuple[str, ...]]:
    (found,) = name_findings(case)
    return found.state, found.names


def test_a_shared_name_is_a_problem(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    one = drawn_faces["person-0"]
    train, test = write("a", {"Ann Lee": one, "Bob": one}), write("b", {"ann_lee": one, "Cid": one})
    assert found_in(case_of(training=train, test=test)) == ("problem", ("Ann Lee",))
    assert list(name_findings(case_of(data=train))) == []


def test_other_names_are_ok(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    one = drawn_faces["person-0"]
    assert found_in(case_of(training=write("a", {"Ann": one}), test=write("b", {"Anna": one}))) == ("ok", ())


def test_a_shared_number_is_only_a_note(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    one = drawn_faces["person-0"]
    case = case_of(training=write("a", {"001": one}), test=write("b", {"001": one, "002": one}))
    assert found_in(case) == ("note", ("001",))


def test_a_name_is_reported_beside_numbers_which_are_not(
    drawn_faces: Any, write: Any, case_of: Callable[..., Case]
) -> None:
    one = drawn_faces["person-0"]
    case = case_of(training=write("a", {"001": one, "Ann": one}), test=write("b", {"001": one, "Ann": one}))
    assert list(reported_people(*case.sets)) == ["ann"]
    (found,) = name_findings(case)
    assert (found.state, found.names) == ("problem", ("Ann",))
    assert "1 more have the same number" in found.detail


def test_numbers_against_names_are_not_compared(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    one = drawn_faces["person-0"]
    assert found_in(case_of(training=write("a", {"Ann": one}), test=write("b", {"001": one}))) == ("missing", ())


def test_groups_of_two_evaluation_bins_are_not_taken_for_the_same_people(
    drawn_faces: Any, bin_of: Callable[..., Path], case_of: Callable[..., Case]
) -> None:
    people = list(drawn_faces.items())
    case = case_of(training=bin_of("one.bin", dict(people[:4])), test=bin_of("two.bin", dict(people[4:])))
    assert set(case.sets[0].images.people) & set(case.sets[1].images.people)
    (found,) = name_findings(case)
    assert (found.state, found.names) == ("missing", ())
    assert "one.bin and two.bin gives no names" in found.detail
