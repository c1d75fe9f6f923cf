"""A swapped set, swapped pictures and a mismatch of two sets are found; right and grey sets are left alone."""

from collections.abc import Callable
from typing import Any

from facemargin.doctor import Finding
from training.doctor.case import Case
from training.doctor.colour import colour_findings


def only(case: Case) -> Finding:
    (found,) = colour_findings(case)
    return found


def swapped(people: Any) -> Any:
    return {name: [picture[..., ::-1] for picture in pictures] for name, pictures in people.items()}


def grey(people: Any) -> Any:
    return {name: [picture[..., :1].repeat(3, axis=2) for picture in pictures] for name, pictures in people.items()}


def test_a_right_set_is_ok(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    assert only(case_of(data=write("right", drawn_faces))).state == "ok"


def test_a_swapped_set_is_a_problem(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    found = only(case_of(data=write("wrong", swapped(drawn_faces))))
    assert found.state == "problem"
    assert "red and blue look swapped" in found.detail


def test_one_swapped_picture_is_named_and_many_are_a_problem(
    drawn_faces: Any, write: Any, case_of: Callable[..., Case]
) -> None:
    people = {name: list(pictures) for name, pictures in drawn_faces.items()}
    people["person-4"][2] = people["person-4"][2][..., ::-1]
    found = only(case_of(data=write("one", people)))
    assert found.state == "note"
    assert [name.split()[0] for name in found.names] == ["person-4/2.png"]
    some = people | swapped({name: people[name] for name in ("person-1", "person-2")})
    assert only(case_of(data=write("some", some))).state == "problem"


def test_a_grey_set_says_that_it_cannot_tell(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    found = only(case_of(data=write("grey", grey(drawn_faces))))
    assert found.state == "note"
    assert "24 are grey" in found.detail


def test_sets_of_unlike_colour_are_told(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    right = write("right", drawn_faces)
    found = list(colour_findings(case_of(training=right, test=write("wrong", swapped(drawn_faces)))))
    assert (found[-1].subject, found[-1].state) == ("right and wrong: colour order", "problem")
    found = list(colour_findings(case_of(training=right, test=write("grey", grey(drawn_faces)))))
    assert (found[-1].subject, found[-1].state) == ("right and grey: colour order", "note")
