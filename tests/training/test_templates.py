"""IJB's templates: pooling by hand, scores and searches against loops, and both protocols through the command line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from facemargin.bundle import load_bundle
from facemargin.cli import app
from facemargin.errors import ConfigError, DataError, FacemarginError
from facemargin.metrics import tar_at_far
from facemargin.preprocessing import align, encode_png, template_named
from training import templates as module
from training.data.protocols.ijb import load_ijb_pairs, load_ijb_search
from training.data.protocols.source import Source
from training.templates import (
    Templates,
    evaluate_template_pairs,
    evaluate_template_search,
    pool_templates,
    template_similarities,
)

SUBJECTS, PER_SUBJECT = 24, 3
POINTS = template_named("arcface-112").points


def unit(*rows: list[float]) -> np.ndarray:
    vectors = np.array(rows, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_frames_of_one_video_count_as_one_photograph() -> None:
    """Template 5: a video of two frames along x and one along y, and a photograph along z; worked by hand."""
    faces = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]], dtype=np.float32)
    found = pool_templates(faces, np.array([5, 5, 5, 5, 2]), np.array([1, 1, 1, 9, 1]))
    assert found.ids.tolist() == [2, 5]
    # m_1 = (2/3, 1/3, 0), m_9 = (0, 0, 1); their sum has the length sqrt(4/9 + 1/9 + 1) = sqrt(14) / 3.
    np.testing.assert_allclose(found.vectors, [[0, 1, 0], np.array([2, 1, 3]) / np.sqrt(14)], rtol=1e-6)


def test_a_detection_score_weighs_a_face_within_its_media_and_the_media() -> None:
    faces = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float32)
    weights = np.array([0.8, 0.2, 0.5])
    found = pool_templates(faces, np.array([1, 1, 1]), np.array([1, 1, 2]), weights=weights)
    # m_1 = (0.8 x + 0.2 y) / 2 = (0.4, 0.1), m_2 = 0.5 y; sum (0.4, 0.6).
    np.testing.assert_allclose(found.vectors, unit([0.4, 0.6]), rtol=1e-6)


def test_pooling_agrees_with_a_loop() -> None:
    random = np.random.default_rng(0)
    vectors = unit(*random.normal(size=(200, 8)).tolist())
    template, media = random.integers(0, 12, 200) * 7, random.integers(0, 6, 200)
    weights = random.random(200)
    found = pool_templates(vectors, template, media, weights=weights)
    for number, row in zip(found.ids, found.vectors, strict=True):
        total = np.zeros(8)
        for one in set(media[template == number]):
            rows = np.flatnonzero((template == number) & (media == one))
            total += sum(weights[k] * vectors[k] for k in rows) / rows.size
        np.testing.assert_allclose(row, total / np.linalg.norm(total), atol=1e-6)


def test_one_face_is_its_own_template_and_order_does_not_matter() -> None:
    random = np.random.default_rng(1)
    vectors = unit(*random.normal(size=(30, 4)).tolist()).astype(np.float32)
    alone = pool_templates(vectors, np.arange(30), np.zeros(30, dtype=np.int64))
    np.testing.assert_allclose(alone.vectors, vectors, atol=1e-6)
    template, media, order = random.integers(0, 5, 30), random.integers(0, 3, 30), random.permutation(30)
    np.testing.assert_allclose(
        pool_templates(vectors, template, media).vectors,
        pool_templates(vectors[order], template[order], media[order]).vectors,
        atol=1e-6,
    )


def test_wrong_input_to_pooling_is_named() -> None:
    one = np.eye(2)
    numbers = np.array([1, 1])
    with pytest.raises(ValueError, match=r"one entry for each of the 2 vectors"):
        pool_templates(one, numbers[:1], numbers)
    with pytest.raises(ValueError, match="at least one"):
        pool_templates(np.empty((0, 2)), numbers[:0], numbers[:0])
    with pytest.raises(ValueError, match="not negative"):
        pool_templates(one, numbers, numbers, weights=np.array([1, -1]))
    with pytest.raises(DataError, match="template 1 has no direction"):
        pool_templates(one, numbers, numbers, weights=np.zeros(2))
    with pytest.raises(DataError, match="template 1 has no direction"):
        pool_templates(np.array([[1, 0], [-1, 0]]), numbers, np.array([1, 2]))


def test_scores_in_blocks_are_the_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 7)
    random = np.random.default_rng(2)
    vectors = unit(*random.normal(size=(10, 4)).tolist()).astype(np.float32)
    first, second = random.integers(0, 10, (2, 40))
    found = template_similarities(Templates(np.arange(10), vectors), first, second)
    np.testing.assert_allclose(found, [vectors[a] @ vectors[b] for a, b in zip(first, second, strict=True)], atol=1e-6)


def test_rows_of_templates_that_are_not_there_are_minus_one() -> None:
    pooled = Templates(np.array([3, 5, 9]), np.eye(3, dtype=np.float32))
    assert pooled.rows(np.array([9, 4, 3, 100, 5, 0])).tolist() == [2, -1, 0, -1, 1, -1]


@pytest.fixture(scope="module")
def ijb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn people in IJB's layout: a template to enrol and two to search with, each of a video and a photograph.

    The pictures are larger than a crop, with the face where the given landmarks say; the last two people are in no
    gallery.
    """
    root = tmp_path_factory.mktemp("ijb")
    (root / "loose_crop").mkdir()
    (root / "meta").mkdir()
    random = np.random.default_rng(3)
    faces, points = [], []
    for subject in range(SUBJECTS):
        own = random.normal(0, 12, (7, 7, 3))
        for number in range(PER_SUBJECT):
            for media in (1, 1, 2):
                pattern = np.kron(own + random.normal(0, 40, own.shape), np.ones((16, 16, 1))) + 128
                picture = np.zeros((150, 140, 3), dtype=np.uint8)
                picture[20:132, 10:122] = pattern.clip(0, 255)
                name = f"{len(faces) + 1}.png"
                (root / "loose_crop" / name).write_bytes(encode_png(picture))
                faces.append(f"{name} {100 * subject + number} {media}")
                where = " ".join(f"{value:.3f}" for value in np.add(POINTS, (10, 20)).ravel())
                points.append(f"{name} {where} {random.uniform(0.5, 1):.3f}")
    pairs = [
        (100 * a + i, 100 * b + j, int(a == b))
        for a in range(SUBJECTS) for b in range(a, SUBJECTS) for i in range(PER_SUBJECT) for j in range(PER_SUBJECT)
        if a < b or i < j
    ]  # fmt: skip
    half = (SUBJECTS - 2) // 2
    galleries = {"G1": range(half), "G2": range(half, SUBJECTS - 2)}
    lists = {
        "ijbx_face_tid_mid.txt": faces,
        "ijbx_name_5pts_score.txt": points,
        "ijbx_template_pair_label.txt": [" ".join(map(str, pair)) for pair in pairs],
        "ijbx_1N_probe_mixed.csv": _enrolled((100 * s + n, s) for s in range(SUBJECTS) for n in (1, 2)),
        **{f"ijbx_1N_gallery_{name}.csv": _enrolled((100 * s, s) for s in found) for name, found in galleries.items()},
    }
    for name, lines in lists.items():
        (root / "meta" / name).write_text("\n".join(lines) + "\n")
    return root


