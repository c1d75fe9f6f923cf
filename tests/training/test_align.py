import shutil
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from rich.console import Console

from facemargin.errors import DataError, ModelNotFoundError
from facemargin.preprocessing import Detector, align, encode_png, read_image
from training.align import REPORT_NAME, AlignReport, align_folder
from training.align import workers as align_workers


class Aligned(NamedTuple):
    target: Path
    report: AlignReport
    printed: str


PEOPLE = ("Aaron_Peirsol", "Abdullah_Gul", "Abel_Pacheco")


@pytest.fixture(autouse=True, scope="module")
def one_processor() -> Iterator[None]:
    """OpenCV's own threads make small pictures slower, above all on a busy machine."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)


@pytest.fixture(scope="module")
def detector(shared_data: Path) -> Path:
    return shared_data / "models" / "yunet_n_dynamic.onnx"


@pytest.fixture(scope="module")
def prepared(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people with 4, 19 and 4 photographs, one with every kind of trouble, and files that are no photographs."""
    root = tmp_path_factory.mktemp("align") / "photographs"
    for person in PEOPLE:
        shutil.copytree(shared_data / "lfw" / "images" / person, root / person)
    trouble = root / "Trouble"
    trouble.mkdir()
    shutil.copy(shared_data / "photos" / "t1.jpg", trouble / "group.jpg")
    (trouble / "black.png").write_bytes(encode_png(np.zeros((200, 200, 3), np.uint8)))
    (trouble / "text.jpg").write_text("this is text")
    (trouble / "truncated.JPG").write_bytes((trouble / "group.jpg").read_bytes()[:30_000])
    (trouble / "notes.txt").write_text("no picture")
    (trouble / ".hidden.jpg").write_text("no picture")
    (root / "README").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def whole(prepared: Path, detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Aligned:
    """All of it aligned in one go: read it, never change it."""
    target = tmp_path_factory.mktemp("whole") / "aligned"
    output = StringIO()
    report = align_folder(prepared, target, detector=detector, workers=1, console=Console(file=output))
    return Aligned(target, report, output.getvalue())


@pytest.fixture
def source(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "photographs"))


def crops_of(target: Path) -> dict[str, bytes]:
    return {str(path.relative_to(target)): path.read_bytes() for path in sorted(target.rglob("*.*g"))}


def facts(report: AlignReport) -> dict[str, object]:
    return report.model_dump(exclude={"seconds", "images_per_second", "aligned_before"})


def test_crops_and_report(prepared: Path, whole: Aligned) -> None:
    target, report, printed = whole
    images = sum(len(list((prepared / person).iterdir())) for person in PEOPLE)
    assert (report.people, report.images, report.other_files) == (4, images + 4, 3)
    assert (report.aligned, report.aligned_before, report.complete) == (images + 1, 0, True)
    assert report.not_detected == ("Trouble/black.png",)
    assert [entry.file for entry in report.unreadable] == ["Trouble/text.jpg", "Trouble/truncated.JPG"]
    assert report.unreadable[0].error.startswith("not an image in an accepted format")
    assert "truncated" in report.unreadable[1].error
    assert report.several_faces["Trouble/group.jpg"] == 6
    assert report.people_without_faces == ()
    assert report.detection_rate == pytest.approx((images + 1) / (images + 2))
    assert report.images_per_second > 0
    assert "without a face" in printed
    assert AlignReport.model_validate_json((target / REPORT_NAME).read_bytes()) == report
    found = crops_of(target)
    assert len(found) == images + 1
    assert "Trouble/group.png" in found
    assert sorted(path.name for path in target.iterdir()) == sorted([*PEOPLE, "Trouble", REPORT_NAME])
    assert {read_image(target / name).shape for name in found} == {(112, 112, 3)}


def test_a_crop_is_what_serving_computes(prepared: Path, whole: Aligned, detector: Path) -> None:
    finder = Detector(detector)
    for name in ("Aaron_Peirsol_0001", "Aaron_Peirsol_0003"):
        image = read_image(prepared / "Aaron_Peirsol" / f"{name}.jpg")
        faces = finder.detect(image)
        assert len(faces) == 1
        crop = read_image(whole.target / "Aaron_Peirsol" / f"{name}.png")
        np.testing.assert_array_equal(crop, align(image, faces[0].landmarks))


