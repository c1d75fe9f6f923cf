"""`facemargin evaluate` on every way to give pairs: its figures, its refusals, and what is left out."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from facemargin.bundle import Bundle, load_bundle
from facemargin.cli import app
from facemargin.errors import FacemarginError, UnsupportedFmrError
from facemargin.preprocessing import encode_png

PEOPLE, PHOTOS = 20, 4


@pytest.fixture(scope="module")
def lfw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy patterns of twenty people in LFW's layout, two folds, and two groups."""
    root = tmp_path_factory.mktemp("lfw")
    random = np.random.default_rng(0)
    for person in range(PEOPLE):
        own = random.normal(0, 25, (7, 7, 3))
        (root / "images" / f"P{person}").mkdir(parents=True)
        for photo in range(1, PHOTOS + 1):
            pattern = np.kron(own + random.normal(0, 40, own.shape), np.ones((16, 16, 1))) + 128
            path = root / "images" / f"P{person}" / f"P{person}_{photo:04}.png"
            path.write_bytes(encode_png(pattern.clip(0, 255).astype(np.uint8)))
    lines = ["2 20"]
    for fold in range(2):
        people = range(10 * fold, 10 * fold + 10)
        lines += [f"P{p} {a} {a + 1}" for p in people for a in (1, 3)]
        lines += [f"P{p} {a} P{10 * fold + (p + a) % 10} {a + 1}" for p in people for a in (1, 3)]
    (root / "pairs.txt").write_text("\n".join(lines))
    grouped = [f"P{p},{'even' if p % 2 == 0 else 'odd'}" for p in range(PEOPLE - 1)]
    (root / "groups.csv").write_text("\n".join(["person,group", *grouped]))
    return root


