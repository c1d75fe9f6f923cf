"""The doctor names what is missing and finds people in both folders."""

from pathlib import Path

import pytest

from facemargin.doctor import environment, shared_people
from facemargin.errors import DataError


def test_the_environment_names_both_extras_and_the_detector() -> None:
    subjects = [finding.subject for finding in environment()]
    assert subjects == ["facemargin", "extra train", "extra serve", "face detector", "training"]


def test_a_missing_detector_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACEMARGIN_MODELS", str(tmp_path))
    found = next(finding for finding in environment() if finding.subject == "face detector")
    assert found.state == "missing"
    assert "facemargin models pull yunet" in found.detail


def test_names_are_compared_across_spellings(tmp_path: Path) -> None:
    for name in ("train/Ann Lee", "train/Bob", "test/ann_lee", "test/Cid"):
        (tmp_path / name).mkdir(parents=True)
    assert shared_people(tmp_path / "train", tmp_path / "test") == ["Ann Lee"]
    with pytest.raises(DataError, match="does not exist"):
        shared_people(tmp_path / "train", tmp_path / "absent")