def test_worker_processes_make_the_same(prepared: Path, whole: Aligned, tmp_path: Path, detector: Path) -> None:
    together = align_folder(prepared, tmp_path / "together", detector=detector, workers=2)
    assert facts(together) == facts(whole.report)
    assert crops_of(tmp_path / "together") == crops_of(whole.target)


def test_a_second_run_only_makes_what_is_missing(source: Path, whole: Aligned, tmp_path: Path, detector: Path) -> None:
    target = Path(shutil.copytree(whole.target, tmp_path / "aligned"))
    first, before = whole.report, crops_of(target)
    (target / "Abdullah_Gul" / "Abdullah_Gul_0004.png").unlink()
    kept = target / "Abdullah_Gul" / "Abdullah_Gul_0005.png"
    kept.write_bytes(b"marked")
    shutil.copy(source / "Abel_Pacheco" / "Abel_Pacheco_0001.jpg", source / "Trouble" / "text.jpg")
    second = align_folder(source, target, detector=detector, workers=1)
    assert second.aligned_before == first.aligned - 1
    assert second.aligned == first.aligned + 1  # the missing one, and the unreadable one that was replaced
    assert second.not_detected == first.not_detected
    assert [entry.file for entry in second.unreadable] == ["Trouble/truncated.JPG"]
    assert second.several_faces == first.several_faces
    assert kept.read_bytes() == b"marked"
    anew = align_folder(source, target, detector=detector, workers=1, resume=False)
    assert anew.aligned_before == 0
    assert {name: data for name, data in crops_of(target).items() if name in before} == before


