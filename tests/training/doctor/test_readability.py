"""Pictures that cannot be read are named, and sampling is stated."""

from collections.abc import Callable
from typing import Any

from training.doctor.case import Case
from training.doctor.readability import readability_findings


def test_a_clean_set_is_ok(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    (found,) = readability_findings(case_of(data=write("clean", drawn_faces)))
    assert found.state == "ok"
    assert found.detail == "24 of 24 pictures looked at"


def test_a_truncated_picture_and_a_text_are_named(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    folder = write("broken", drawn_faces)
    whole = folder / "person-1" / "0.png"
    whole.write_bytes(whole.read_bytes()[:500])
    (folder / "person-2" / "1.jpg").write_text("no picture")
    (found,) = readability_findings(case_of(data=folder))
    assert found.state == "problem"
    assert [name.split(":")[0] for name in found.names] == ["person-1/0.png", "person-2/1.jpg"]


def test_a_sample_takes_whole_people_and_says_so(drawn_faces: Any, write: Any, case_of: Callable[..., Case]) -> None:
    case = case_of(sample=5, data=write("many", drawn_faces))
    (found,) = readability_findings(case)
    assert "6 of 24 pictures looked at" in found.detail
    assert "--sample 0" in found.detail
    labels = case.sets[0].images.labels[case.sets[0].places]
    assert sorted((labels == label).sum() for label in set(labels)) == [3, 3]
