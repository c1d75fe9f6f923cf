"""The doctor names what is missing, checks a bundle's files, and its exit code says whether something is wrong."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from facemargin import doctor as module
from facemargin.doctor import Finding, Request, bundle_files, doctor, environment, examine_data
from facemargin.errors import BundleError, DataError, FacemarginError, MissingExtraError


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the command in this process, with a short environment; returns exit code and what it printed."""
    monkeypatch.setattr(module, "environment", lambda: [Finding("machine", "ok", "here")])
    monkeypatch.setenv("FACEMARGIN_MODELS", str(tmp_path / "none"))
    app = typer.Typer()
    app.command()(doctor)

    def call(*arguments: str | Path) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if isinstance(result.exception, FacemarginError):
            raise result.exception
        return result.exit_code, result.stdout

    return call


def folder_of(root: Path, people: dict[str, int], seed: int) -> Path:
    """Noise pictures, redder than blue."""
    rng = np.random.default_rng(seed)
    for person, count in people.items():
        (root / person).mkdir(parents=True)
        for number in range(count):
            noise = rng.integers(0, 200, (112, 112, 3), dtype=np.uint8) + np.array([0, 20, 50], dtype=np.uint8)
            assert cv2.imwrite(str(root / person / f"{number}.png"), noise)
    return root


def test_the_environment_names_the_extras_the_detector_and_the_data_checks() -> None:
    subjects = [finding.subject for finding in environment()]
    assert subjects == [
        "facemargin",
        "extra train",
        "extra serve",
        "extra client",
        "face detector",
        "training",
        "data checks",
    ]


def test_a_missing_detector_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACEMARGIN_MODELS", str(tmp_path))
    found = next(finding for finding in environment() if finding.subject == "face detector")
    assert found.state == "missing"
    assert "facemargin models pull yunet" in found.detail


def test_data_checks_that_lack_a_package_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = EntryPoint("data", "a_package_that_is_absent:examine", module.CHECKS_GROUP)
    monkeypatch.setattr(module, "entry_points", lambda group: [absent])
    found = next(finding for finding in environment() if finding.subject == "data checks")
    assert (found.state, found.advice) == ("missing", "pip install 'facemargin[train]'")
    with pytest.raises(MissingExtraError, match=r"facemargin\[train\]"):
        examine_data(Request(data=(Path("x"),)))


def test_a_finding_shows_five_names_and_keeps_all() -> None:
    finding = Finding("set: labels", "problem", "7 are wrong", "repair them", tuple("abcdefg"))
    lines = finding.to_text(12).splitlines()
    assert [line.strip() for line in lines] == [
        "!!  set: labels   7 are wrong", "a; b; c; d; e; and 2 more", "-> repair them",
    ]  # fmt: skip


def test_a_whole_bundle_is_ok_and_one_without_calibration_is_noted(make_tiny_bundle: Any) -> None:
    loaded, findings = bundle_files(make_tiny_bundle().path)
    assert loaded is not None
    assert [finding.state for finding in findings] == ["ok"]
    _, findings = bundle_files(make_tiny_bundle(calibrated=False).path)
    assert [finding.state for finding in findings] == ["ok", "note"]


def test_a_damaged_bundle_is_a_problem_and_an_absent_one_an_error(make_tiny_bundle: Any, tmp_path: Path) -> None:
    path = make_tiny_bundle().path
    model = path / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    loaded, (finding,) = bundle_files(path)
    assert loaded is None
    assert (finding.state, "SHA-256" in finding.detail) == ("problem", True)
    with pytest.raises(BundleError, match="no such folder"):
        bundle_files(tmp_path / "absent")


def test_a_clean_set_ends_with_0_and_a_wrong_one_with_1(run: Any, tmp_path: Path) -> None:
    clean = folder_of(tmp_path / "clean", {"Ann": 2, "Bob": 2}, 0)
    code, text = run("--data", clean)
    assert (code, "!!" in text) == (0, False)
    (clean / "Cid").mkdir()
    code, text = run("--data", clean)
    assert code == 1
    assert "1 of 3 people have no picture" in text


def test_shared_people_end_with_1_and_json_has_every_field(run: Any, tmp_path: Path) -> None:
    train = folder_of(tmp_path / "a", {"Ann Lee": 2, "Bob": 2}, 0)
    test = folder_of(tmp_path / "b", {"ann_lee": 2, "Cid": 2}, 1)
    code, text = run("--train", train, "--test", test, "--json")
    assert code == 1
    found = {finding["subject"]: finding for finding in json.loads(text)["findings"]}
    wrong = found["training a and test b: names"]
    assert (wrong["state"], wrong["names"]) == ("problem", ["Ann Lee"])
    assert set(wrong) == {"subject", "state", "detail", "advice", "names"}


def test_bad_input_is_an_error(run: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="go together"):
        run("--train", tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        run("--data", tmp_path / "absent")
    with pytest.raises(FacemarginError, match="--config names its own"):
        run("--config", tmp_path / "x.toml", "--train", tmp_path, "--test", tmp_path)