def interrupting(after: int) -> Callable[..., object]:
    original = align_workers.align_one
    calls = 0

    def align_one(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return original(*arguments)

    return align_one


def test_an_interrupted_run_goes_on(
    source: Path, whole: Aligned, tmp_path: Path, detector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "aligned"
    with monkeypatch.context() as patch:
        patch.setattr(align_workers, "align_one", interrupting(20))
        with pytest.raises(KeyboardInterrupt):
            align_folder(source, target, detector=detector, workers=1)
    partial = AlignReport.model_validate_json((target / REPORT_NAME).read_bytes())
    assert (partial.complete, partial.people_without_faces) == (False, ())
    assert 16 <= len(crops_of(target)) <= 20
    assert not list(target.rglob("*.part"))
    resumed = align_folder(source, target, detector=detector, workers=1)
    assert resumed.aligned_before >= 16
    assert facts(resumed) == {**facts(whole.report), "several_faces": resumed.several_faces}
    assert crops_of(target) == crops_of(whole.target)


def test_other_settings_do_not_mix(source: Path, whole: Aligned, tmp_path: Path, detector: Path) -> None:
    target = Path(shutil.copytree(whole.target, tmp_path / "aligned"))
    before = crops_of(target)
    with pytest.raises(DataError, match=r"with other settings \(template, crop_format\)"):
        align_folder(source, target, detector=detector, workers=1, template="sphereface-112x96", crop_format="jpeg")
    assert crops_of(target) == before
    (target / REPORT_NAME).write_text('{"half": ')
    with pytest.raises(DataError, match="no report that can be resumed from"):
        align_folder(source, target, detector=detector, workers=1)


def test_another_template_as_jpeg(source: Path, tmp_path: Path, detector: Path) -> None:
    for folder in ("Abdullah_Gul", "Trouble"):
        shutil.rmtree(source / folder)
    target = tmp_path / "aligned"
    align_folder(source, target, detector=detector, workers=1, template="sphereface-112x96", crop_format="jpeg")
    names = list(crops_of(target))
    assert len(names) == 8
    assert all(name.endswith(".jpg") for name in names)
    assert {read_image(target / name).shape for name in names} == {(112, 96, 3)}


def test_the_face_that_is_meant(shared_data: Path, tmp_path: Path, detector: Path) -> None:
    """A large face at the border and a smaller one in the middle: the policy decides."""
    face = read_image(shared_data / "lfw" / "images" / "Aaron_Peirsol" / "Aaron_Peirsol_0001.jpg")[50:200, 60:190]
    picture = np.full((600, 800, 3), 128, np.uint8)
    picture[:300, :260] = cv2.resize(face, (260, 300))
    picture[220:370, 335:465] = face
    person = tmp_path / "photographs" / "person"
    person.mkdir(parents=True)
    (person / "two.png").write_bytes(encode_png(picture))
    largest, small = Detector(detector).detect(picture)
    for policy, expected in (("central", small), ("largest", largest)):
        report = align_folder(tmp_path / "photographs", tmp_path / policy, detector=detector, workers=1, face=policy)
        assert report.several_faces == {"person/two.png": 2}
        crop = read_image(tmp_path / policy / "person" / "two.png")
        np.testing.assert_array_equal(crop, align(picture, expected.landmarks))


def test_photographs_that_differ_only_in_the_ending_both_get_a_crop(
    shared_data: Path, tmp_path: Path, detector: Path
) -> None:
    photograph = shared_data / "lfw" / "images" / "Aaron_Peirsol" / "Aaron_Peirsol_0001.jpg"
    person = tmp_path / "photographs" / "person"
    person.mkdir(parents=True)
    shutil.copy(photograph, person / "a.jpg")
    shutil.copy(photograph, person / "a.jpeg")
    report = align_folder(tmp_path / "photographs", tmp_path / "aligned", detector=detector, workers=1)
    assert report.aligned == 2
    assert sorted(crops_of(tmp_path / "aligned")) == ["person/a.jpeg.png", "person/a.jpg.png"]


def test_people_without_a_single_face_are_named(tmp_path: Path, detector: Path) -> None:
    person = tmp_path / "photographs" / "Nobody"
    person.mkdir(parents=True)
    (person / "black.png").write_bytes(encode_png(np.zeros((100, 100, 3), np.uint8)))
    report = align_folder(tmp_path / "photographs", tmp_path / "aligned", detector=detector, workers=1)
    assert report.people_without_faces == ("Nobody",)
    assert report.detection_rate == 0
    assert [path.name for path in (tmp_path / "aligned").iterdir()] == [REPORT_NAME]


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Two person folders that need no real data."""
    for person in ("anna", "ben"):
        (tmp_path / "photographs" / person).mkdir(parents=True)
        (tmp_path / "photographs" / person / "1.png").write_bytes(encode_png(np.zeros((50, 50, 3), np.uint8)))
    return tmp_path / "photographs"


def test_an_empty_person_folder_is_named(drawn: Path, tmp_path: Path) -> None:
    (drawn / "carla").mkdir()
    (drawn / "carla" / "notes.txt").write_text("no picture")
    with pytest.raises(DataError, match=r"1 person folder\(s\) without a photograph: carla; add photographs"):
        align_folder(drawn, tmp_path / "aligned")
    assert not (tmp_path / "aligned").exists()


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("nothing", "aligned", "no such folder"),
        ("photographs", "photographs", "must not lie in one another"),
        ("photographs", "photographs/aligned", "must not lie in one another"),
        ("photographs/anna", "photographs", "must not lie in one another"),
        ("photographs/anna", "aligned", "no person folders"),
    ],
)
def test_folders_that_cannot_be_used(drawn: Path, tmp_path: Path, source: str, target: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        align_folder(tmp_path / source, tmp_path / target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photographs"]


def test_no_detector(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="facemargin models pull yunet"):
        align_folder(drawn, tmp_path / "aligned", detector=tmp_path / "nothing.onnx")
    assert not (tmp_path / "aligned").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"crop_format": "gif"}, "crop_format must be one of png, jpeg; got 'gif'"),
        ({"face": "first"}, "face must be one of central, largest; got 'first'"),
        ({"template": "nose"}, "template must be one of"),
        ({"score_threshold": 2.0}, "score_threshold must be in"),
    ],
)
def test_wrong_options(drawn: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align_folder(drawn, tmp_path / "aligned", **options)


def test_a_target_that_cannot_be_written(drawn: Path, tmp_path: Path, detector: Path) -> None:
    (tmp_path / "aligned").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        align_folder(drawn, tmp_path / "aligned", detector=detector, workers=1)