def evaluate(bundle: Bundle, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", "--bundle", str(bundle.path), *map(str, arguments)])


def found(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, (result.output, result.exception)
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def failure(result: Result) -> str:
    assert isinstance(result.exception, FacemarginError), (result.output, result.exception)
    return str(result.exception)


def words(result: Result) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return re.sub(r"\s+", " ", re.sub(r"[│┃]", " ", result.stdout))


def test_a_bin_gives_the_figures_of_the_list_it_was_made_of(tiny_bundle: Bundle, lfw: Path, tmp_path: Path) -> None:
    target = tmp_path / "lfw.bin"
    made = CliRunner().invoke(
        app, ["data", "pairs", str(lfw / "pairs.txt"), str(target), "--images", str(lfw / "images")]
    )
    assert "80 pairs (40 genuine) of 80 pictures; its ten equal parts are not the folds of the list" in words(made)
    listed = found(
        evaluate(tiny_bundle, "--images", lfw / "images", "--pairs", lfw / "pairs.txt", "--aligned", "--json")
    )
    packed = found(evaluate(tiny_bundle, "--images", target, "--json"))
    assert (packed["protocol"], packed["folds"]) == ("lfw.bin, folds 1-10", list(range(1, 11)))
    for figure in ("eer", "auc"):
        assert packed[figure]["value"] == pytest.approx(listed[figure]["value"])
    assert [row["threshold"] for row in packed["tar"]] == pytest.approx([row["threshold"] for row in listed["tar"]])
    assert (listed["people_known"], packed["people_known"]) == (True, False)
    assert (listed["people"], listed["duplicate_pairs"]) == (20, 0)
    text = words(evaluate(tiny_bundle, "--images", target))
    assert "people unknown: groups of photographs linked by genuine pairs" in text
    assert "resamples of the groups" in text


def test_the_real_bin_has_no_impostors_and_says_so(tiny_bundle: Bundle, shared_data: Path) -> None:
    path = shared_data / "insightface" / "small_lfw.bin"
    assert "small_lfw.bin has 10 genuine and 0 impostor pairs; an evaluation needs both" in failure(
        evaluate(tiny_bundle, "--images", path)
    )


def test_missing_and_unreadable_pictures_fail_or_are_counted(tiny_bundle: Bundle, lfw: Path, tmp_path: Path) -> None:
    for folder in (lfw / "images").iterdir():
        (tmp_path / folder.name).mkdir()
        for path in folder.iterdir():
            (tmp_path / folder.name / path.name).symlink_to(path)
    (tmp_path / "P3" / "P3_0001.png").unlink()
    (tmp_path / "P4" / "P4_0003.png").unlink()
    (tmp_path / "P4" / "P4_0003.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    common = ("--images", tmp_path, "--pairs", lfw / "pairs.txt", "--aligned")
    assert "1 of 80 photographs of the protocol are not in" in failure(evaluate(tiny_bundle, *common))
    second = failure(evaluate(tiny_bundle, *common, "--missing", "skip"))
    assert "1 of 79 pictures cannot be used:" in second
    assert "P4_0003.png" in second
    assert "--on-bad skip leaves their pairs out" in second
    kept = found(evaluate(tiny_bundle, *common, "--missing", "skip", "--on-bad", "skip", "--json"))
    assert kept["left_out"]["missing"] == ["P3/P3_0001"]
    assert list(kept["left_out"]["unreadable"]) == ["P4/P4_0003"]
    assert (kept["left_out"]["pairs"], kept["genuine_pairs"], kept["impostor_pairs"]) == (4, 38, 38)
    text = words(evaluate(tiny_bundle, *common, "--missing", "skip", "--on-bad", "skip"))
    assert "LEFT OUT: 4 pairs, for 1 missing and 1 unreadable pictures" in text
    rates = found(
        evaluate(
            tiny_bundle, *common, "--missing", "skip", "--on-bad", "skip", "--groups", lfw / "groups.csv", "--json"
        )
    )["groups"]
    assert sum(row["fnmr"]["pairs"] for row in rates["groups"]) == 38 - 2  # without P19, who has no group


def test_rates_by_group_at_one_threshold(make_tiny_bundle: Any, lfw: Path) -> None:
    bundle = make_tiny_bundle()
    common = ("--images", lfw / "images", "--pairs", lfw / "pairs.txt", "--aligned", "--groups", lfw / "groups.csv")
    report = found(evaluate(bundle, *common, "--at-fmr", "0.1", "--json"))
    rates = report["groups"]
    assert (rates["chosen"], rates["fmr_asked"]) == ("pairs", 0.1)
    assert rates["threshold"] == pytest.approx(report["tar"][0]["threshold"])
    assert [(row["group"], row["people"], row["fnmr"]["pairs"]) for row in rates["groups"]] == [
        ("even", 10, 20),
        ("odd", 9, 18),
    ]
    assert rates["ungrouped"] == ["P19"]
    assert rates["ungrouped_pairs"] == 6  # two genuine pairs, and an impostor pair at either end of two
    total = sum(row["fmr"]["pairs"] for row in rates["groups"]) + rates["across"]["pairs"]
    assert total + rates["ungrouped_pairs"] - 2 == report["impostor_pairs"]
    assert rates["fnmr_ratio"]["ratio"] is None
    text = words(evaluate(bundle, *common, "--at-fmr", "0.1"))
    assert "by group, at cosine" in text
    assert "fewer than 30" in text
    assert "largest ratio of FNMR: not supported" in text
    assert "1 people without a group, 6 pairs left out" in text
    own = found(evaluate(bundle, *common, "--at-fmr", "0.1", "--threshold-from", "calibration", "--json"))["groups"]
    calibration = bundle.manifest.calibration
    assert calibration is not None
    assert (own["chosen"], own["threshold"]) == (
        "calibration",
        pytest.approx(calibration.threshold(0.1, extrapolate=False).value),
    )
    bare = make_tiny_bundle(calibrated=False)
    assert "has no calibration" in failure(evaluate(bare, *common, "--threshold-from", "calibration"))


def test_groups_need_names(tiny_bundle: Bundle, lfw: Path, tmp_path: Path) -> None:
    CliRunner().invoke(
        app, ["data", "pairs", str(lfw / "pairs.txt"), str(tmp_path / "x.bin"), "--images", str(lfw / "images")]
    )
    message = failure(evaluate(tiny_bundle, "--images", tmp_path / "x.bin", "--groups", lfw / "groups.csv"))
    assert message == "x.bin does not tell who is in its pictures; error rates by group need names"
    assert "--all-pairs needs a folder a person" in failure(
        evaluate(tiny_bundle, "--images", tmp_path / "x.bin", "--all-pairs")
    )


def test_unsupported_rows_are_marked_and_on_request_refused(tiny_bundle: Bundle, lfw: Path) -> None:
    common = ("--images", lfw / "images", "--pairs", lfw / "pairs.txt", "--aligned")
    assert "4 impostor errors of 40: fewer than 30" in words(evaluate(tiny_bundle, *common, "--far", "0.1"))
    refused = failure(evaluate(tiny_bundle, *common, "--far", "0.8,0.1", "--refuse-unsupported"))
    assert "needs 30 errors behind each row: tar@far=1e-1: 4 impostor errors of 40" in refused
    allowed = found(evaluate(tiny_bundle, *common, "--far", "0.8", "--refuse-unsupported", "--json"))
    assert [(row["far"], row["supported"]) for row in allowed["tar"]] == [(0.8, True)]
    assert "--far must be numbers" in failure(evaluate(tiny_bundle, *common, "--far", "low"))
    assert "--far must be rates in (0, 1]" in failure(evaluate(tiny_bundle, *common, "--far", "1e-2,0"))


def test_the_command_of_old_still_does_all_it_did(make_tiny_bundle: Any, lfw: Path, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(metrics=())
    common = ("--images", lfw / "images", "--pairs", lfw / "pairs.txt", "--folds", "1-2", "--aligned")
    done = evaluate(
        bundle, *common, "--all-pairs", "--roc", tmp_path / "roc.svg", "--histogram", tmp_path / "h.png", "--record"
    )
    text = words(done)
    assert "pairs.txt, folds 1-2" in text
    assert "threshold of each fold from the other folds" in text
    assert "all pairs of pairs.txt, folds 1-2" in text
    assert (tmp_path / "roc.svg").is_file()
    assert (tmp_path / "h.png").is_file()
    recorded = {(record.protocol, record.name) for record in load_bundle(bundle.path).manifest.metrics}
    assert ("pairs.txt, folds 1-2", "accuracy") in recorded
    assert ("all pairs of pairs.txt, folds 1-2", "tar@far=1e-3") in recorded
    assert "leave --flip-sum" in failure(evaluate(bundle, *common, "--record", "--flip-sum"))
    assert "must end in .png or .svg" in failure(evaluate(bundle, *common, "--roc", "x.jpg"))


def test_a_set_cannot_be_packed_from_templates(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["data", "pairs", str(tmp_path), str(tmp_path / "x.bin"), "--images", str(tmp_path), "--protocol", "ijb-1:1"],
    )
    assert "--meta is needed" in failure(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--groups", "absent.csv"], "cannot read the group file"),
        (["--groups", "strangers.csv"], "nobody of .* has a group: it calls its people as in 'P0', .* as in 'p0'"),
        (["--groups", "groups.csv", "--threshold-from", "calibration"], "has no calibration"),
    ],
)
def test_mistakes_in_options_are_told_before_anything_is_embedded(
    make_tiny_bundle: Any, lfw: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setattr("training.evaluate.evaluate_pair_set", lambda *_, **__: pytest.fail("it was embedded"))
    (lfw / "strangers.csv").write_text("person,group\np0,a\np1,b\n")
    monkeypatch.chdir(lfw)
    common = ("--images", "images", "--pairs", "pairs.txt", "--aligned")
    assert re.search(message, failure(evaluate(make_tiny_bundle(calibrated=False), *common, *options)))


@pytest.mark.parametrize("options", [["--all-pairs"], ["--groups", "groups.csv"]])
def test_options_that_need_names_are_refused_before_a_bin_is_embedded(
    tiny_bundle: Bundle, lfw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.chdir(lfw)
    CliRunner().invoke(app, ["data", "pairs", "pairs.txt", str(tmp_path / "x.bin"), "--images", "images"])
    monkeypatch.setattr("training.evaluate.evaluate_pair_set", lambda *_, **__: pytest.fail("it was embedded"))
    assert "name" in failure(evaluate(tiny_bundle, "--images", tmp_path / "x.bin", *options))


def test_a_threshold_that_the_calibration_does_not_support_is_told_first(
    tiny_bundle: Bundle, lfw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluate.evaluate_pair_set", lambda *_, **__: pytest.fail("it was embedded"))
    monkeypatch.chdir(lfw)
    common = ("--images", "images", "--pairs", "pairs.txt", "--aligned", "--groups", "groups.csv")
    result = evaluate(tiny_bundle, *common, "--at-fmr", "1e-9", "--threshold-from", "calibration")
    assert isinstance(result.exception, UnsupportedFmrError)