def _enrolled(rows: Iterator[tuple[int, int]]) -> list[str]:
    return ["TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID", *(f"{t},{s},x.png,1" for t, s in rows)]


@pytest.fixture
def source(ijb: Path) -> Source:
    return Source(images=ijb / "loose_crop", meta=ijb / "meta")


def pooled_colours(crops: np.ndarray) -> np.ndarray:
    """A poor but honest model: 7 x 7 average colours, centred, unit length."""
    blocks = crops.reshape(len(crops), 7, 16, 7, 16, 3).mean(axis=(2, 4)).reshape(len(crops), -1)
    blocks = (blocks - blocks.mean(axis=1, keepdims=True)).astype(np.float32)
    return blocks / np.linalg.norm(blocks, axis=1, keepdims=True)


def slow_templates(source: Source, weighted: bool) -> dict[int, np.ndarray]:
    """The templates by a loop over the lists, independent of the reader and of the pooling."""
    points = {
        name: [float(value) for value in rest]
        for name, *rest in (
            line.split() for line in (source.meta / "ijbx_name_5pts_score.txt").read_text().splitlines()
        )
    }
    media: dict[tuple[int, int], list[np.ndarray]] = {}
    for line in (source.meta / "ijbx_face_tid_mid.txt").read_text().splitlines():
        name, template, number = line.split()
        import cv2

        picture = cv2.imread(str(source.images / name))[:, :, ::-1]
        crop = align(np.ascontiguousarray(picture), np.reshape(points[name][:10], (5, 2)))
        weight = points[name][10] if weighted else 1.0
        media.setdefault((int(template), int(number)), []).append(weight * pooled_colours(crop[None])[0])
    found: dict[int, np.ndarray] = {}
    for (template, _), vectors in media.items():
        found[template] = found.get(template, 0) + np.mean(vectors, axis=0)
    return {template: vector / np.linalg.norm(vector) for template, vector in found.items()}


