"""Copies are found within a person, under two people and across sets, and clean sets have none."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from facemargin.doctor import Finding
from training.doctor.case import Case
from training.doctor.duplicates import duplicate_findings


def jpeg(picture: Any) -> Any:
    coded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
    return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]


def crop(picture: Any) -> Any:
    return cv2.resize(picture[2:-2, 2:-2], picture.shape[1::-1])


def by_subject(case: Case) -> dict[tuple[str, str], Finding]:
    return {(found.subject, found.state): found for found in duplicate_findings(case)}


def test_clean_sets_have_none(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    half = [dict(list(drawn_faces.items())[part]) for part in (slice(4), slice(4, 8))]
    case = case_of(training=write("a", half[0]), test=write("b", half[1]))
    assert {found.state for found in duplicate_findings(case)} == {"ok"}


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda one: one, "same file"),
        (jpeg, "nearly the same"),
        (crop, "nearly the same"),
        (lambda one: one[:, ::-1], "nearly the same, mirrored"),
        (lambda one: np.clip(one * 0.8 + 20, 0, 255).astype(np.uint8), "nearly the same"),
    ],
    ids=["equal", "jpeg", "crop", "mirror", "darker"],
)
def test_a_copy_under_another_person_is_a_problem(
    change: Any, how: str, drawn_faces: Any, write: Any, case_of: Callable[..., Case]
) -> None:
    people = {name: list(pictures) for name, pictures in drawn_faces.items()}
    people["person-3"].append(change(people["person-0"][1]))
    found = by_subject(case_of(data=write("set", people)))["set: duplicates", "problem"]
    assert found.names == (f"person-0/1.png = person-3/3.png ({how})",)


def test_a_copy_within_a_person_is_a_note(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    people = {name: list(pictures) for name, pictures in drawn_faces.items()}
    people["person-2"].append(people["person-2"][0])
    found = by_subject(case_of(data=write("set", people)))
    assert found.keys() == {("set: duplicates", "note")}
    assert found["set: duplicates", "note"].names == ("person-2/0.png = person-2/3.png (same file)",)


def test_equal_pixels_in_another_file_format_are_equal(
    drawn_faces: Any, write: Any, case_of: Callable[..., Case]
) -> None:
    folder = write("set", drawn_faces)
    picture = cv2.imread(str(folder / "person-0" / "0.png"))
    assert cv2.imwrite(str(folder / "person-0" / "9.bmp"), picture)
    (found,) = duplicate_findings(case_of(data=folder))
    assert found.names == ("person-0/0.png = person-0/9.bmp (same pixels)",)


def test_a_copy_in_training_and_test_is_a_problem_but_two_data_sets_may_share(
    drawn_faces: Any, write: Any, case_of: Callable[..., Case]
) -> None:
    half = [dict(list(drawn_faces.items())[part]) for part in (slice(4), slice(4, 8))]
    train = write("a", half[0])
    test = write("b", half[1] | {"stranger": [jpeg(half[0]["person-1"][2])]})
    found = by_subject(case_of(training=train, test=test))["a and b: duplicates", "problem"]
    assert found.names == ("person-1/2.png = stranger/0.png (nearly the same)",)
    assert {found.state for found in duplicate_findings(case_of(data=train, training=test))} == {"ok"}


def test_an_equal_pair_within_the_test_set_is_seen_beside_its_copy_in_training(
    drawn_faces: Any, write: Any, case_of: Callable[..., Case]
) -> None:
    one = drawn_faces["person-0"][0]
    case = case_of(training=write("a", {"x": [one]}), test=write("b", {"y": [one], "z": [one]}))
    assert {key for key in by_subject(case) if key[1] == "problem"} == {
        ("b: duplicates", "problem"), ("a and b: duplicates", "problem"),
    }  # fmt: skip


def test_a_bundle_proposes_pairs_that_the_hash_misses(
    monkeypatch: pytest.MonkeyPatch, drawn_faces: Any, write: Any, case_of: Callable[..., Case], tiny_bundle: Any
) -> None:
    monkeypatch.setattr("training.doctor.duplicates.proposed", lambda coefficients, thumbnails: ([], False))
    people = {name: list(pictures) for name, pictures in drawn_faces.items()}
    people["person-3"].append(jpeg(people["person-0"][1]))
    case = case_of(data=write("set", people))
    assert ("set: duplicates", "problem") not in by_subject(case)
    case.bundle = tiny_bundle
    found = by_subject(case)
    assert found["set: duplicates", "problem"].names == ("person-0/1.png = person-3/3.png (nearly the same)",)


def test_a_copy_in_another_group_of_an_evaluation_bin_is_only_a_note(
    drawn_faces: Any, bin_of: Any, case_of: Callable[..., Case]
) -> None:
    people = {name: list(pictures) for name, pictures in drawn_faces.items()}
    people["person-3"][1] = jpeg(people["person-0"][1])
    found = by_subject(case_of(data=bin_of("set.bin", people)))
    assert found.keys() == {("set.bin: duplicates", "note")}
    assert "no genuine pair links" in found["set.bin: duplicates", "note"].detail
