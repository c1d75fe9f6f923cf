import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from facemargin.bundle import (
    FORMAT_VERSION,
    Bundle,
    Manifest,
    MetricRecord,
    library_versions,
    load_bundle,
    update_manifest,
    write_bundle,
)
from facemargin.errors import BundleError
from facemargin.preprocessing import PRESETS

MODEL = b"pretend this is a network"


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        name="test",
        embedding_dim=4,
        opset=17,
        preprocessing=PRESETS["sphereface"],
        backbone={"name": "iresnet18", "width": 0.5, "input_size": [112, 96]},
        metrics=(MetricRecord(protocol="lfw", name="accuracy", value=0.9, low=0.8, high=0.95),),
        versions={"torch": "2.11.0"},
    )


@pytest.fixture
def bundle(tmp_path: Path, manifest: Manifest) -> Bundle:
    return write_bundle(tmp_path / "bundle", manifest, {"model.onnx": MODEL, "weights.safetensors": b"weights"})


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def edit(bundle: Bundle, change: Callable[[dict[str, Any]], Any]) -> None:
    path = bundle.path / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_is_written_is_what_is_loaded(bundle: Bundle, manifest: Manifest) -> None:
    loaded = load_bundle(bundle.path)
    assert loaded == bundle
    assert loaded.manifest.model_copy(update={"files": {}, "versions": manifest.versions}) == manifest
    assert entries(bundle.path) == ["manifest.json", "model.onnx", "weights.safetensors"]
    assert entries(bundle.path.parent) == ["bundle"]
    assert loaded.model_path.read_bytes() == MODEL
    assert loaded.manifest.format_version == FORMAT_VERSION
    assert loaded.manifest.versions == library_versions() | {"torch": "2.11.0"}
    assert {"python", "numpy", "onnxruntime", "opencv-python-headless"} <= set(loaded.manifest.versions)


def test_calibration_travels_in_the_manifest(tiny_bundle: Bundle) -> None:
    calibration = load_bundle(tiny_bundle.path).manifest.calibration
    assert calibration is not None
    assert calibration == tiny_bundle.manifest.calibration
    assert calibration.threshold(1e-2, extrapolate=False).value == pytest.approx(0.3997, abs=0.01)


def test_the_model_id_names_the_embedding_space(tmp_path: Path, bundle: Bundle, manifest: Manifest) -> None:
    def model_id(model: bytes = MODEL, **changes: Any) -> str:
        changed = manifest.model_copy(update=changes)
        return write_bundle(tmp_path / "other", changed, {"model.onnx": model}, overwrite=True).model_id

    assert len(bundle.model_id) == 16
    assert model_id() == bundle.model_id
    assert model_id(name="another", card="words", licence="MIT", metrics=(), backbone=None) == bundle.model_id
    different = {
        model_id(MODEL + b"!"),
        model_id(flip_sum=True),
        model_id(preprocessing=PRESETS["insightface"]),
        model_id(preprocessing=PRESETS["opencv-sface"]),
        bundle.model_id,
    }
    assert len(different) == 5


def test_an_unwritten_manifest_has_no_model_id(manifest: Manifest) -> None:
    with pytest.raises(BundleError, match="once it is written"):
        _ = manifest.model_id


def remove_manifest(bundle: Bundle) -> None:
    (bundle.path / "manifest.json").unlink()


def truncate_manifest(bundle: Bundle) -> None:
    path = bundle.path / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])


def manifest_not_text(bundle: Bundle) -> None:
    (bundle.path / "manifest.json").write_bytes(b"\xff\xfe\x00")


def manifest_is_a_list(bundle: Bundle) -> None:
    (bundle.path / "manifest.json").write_text("[1, 2]")


def empty_model(bundle: Bundle) -> None:
    bundle.model_path.write_bytes(b"")


def changed_model(bundle: Bundle) -> None:
    bundle.model_path.write_bytes(MODEL[:-1] + b"!")


