"""All checks together: a clean set has no problem, and every check is registered and documented."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import training.doctor
from facemargin.doctor import Request
from training.doctor import CHECKS, examine

PAGE = Path(__file__).parents[3] / "docs" / "doctor.md"


def test_every_check_is_documented() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in CHECKS:
        assert f"| {name} |" in text, name


def test_every_module_with_findings_is_registered() -> None:
    folder = Path(training.doctor.__file__).parent
    public = [path.stem for path in folder.glob("*.py") if "_findings(case: Case)" in path.read_text(encoding="utf-8")]
    assert sorted(public) == sorted(check.__module__.rpartition(".")[2] for check in CHECKS.values())


def test_clean_sets_have_no_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, drawn_faces: Any, write: Callable[..., Path]
) -> None:
    monkeypatch.setenv("FACEMARGIN_MODELS", str(tmp_path / "none"))
    people = list(drawn_faces.items())
    train, test = write("a", dict(people[:4])), write("b", dict(people[4:]))
    findings = examine(Request(train=train, test=test))
    assert {found.state for found in findings} == {"ok", "missing"}
    assert {found.subject for found in findings if found.state == "missing"} == {
        "training a: alignment", "test b: alignment",
    }  # fmt: skip
