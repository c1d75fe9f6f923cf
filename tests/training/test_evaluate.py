"""Evaluation and calibration end to end on small pictures, and on real photographs where they are at hand."""

import io
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

from facemargin.bundle import Bundle, Manifest, load_bundle, write_bundle
from facemargin.embedder import Embedder
from facemargin.errors import CalibrationError, DataError
from facemargin.metrics import TarAtFar, all_pairs, eer, kfold_accuracy, tar_at_far
from facemargin.preprocessing import Detector, encode_png
from training.align import align_folder
from training.all_pairs import embed_people, evaluate_all_pairs, tar_over_people
from training.calibration import calibrate_bundle
from training.data.lfw_open import lfw_open
from training.data.pairs import Pairs, read_pairs
from training.data.protocols.lfw import pairs_of
from training.data.protocols.source import Source
from training.evaluate import evaluate_bundle, evaluate_pair_set, evaluate_pairs
from training.evaluation_report import AllPairsReport, EvaluationReport, short_rate
from training.validation_set import load_validation, validate_pairs

PEOPLE, PHOTOS = 30, 4


def pooled(crops: np.ndarray) -> np.ndarray:
    """A poor but honest model: 8 x 8 average colours, centred, unit length."""
    count, height, width, _ = crops.shape
    blocks = crops.reshape(count, 8, height // 8, 8, width // 8, 3).mean(axis=(2, 4)).reshape(count, -1)
    blocks = (blocks - blocks.mean(axis=1, keepdims=True)).astype(np.float32)
    return blocks / np.linalg.norm(blocks, axis=1, keepdims=True)


def write_faces(root: Path) -> None:
    """Blurry coloured patterns, one for each person, under noise."""
    random = np.random.default_rng(0)
    for person in range(PEOPLE):
        own = random.normal(0, 22, (8, 8, 3))
        for photo in range(1, PHOTOS + 1):
            pattern = np.kron(own + random.normal(0, 40, own.shape), np.ones((14, 14, 1))) + 128
            path = root / f"P{person}" / f"P{person}_{photo:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(pattern.clip(0, 255).astype(np.uint8)))


def write_protocol(path: Path) -> Path:
    """Three folds of ten people: twenty genuine and twenty impostor pairs each."""
    lines = ["3\t20"]
    for fold in range(3):
        people = range(10 * fold, 10 * fold + 10)
        lines += [f"P{p}\t{a}\t{a + 1}" for p in people for a in (1, 3)]
        lines += [f"P{p}\t{a}\tP{10 * fold + (p + a) % 10}\t{a + 1}" for p in people for a in (1, 3)]
    path.write_text("\n".join(lines))
    return path


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(table)
    return console.export_text()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faces")
    write_faces(root)
    return root


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return read_pairs(write_protocol(tmp_path_factory.mktemp("protocol") / "pairs.txt"))


@pytest.fixture(scope="module")
def report(faces: Path, pairs: Pairs) -> EvaluationReport:
    return evaluate_pairs(pooled, pairs, faces, aligned=True, protocol="patterns", resamples=200)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """The model of `pooled` as far as ONNX goes: average pooling, flattened."""
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[14, 14], strides=[14, 14]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "pooling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 192])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    manifest = Manifest(name="pooling", embedding_dim=192, opset=17)
    return write_bundle(tmp_path / "bundle", manifest, {"model.onnx": model.SerializeToString()})


def test_the_report_holds_the_figures_of_its_similarities(report: EvaluationReport, pairs: Pairs) -> None:
    similarity = np.array(report.similarity)
    expected = kfold_accuracy(similarity, pairs.same, pairs.fold)
    assert report.accuracy_method == "k-fold"
    assert report.accuracy.value == pytest.approx(expected.mean)
    assert report.accuracy_std == pytest.approx(expected.std)
    assert report.accuracy_stderr == pytest.approx(expected.std / np.sqrt(3))
    assert report.accuracy_per_fold == expected.per_fold
    assert report.eer.value == pytest.approx(eer(report.genuine, report.impostor))
    assert [row.far for row in report.tar] == [1e-1, 1e-2, 1e-3]
    for row in report.tar:
        assert row.tar.value == pytest.approx(tar_at_far(report.genuine, report.impostor, row.far).tar)
        assert not row.supported
        assert row.measurable == (row.far == 1e-1)
    for estimate in (report.accuracy, report.eer, report.auc, report.tar[0].tar):
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high
    assert 0.6 < report.accuracy.value < 1.0  # neither chance nor a test that cannot fail


def test_the_report_counts(report: EvaluationReport) -> None:
    assert (report.genuine_pairs, report.impostor_pairs, report.people, report.photos) == (60, 60, 30, 120)
    assert report.not_acquired == ()
    assert report.protocol == "patterns, folds 1-3"
    assert not report.flip_sum


def test_every_photograph_is_embedded_once(faces: Path, pairs: Pairs) -> None:
    seen: list[bytes] = []

    def counting(crops: np.ndarray) -> np.ndarray:
        seen.extend(crop.tobytes() for crop in crops)
        return pooled(crops)

    evaluate_pairs(counting, pairs, faces, aligned=True, resamples=10)
    assert len(seen) == len(set(seen)) == 120


def test_one_fold_is_measured_by_halves_and_says_so(faces: Path, pairs: Pairs) -> None:
    report = evaluate_pairs(pooled, pairs, faces, folds=[2], aligned=True, resamples=50)
    assert report.accuracy_method == "halves"
    assert report.protocol == "pairs, fold 2"
    assert len(report.accuracy_per_fold) == 2
    assert report.records()[0].name == "accuracy-halves"
    assert "not a k-fold accuracy" in printed(report.to_table())


def test_json_and_table_and_records(report: EvaluationReport) -> None:
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report
    assert json.loads(report.model_dump_json())["genuine_pairs"] == 60
    text = printed(report.to_table())
    for expected in ("accuracy", "EER", "AUC", "TAR at FMR 1e-2", "cannot be measured", f"{report.accuracy.value:.4f}"):
        assert expected in text
    names = [record.name for record in report.records()]
    assert names == ["accuracy", "eer", "auc", "tar@far=1e-1", "tar@far=1e-2", "tar@far=1e-3"]


def test_photographs_that_were_not_detected_score_minus_one(faces: Path, pairs: Pairs, tmp_path: Path) -> None:
    """An aligned folder without P0's first crop: an error, unless the alignment reports it as not detected."""
    for folder in faces.iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "P0").unlink()
    (tmp_path / "P0").mkdir()
    for number in (2, 3, 4):
        name = f"P0_{number:04d}.png"
        (tmp_path / "P0" / name).symlink_to(faces / "P0" / name)
    with pytest.raises(DataError, match=r"1 of 120 photographs .* P0/P0_0001"):
        evaluate_pairs(pooled, pairs, tmp_path, aligned=True, resamples=10)
    report = {
        "settings": {
            "template": "arcface-112",
            "face": "central",
            "crop_format": "png",
            "score_threshold": 0.6,
            "detector_sha256": "0" * 64,
        },
        "complete": True,
        "people": 30,
        "images": 120,
        "aligned": 119,
        "aligned_before": 0,
        "not_detected": ["P0/P0_0001.jpg"],
        "unreadable": [],
        "several_faces": {},
        "people_without_faces": [],
        "other_files": 0,
        "seconds": 1.0,
        "images_per_second": 120.0,
    }
    (tmp_path / "align-report.json").write_text(json.dumps(report))
    found = evaluate_pairs(pooled, pairs, tmp_path, aligned=True, resamples=10)
    assert found.not_acquired == ("P0/P0_0001",)
    touched = [k for k, (a, b) in enumerate(zip(pairs.first, pairs.second, strict=True)) if ("P0", 1) in (a, b)]
    assert len(touched) == 2
    assert all(found.similarity[k] == -1 for k in touched)
    assert sum(similarity == -1 for similarity in found.similarity) == 2
    vectors, people = embed_people(pooled, tmp_path, ["P0", "P1"], aligned=True)
    assert (len(vectors), people.count("P0")) == (7, 3)
    validation = validate_pairs(pooled, load_validation(pairs, tmp_path))
    assert validation.accuracy == pytest.approx(found.accuracy.value)
    (tmp_path / "align-report.json").write_text("{}")
    with pytest.raises(DataError, match="is not a report"):
        evaluate_pairs(pooled, pairs, tmp_path, aligned=True, resamples=10)