@pytest.mark.parametrize("weighted", [False, True])
def test_verification_agrees_with_a_loop(source: Source, weighted: bool) -> None:
    protocol = load_ijb_pairs(source)
    report = evaluate_template_pairs(pooled_colours, protocol, score_weights=weighted, resamples=50)
    vectors = slow_templates(source, weighted)
    cosines = np.array([vectors[a] @ vectors[b] for a, b in zip(protocol.first, protocol.second, strict=True)])
    genuine, impostor = cosines[protocol.same], cosines[~protocol.same]
    assert (report.genuine_pairs, report.impostor_pairs) == (genuine.size, impostor.size) == (72, 2484)
    assert (report.people, report.templates, report.faces.faces, report.faces.media) == (24, 72, 216, 144)
    assert [row.far for row in report.rows] == [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    for row in report.rows:
        expected = tar_at_far(genuine, impostor, row.far)
        assert row.tar.value == pytest.approx(expected.tar)
        assert row.threshold == pytest.approx(expected.threshold, abs=1e-5)
        assert row.errors == expected.errors
        assert row.tar.low is not None
        assert row.tar.low <= row.tar.value <= row.tar.high
    assert [row.supported for row in report.rows] == [True, False, False, False, False, False]
    assert 0.2 < report.rows[2].tar.value < 1


def test_search_agrees_with_a_loop(source: Source) -> None:
    report = evaluate_template_search(pooled_colours, load_ijb_search(source))
    vectors = slow_templates(source, False)
    assert (report.probes, report.probes_without_mate) == (48, 4)
    for gallery, subjects in zip(report.galleries, (range(11), range(11, 22)), strict=True):
        ranks, mated, strangers = [], [], []
        for subject in range(SUBJECTS):
            for number in (1, 2):
                scores = {s: float(vectors[100 * s] @ vectors[100 * subject + number]) for s in subjects}
                if subject in scores:
                    mated.append(scores[subject])
                    ranks.append(1 + sum(score > scores[subject] for score in scores.values()))
                else:
                    strangers.append(max(scores.values()))
        assert (gallery.subjects, gallery.mated, gallery.strangers) == (11, 22, 26)
        assert gallery.ranks == {k: pytest.approx(np.mean(np.array(ranks) <= k)) for k in (1, 5, 10)}
        for row in gallery.fnir:
            allowed = int(row.bound * len(strangers))
            threshold = sorted(strangers)[-1 - allowed]  # at most so many strangers lie above it
            missed = np.mean((np.array(mated) <= threshold) | (np.array(ranks) > 1))
            assert row.fnir == pytest.approx(missed)
        assert not any(row.supported for row in gallery.fnir)
    mean = report.mean()
    assert list(mean) == ["rank-1", "rank-5", "rank-10", "fnir@fpir=1e-1", "fnir@fpir=1e-2"]
    assert mean["rank-1"] == pytest.approx(np.mean([gallery.ranks[1] for gallery in report.galleries]))
    names = [record.name for record in report.records()]
    assert names == ["rank-1", "rank-5", "rank-10", "fnir@fpir=1e-1"]  # 26 strangers cannot measure 1e-2


def test_templates_without_a_face_are_named_or_counted(source: Source) -> None:
    protocol = load_ijb_pairs(source)
    protocol = type(protocol)(
        protocol.name, protocol.faces, np.append(protocol.first, [0, 9999]), np.append(protocol.second, [9998, 1]),
        np.append(protocol.same, [True, False]),
    )  # fmt: skip
    with pytest.raises(DataError, match="2 templates of the protocol have no face: 9998, 9999; --missing skip"):
        evaluate_template_pairs(pooled_colours, protocol, resamples=5)
    report = evaluate_template_pairs(pooled_colours, protocol, skip_missing=True, resamples=5)
    assert (report.templates_without_faces, report.pairs_left_out) == ((9998, 9999), 2)
    assert report.genuine_pairs == 72


def evaluate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def failure(result: Result) -> str:
    assert isinstance(result.exception, FacemarginError), result.output
    return str(result.exception)


def test_both_protocols_by_command(make_tiny_bundle: Any, ijb: Path) -> None:
    bundle = make_tiny_bundle(metrics=())
    common = ("--bundle", bundle.path, "--images", ijb / "loose_crop", "--meta", ijb / "meta")
    verified = evaluate(*common, "--protocol", "ijb-1:1", "--face-weights", "score", "--record", "--json")
    assert verified.exit_code == 0, verified.output
    found = json.loads(verified.stdout)
    assert (found["genuine_pairs"], found["faces"]["score_weights"], len(found["rows"])) == (72, True, 6)
    searched = evaluate(*common, "--protocol", "ijb-1:n", "--record")
    assert searched.exit_code == 0, searched.output
    text = re.sub(r"\s+", " ", re.sub(r"[│┃]", " ", searched.stdout))
    for expected in ("gallery G1", "gallery G2", "rank-10", "48 probes, 4 of them in no gallery", "fnir at fpir 1e-1"):
        assert expected in text
    names = {(record.protocol, record.name) for record in load_bundle(bundle.path).manifest.metrics}
    assert {("ijbx 1:1", "tar@far=1e-2"), ("ijbx 1:1", "eer"), ("ijbx 1:N", "rank-1")} <= names
    assert "may be ijb-1:1 or ijb-1:n" in failure(evaluate(*common))
    assert "--groups cannot go with IJB" in failure(evaluate(*common, "--protocol", "ijb-1:1", "--groups", "x.csv"))
    assert "--far belongs to 1:1" in failure(evaluate(*common, "--protocol", "ijb-1:n", "--far", "1e-1"))
    refused = failure(evaluate(*common, "--protocol", "ijb-1:1", "--far", "1e-1,1e-2", "--refuse-unsupported"))
    assert "needs 30 errors behind each row: tar@far=1e-2: 24 impostor errors of 2,484" in refused


def test_unreadable_faces_are_named_or_left_out(source: Source, tmp_path: Path) -> None:
    for path in source.images.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for name in ("1.png", "4.png", "5.png", "6.png"):  # the whole second template, and a frame of the first
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(b"no picture")
    protocol = load_ijb_pairs(Source(images=tmp_path, meta=source.meta))
    with pytest.raises(DataError, match=r"4 of 216 pictures cannot be used: .*1.png"):
        evaluate_template_pairs(pooled_colours, protocol, resamples=5)
    report = evaluate_template_pairs(pooled_colours, protocol, on_bad="skip", resamples=5)
    assert set(report.faces.unreadable) == {"1.png", "4.png", "5.png", "6.png"}
    assert report.templates_without_faces == (1,)
    assert report.pairs_left_out == 71
    assert report.genuine_pairs == 70


def test_a_search_needs_a_mate_and_a_stranger(source: Source) -> None:
    protocol = load_ijb_search(source)
    alone = type(protocol)(protocol.name, protocol.faces, protocol.galleries[:1], protocol.galleries[0])
    with pytest.raises(DataError, match="gallery G1 has 11 probes with a mate and 0 strangers"):
        evaluate_template_search(pooled_colours, alone)


def test_folds_do_not_go_with_ijb(source: Source) -> None:
    with pytest.raises(ConfigError, match="IJB has no folds"):
        load_ijb_pairs(Source(images=source.images, meta=source.meta, folds=(1,)))