def folder_for_model(bundle: Bundle) -> None:
    bundle.model_path.unlink()
    bundle.model_path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda bundle: shutil.rmtree(bundle.path), "no such folder"),
        (lambda bundle: (shutil.rmtree(bundle.path), bundle.path.write_text("x")), "it is not a folder"),
        (remove_manifest, r"there is no manifest\.json"),
        (truncate_manifest, "not valid JSON"),
        (manifest_not_text, "not valid JSON"),
        (manifest_is_a_list, "must hold a JSON object"),
        (lambda bundle: edit(bundle, lambda content: content.update(format_version=99)), "version 99 is unknown"),
        (lambda bundle: edit(bundle, lambda content: content.pop("format_version")), "version None is unknown"),
        (lambda bundle: edit(bundle, lambda content: content.update(colour="rgb")), "unknown key 'colour'"),
        (
            lambda bundle: edit(bundle, lambda content: content["preprocessing"].update(gamma=2)),
            r"unknown key 'preprocessing\.gamma'",
        ),
        (lambda bundle: edit(bundle, lambda content: content.pop("embedding_dim")), "key 'embedding_dim' is missing"),
        (lambda bundle: edit(bundle, lambda content: content.update(embedding_dim=0)), "key 'embedding_dim' is wrong"),
        (lambda bundle: edit(bundle, lambda content: content["files"].pop("model.onnx")), r"lists no model\.onnx"),
        (
            lambda bundle: edit(bundle, lambda content: content["files"].update({"../../etc/passwd": "0" * 64})),
            "is wrong: Value error, file name must be",
        ),
        (lambda bundle: bundle.model_path.unlink(), r"model\.onnx is missing"),
        (lambda bundle: (bundle.path / "weights.safetensors").unlink(), r"weights\.safetensors is missing"),
        (lambda bundle: (bundle.path / "extra.txt").write_text("x"), r"extra\.txt is not listed"),
        (empty_model, r"model\.onnx is empty \(0 bytes\)"),
        (changed_model, r"model\.onnx was changed or damaged: its SHA-256"),
        (folder_for_model, r"model\.onnx is not a file"),
    ],
)
def test_every_damage_has_its_own_message(bundle: Bundle, damage: Callable[[Bundle], Any], message: str) -> None:
    damage(bundle)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(bundle.path)
    assert str(bundle.path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hidden_files_are_ignored(bundle: Bundle) -> None:
    (bundle.path / ".DS_Store").write_bytes(b"x")
    assert load_bundle(str(bundle.path)) == bundle


def test_an_existing_bundle_is_only_replaced_on_request(bundle: Bundle, manifest: Manifest) -> None:
    before = {name: (bundle.path / name).read_bytes() for name in entries(bundle.path)}
    with pytest.raises(BundleError, match="holds a bundle already"):
        write_bundle(bundle.path, manifest, {"model.onnx": b"new"})
    assert {name: (bundle.path / name).read_bytes() for name in entries(bundle.path)} == before
    replaced = write_bundle(bundle.path, manifest, {"model.onnx": b"new"}, overwrite=True)
    assert entries(bundle.path) == ["manifest.json", "model.onnx"]
    assert load_bundle(bundle.path) == replaced
    assert entries(bundle.path.parent) == ["bundle"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path, manifest: Manifest, overwrite: bool) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("words")
    with pytest.raises(BundleError, match="exists and is no bundle"):
        write_bundle(tmp_path / "thesis", manifest, {"model.onnx": MODEL}, overwrite=overwrite)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "words"
    assert entries(tmp_path) == ["thesis"]


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "a" / "b"):
        assert load_bundle(write_bundle(path, manifest, {"model.onnx": MODEL}).path).path == path


def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, bundle: Bundle, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = os.fsync

    def full_disk(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").resolve().name == "manifest.json":
            raise OSError(28, "No space left on device")
        synced(handle)

    monkeypatch.setattr(os, "fsync", full_disk)
    for path, overwrite in ((tmp_path / "new", False), (bundle.path, True)):
        with pytest.raises(BundleError, match="No space left on device"):
            write_bundle(path, manifest, {"model.onnx": b"other"}, overwrite=overwrite)
    assert entries(tmp_path) == ["bundle"]
    assert load_bundle(bundle.path) == bundle


def test_an_old_bundle_comes_back_when_the_new_cannot_take_its_place(
    bundle: Bundle, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refuses_the_new(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses_the_new)
    with pytest.raises(BundleError, match="Permission denied"):
        write_bundle(bundle.path, manifest, {"model.onnx": b"other"}, overwrite=True)
    assert entries(bundle.path.parent) == ["bundle"]
    assert load_bundle(bundle.path) == bundle


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"weights.safetensors": b"w"}, r"files must hold model\.onnx"),
        ({"model.onnx": b""}, r"file model\.onnx must not be empty"),
        ({"model.onnx": MODEL, "../x": b"x"}, "file name must be"),
        ({"model.onnx": MODEL, "manifest.json": b"{}"}, "file name must be"),
        ({"model.onnx": MODEL, ".hidden": b"x"}, "file name must be"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, manifest: Manifest, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_bundle(tmp_path / "bundle", manifest, files)
    assert entries(tmp_path) == []


def test_update_manifest_changes_only_the_manifest(bundle: Bundle) -> None:
    changed = update_manifest(bundle, bundle.manifest.model_copy(update={"card": "new words"}))
    assert load_bundle(bundle.path) == changed
    assert changed.manifest.card == "new words"
    assert changed.model_id == bundle.model_id
    assert entries(bundle.path) == ["manifest.json", "model.onnx", "weights.safetensors"]
    with pytest.raises(ValueError, match="files of the bundle unchanged"):
        update_manifest(bundle, bundle.manifest.model_copy(update={"files": {}}))
    with pytest.raises(ValidationError, match="embedding_dim"):
        update_manifest(bundle, bundle.manifest.model_copy(update={"embedding_dim": -1}))
    assert load_bundle(bundle.path) == changed


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"embedding_dim": 0},
        {"opset": 0},
        {"format_version": FORMAT_VERSION + 1},
        {"files": {"model.onnx": "abc"}},
        {"metrics": [{"protocol": "p", "name": "n", "value": float("nan")}]},
        {"bonus": 1},
    ],
)
def test_wrong_manifest_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Manifest.model_validate({"name": "n", "embedding_dim": 4, "opset": 17} | fields)
