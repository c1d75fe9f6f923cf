"""IJB's lists: what they say, and what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest

from facemargin.errors import ConfigError, DataError
from training.data.protocols import Source
from training.data.protocols.ijb import load_ijb_pairs, load_ijb_search

FACES = ["1.jpg 10 1", "2.jpg 10 2", "3.jpg 10 2", "4.jpg 20 1"]
POINTS = "30 50 70 50 50 70 35 90 65 90"
LISTS = {
    "ijbc_face_tid_mid.txt": FACES,
    "ijbc_name_5pts_score.txt": [f"{k}.jpg {POINTS} 0.{k}" for k in range(1, 5)],
    "ijbc_template_pair_label.txt": ["10 20 0", "10 10 1"],
    "ijbc_1N_gallery_G1.csv": ["TEMPLATE_ID,SUBJECT_ID,FILENAME", "10,1,img/1.jpg", "10,1,img/2.jpg"],
    "ijbc_1N_gallery_G2.csv": ["TEMPLATE_ID,SUBJECT_ID,FILENAME", "20,2,img/4.jpg"],
    "ijbc_1N_probe_mixed.csv": ["TEMPLATE_ID,SUBJECT_ID,FILENAME", "10,1,img/1.jpg", "20,2,img/4.jpg"],
}


def lists(root: Path, **changes: list[str] | None) -> Source:
    (root / "crops").mkdir()
    (root / "meta").mkdir()
    for k in range(1, 5):
        (root / "crops" / f"{k}.jpg").touch()
    for name, lines in {**LISTS, **{f"ijbc_{key}": value for key, value in changes.items()}}.items():
        if lines is not None:
            (root / "meta" / name).write_text("\n".join(lines) + "\n")
    return Source(images=root / "crops", meta=root / "meta")


def test_the_lists_are_joined_by_name(tmp_path: Path) -> None:
    shuffled = list(reversed(LISTS["ijbc_name_5pts_score.txt"]))
    found = load_ijb_pairs(lists(tmp_path, **{"name_5pts_score.txt": shuffled}))
    assert found.name == "ijbc 1:1"
    assert found.faces.template.tolist() == [10, 10, 10, 20]
    assert found.faces.media.tolist() == [1, 2, 2, 1]
    np.testing.assert_allclose(found.faces.score, [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    assert found.faces.landmarks[0].tolist() == [[30, 50], [70, 50], [50, 70], [35, 90], [65, 90]]
    assert [picture.path.name for picture in found.faces.pictures] == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert (found.first.tolist(), found.second.tolist(), found.same.tolist()) == ([10, 10], [20, 10], [False, True])


def test_galleries_and_probes_hold_each_template_once(tmp_path: Path) -> None:
    found = load_ijb_search(lists(tmp_path))
    assert [(g.name, g.templates.tolist(), g.subjects.tolist()) for g in found.galleries] == [
        ("G1", [10], [1]),
        ("G2", [20], [2]),
    ]
    assert (found.probes.templates.tolist(), found.probes.subjects.tolist()) == ([10, 20], [1, 2])


def test_a_missing_crop_is_named_or_left_out(tmp_path: Path) -> None:
    source = lists(tmp_path)
    (source.images / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 4 photographs .*2.jpg; --missing skip"):
        load_ijb_pairs(source)
    found = load_ijb_pairs(Source(images=source.images, meta=source.meta, missing="skip")).faces
    assert found.missing == ("2.jpg",)
    assert found.template.tolist() == [10, 10, 20]
    np.testing.assert_allclose(found.score, [0.1, 0.3, 0.4], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("face_tid_mid.txt", None, r"must have one \*_face_tid_mid.txt, not 0"),
        ("face_tid_mid.txt", ["1.jpg 10"], "line 1: expected 'name template media', not '1.jpg 10'"),
        ("face_tid_mid.txt", [*FACES, "9.jpg 20 2"], r"1 of 5 faces have no landmarks .*9.jpg"),
        ("name_5pts_score.txt", ["1.jpg 1 2 3"], "line 1: expected a new name, x1 y1"),
        ("name_5pts_score.txt", [f"1.jpg {POINTS} nan"], "line 1: expected a new name"),
        ("name_5pts_score.txt", [f"1.jpg {POINTS} 1"] * 2, "line 2: expected a new name"),
        ("template_pair_label.txt", ["10 20"], "must have lines 'template template 0|1'"),
        ("template_pair_label.txt", ["10 20 2"], "must have lines 'template template 0|1'"),
        ("template_pair_label.txt", [], "must have lines 'template template 0|1'"),
    ],
)
def test_mistakes_in_the_lists_of_pairs_are_named(
    name: str, lines: list[str] | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message.replace("0|1", r"0\|1")):
        load_ijb_pairs(lists(tmp_path, **{name: lines}))


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("1N_gallery_G2.csv", ["TEMPLATE_ID,SUBJECT_ID", "30,1"], "share 1 subjects, among them 1;"),
        ("1N_gallery_G2.csv", ["TEMPLATE,SUBJECT", "30,1"], "a CSV with the columns TEMPLATE_ID and SUBJECT_ID"),
        ("1N_gallery_G2.csv", ["TEMPLATE_ID,SUBJECT_ID", "x,1"], "a CSV with the columns"),
        ("1N_gallery_G2.csv", ["TEMPLATE_ID,SUBJECT_ID", "30,2", "30,3"], "line 3: template 30 has two subjects"),
        ("1N_gallery_G2.csv", ["TEMPLATE_ID,SUBJECT_ID"], "has no templates"),
        ("1N_probe_mixed.csv", None, r"must have one \*_1N_probe_mixed.csv, not 0"),
    ],
)
def test_mistakes_in_the_lists_of_a_search_are_named(
    name: str, lines: list[str] | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        load_ijb_search(lists(tmp_path, **{name: lines}))


def test_what_ijb_does_not_have_is_asked_for_in_words(tmp_path: Path) -> None:
    source = lists(tmp_path)
    with pytest.raises(ConfigError, match="--meta is needed"):
        load_ijb_pairs(Source(images=source.images))
    with pytest.raises(ConfigError, match="IJB has no folds"):
        load_ijb_pairs(Source(images=source.images, meta=source.meta, folds=(1,)))
    with pytest.raises(DataError, match="there is no folder"):
        load_ijb_search(Source(images=source.images, meta=tmp_path / "absent"))
    for path in tmp_path.glob("meta/*gallery*"):
        path.unlink()
    with pytest.raises(DataError, match="has no gallery"):
        load_ijb_search(source)
