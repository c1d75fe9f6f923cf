"""Gaps and imbalance of labels are found, and a clean set has none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facemargin.doctor import Finding
from training.data.pictures import LabelledImages, Picture
from training.doctor.case import Case, DataSet
from training.doctor.labels import label_findings


def findings_on(labels: list[int], people: int) -> list[Finding]:
    pictures = tuple(Picture.of_file(Path(f"{k}.png")) for k in range(len(labels)))
    images = LabelledImages(pictures, np.array(labels), tuple(f"p{k}" for k in range(people)))
    return list(label_findings(Case((DataSet("set", "data", images),))))


def test_a_clean_set_is_ok() -> None:
    (found,) = findings_on([0, 0, 1, 1, 2, 2], 3)
    assert found.state == "ok"
    assert "6 pictures of 3 people" in found.detail


def test_people_without_a_picture_are_a_problem_and_named() -> None:
    found = findings_on([0, 0, 3, 3], 4)[0]
    assert (found.state, found.names) == ("problem", ("p1", "p2"))


@pytest.fixture
def findings_in(tmp_path: Path, case_of: Callable[..., Case]) -> Callable[[list[int]], list[Finding]]:
    """Findings on a list file with these labels, two pictures each."""

    def make(numbers: list[int]) -> list[Finding]:
        (tmp_path / "face.png").write_bytes(b"")
        (tmp_path / "set.txt").write_text("".join(f"face.png {number}\n" * 2 for number in numbers))
        return list(label_findings(case_of(data=tmp_path / "set.txt")))

    return make


def test_numbers_that_a_list_leaves_out_are_a_note(findings_in: Callable[[list[int]], list[Finding]]) -> None:
    found = {finding.subject: finding for finding in findings_in([0, 1, 5])}
    assert found["set.txt: labels"].state == "ok"
    gaps = found["set.txt: label gaps"]
    assert (gaps.state, gaps.names) == ("note", ("2", "3", "4"))
    assert gaps.detail.startswith("3 labels below the largest")
    assert [finding.subject for finding in findings_in([0, 1, 2])] == ["set.txt: labels"]


def test_very_many_gaps_are_counted_as_at_least(findings_in: Callable[[list[int]], list[Finding]]) -> None:
    assert findings_in([0, 5000])[1].detail.startswith("at least 1,000 labels")


def test_people_with_one_picture_are_a_note() -> None:
    found = findings_on([0, 0, 1, 2, 2, 2], 3)[1]
    assert (found.state, found.names) == ("note", ("p1",))
    assert "1 of 3" in found.detail


def test_extreme_imbalance_is_a_note_that_names_the_largest() -> None:
    assert not any("imbalance" in found.subject for found in findings_on([0] * 30 + [1, 1, 2, 2], 3))
    found = findings_on([0] * 200 + [label for label in range(1, 60) for _ in range(2)], 60)
    assert found[-1].subject == "set: imbalance"
    assert found[-1].names[0] == "p0 200"