def test_pictures_of_another_shape_are_not_aligned_crops(faces: Path, pairs: Pairs) -> None:
    with pytest.raises(DataError, match="not a crop aligned to sphereface-112x96"):
        evaluate_pairs(pooled, pairs, faces, aligned=True, template="sphereface-112x96", resamples=10)


def test_a_single_pair_of_a_kind_is_refused(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("1\nP0 1 2\nP0 1 P1 1\n")
    with pytest.raises(DataError, match="a single pair of a kind"):
        evaluate_pairs(pooled, read_pairs(tmp_path / "pairs.txt"), faces, aligned=True)


def test_validation_agrees_with_the_evaluation(faces: Path, pairs: Pairs, report: EvaluationReport) -> None:
    found = validate_pairs(pooled, load_validation(pairs, faces))
    assert found.accuracy == pytest.approx(report.accuracy.value)
    assert found.eer == pytest.approx(report.eer.value)
    assert found.tar_at_far_1e2 == pytest.approx(report.tar[1].tar.value)
    vectors, people = embed_people(pooled, faces, aligned=True)
    scores = all_pairs(vectors, people)
    assert found.all_pairs_eer == pytest.approx(eer(scores.genuine, scores.impostor))


def test_all_pairs(faces: Path) -> None:
    vectors, people = embed_people(pooled, faces, aligned=True)
    found = evaluate_all_pairs(vectors, people, protocol="patterns", fars=(1e-2, 1e-3, 1e-6), resamples=200)
    assert (found.images, found.people, found.genuine_pairs) == (120, 30, 30 * 6)
    assert found.impostor_pairs == 120 * 119 // 2 - 180
    assert [row.supported for row in found.rows] == [True, False, False]
    first = found.rows[0].tar
    assert first.low is not None
    assert first.high is not None
    assert first.low < first.value < first.high
    assert [record.name for record in found.records()] == ["tar@far=1e-2", "tar@far=1e-3"]
    assert AllPairsReport.model_validate_json(found.model_dump_json()) == found
    assert "cannot be measured" in printed(found.to_table())
    with pytest.raises(DataError, match="needs a person with two photographs"):
        evaluate_all_pairs(vectors[::4], people[::4])


def test_embed_people_takes_those_asked_for(faces: Path) -> None:
    vectors, people = embed_people(pooled, faces, ["P7", "P3"], aligned=True)
    assert people == ["P3"] * 4 + ["P7"] * 4
    assert vectors.shape == (8, 192)
    with pytest.raises(DataError, match="no folder for 1 of 2 people: Nobody"):
        embed_people(pooled, faces, ["P3", "Nobody"], aligned=True)


def test_a_bundle_is_evaluated_with_and_without_flip_sum(bundle: Bundle, faces: Path, pairs: Pairs) -> None:
    plain = evaluate_bundle(bundle, pairs, faces, aligned=True)
    flipped = evaluate_bundle(bundle, pairs, faces, aligned=True, flip_sum=True)
    assert (plain.flip_sum, flipped.flip_sum) == (False, True)
    assert plain.similarity != flipped.similarity
    assert not load_bundle(bundle.path).manifest.flip_sum


def test_calibration_is_written_to_the_manifest(bundle: Bundle, faces: Path) -> None:
    written = calibrate_bundle(bundle, faces, aligned=True, source="thirty patterns")
    calibration = load_bundle(bundle.path).manifest.calibration
    assert calibration == written.manifest.calibration
    assert calibration is not None
    assert (calibration.people, calibration.genuine_pairs, calibration.impostor_pairs) == (30, 180, 6960)
    assert calibration.source == "thirty patterns"
    assert written.model_id == bundle.model_id
    vectors, people = embed_people(Embedder(written).embed, faces, aligned=True)
    impostor = all_pairs(vectors, people).impostor
    assert np.mean(impostor >= calibration.threshold(0.05, extrapolate=False).value) == pytest.approx(0.05, abs=0.003)


def test_too_few_people_leave_the_bundle_as_it_was(bundle: Bundle, faces: Path) -> None:
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(CalibrationError, match="pairs of two people"):
        calibrate_bundle(bundle, faces, people=["P1", "P2", "P3"], aligned=True, source="three")
    assert (bundle.path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(("rate", "text"), [(1e-1, "1e-1"), (1e-6, "1e-6"), (0.005, "5e-3"), (0.0123, "0.0123")])
def test_rates_are_short_and_exact(rate: float, text: str) -> None:
    assert short_rate(rate) == text


def test_raw_and_aligned_photographs_give_the_same_figures(shared_data: Path, tmp_path: Path) -> None:
    """Real faces: detection and alignment within the evaluation equal a folder aligned before."""
    images = shared_data / "lfw" / "images"
    split = lfw_open(images, shared_data / "lfw" / "pairs.txt")
    few = split.validation_pairs
    chosen = [*range(8), *range(300, 308)]
    small = Pairs(
        first=tuple(few.first[k] for k in chosen),
        second=tuple(few.second[k] for k in chosen),
        same=few.same[chosen],
        fold=few.fold[chosen],
    )
    raw = tmp_path / "raw"
    raw.mkdir()
    for person in small.people():
        (raw / person).symlink_to(images / person)
    detector = Detector(shared_data / "models" / "yunet_n_dynamic.onnx")
    align_folder(raw, tmp_path / "aligned", detector=detector.model, workers=1)
    before = evaluate_pairs(pooled, small, raw, aligned=False, detector=detector, resamples=10)
    after = evaluate_pairs(pooled, small, tmp_path / "aligned", aligned=True, resamples=10)
    assert before.similarity == pytest.approx(after.similarity, abs=1e-6)
    assert before.not_acquired == after.not_acquired
    assert before.photos == len(small.photos())


def test_a_photograph_without_a_face_is_a_failure_to_acquire(shared_data: Path, tmp_path: Path) -> None:
    detector = Detector(shared_data / "models" / "yunet_n_dynamic.onnx")
    images = shared_data / "lfw" / "images"
    real = sorted(images.iterdir())[:2]
    for name, person in zip(("A", "B"), real, strict=True):
        (tmp_path / name).mkdir()
        photo = next(person.iterdir())
        for number in (1, 2, 3):
            (tmp_path / name / f"{name}_{number:04d}.jpg").write_bytes(photo.read_bytes())
    (tmp_path / "A" / "A_0003.jpg").unlink()
    (tmp_path / "A" / "A_0003.png").write_bytes(encode_png(np.full((200, 200, 3), 90, np.uint8)))
    (tmp_path / "pairs.txt").write_text("2\nA 1 2\nA 1 3\nA 1 B 1\nA 3 B 2\n")
    protocol = read_pairs(tmp_path / "pairs.txt")
    report = evaluate_pairs(pooled, protocol, tmp_path, aligned=False, detector=detector, resamples=10)
    assert report.not_acquired == ("A/A_0003",)
    assert report.similarity[0] == pytest.approx(1.0, abs=1e-5)
    assert (report.similarity[1], report.similarity[3]) == (-1.0, -1.0)
    vectors, people = embed_people(pooled, tmp_path, aligned=False, detector=detector)
    assert (len(vectors), people.count("A")) == (5, 2)


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(example, "docs/evaluation.md", "exec"), {})
    assert "TarAtFar(far=0.001" in capsys.readouterr().out


def test_pairs_left_out_for_an_unreadable_picture_leave_the_others_their_own_embeddings(
    faces: Path, pairs: Pairs, report: EvaluationReport, tmp_path: Path
) -> None:
    for path in faces.glob("*/*.png"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).symlink_to(path)
    broken = tmp_path / "P15" / "P15_0002.png"
    broken.unlink()
    broken.write_bytes(b"torn")
    chosen = pairs_of(pairs, Source(images=tmp_path, aligned=True), name="patterns")
    found = evaluate_pair_set(pooled, chosen, on_bad="skip", resamples=20)
    bad = chosen.photos.index("P15/P15_0002")
    assert 0 < bad < len(chosen.photos) - 1
    kept = (chosen.first != bad) & (chosen.second != bad)
    assert 0 < found.left_out.pairs == int((~kept).sum())
    assert found.similarity == pytest.approx(np.array(report.similarity)[kept], abs=1e-6)


def test_a_genuine_pair_exactly_at_the_threshold_is_accepted() -> None:
    persons = [np.array([0.5], dtype=np.float32)] * 3
    at = TarAtFar(far=0.1, tar=1.0, threshold=0.5, fmr=0.1, impostors=400, errors=40, measurable=True, supported=True)
    found = tar_over_people(at, persons, resamples=20, seed=0)
    assert (found.low, found.high) == (1, 1)
