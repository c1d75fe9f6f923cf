import hashlib
from pathlib import Path

import pytest

from facemargin import models
from facemargin.errors import ModelNotFoundError

CONTENT = b"a detector, as it were"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    published = tmp_path / "published.onnx"
    published.write_bytes(CONTENT)
    model = models.DownloadableModel(
        name="yunet",
        filename="yunet.onnx",
        url=published.as_uri(),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="Apache-2.0",
        purpose="face detection",
    )
    monkeypatch.setitem(models.MODELS, "yunet", model)
    monkeypatch.setenv("FACEMARGIN_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_a_model_that_is_not_here_says_how_to_get_it(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="facemargin models pull yunet") as caught:
        models.locate("yunet")
    assert str(folder) in str(caught.value)


def test_pull_then_locate(folder: Path) -> None:
    path = models.pull("yunet")
    assert path == folder / "yunet.onnx"
    assert path.read_bytes() == CONTENT
    assert models.locate("yunet") == path
    assert [entry.name for entry in folder.iterdir()] == ["yunet.onnx"]


def test_pull_from_a_local_copy(tmp_path: Path) -> None:
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(CONTENT)
    assert models.pull("yunet", copy).read_bytes() == CONTENT


def test_another_file_is_refused_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(CONTENT + b"!")
    with pytest.raises(ModelNotFoundError, match=r"SHA-256 .* nothing was written"):
        models.pull("yunet", wrong)
    assert not folder.exists()


def test_a_source_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFoundError, match=r"nothing\.onnx.*--from FILE"):
        models.pull("yunet", tmp_path / "nothing.onnx")
    (tmp_path / "published.onnx").unlink()
    with pytest.raises(ModelNotFoundError, match="cannot read file:"):
        models.pull("yunet")


def test_a_damaged_file_is_noticed(folder: Path) -> None:
    models.pull("yunet").write_bytes(CONTENT[:-1])
    with pytest.raises(ModelNotFoundError, match="SHA-256 differs"):
        models.locate("yunet")


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    folder.write_bytes(b"a file where the folder should be")
    with pytest.raises(ModelNotFoundError, match="cannot be written"):
        models.pull("yunet")


def test_an_unknown_name_lists_the_known_ones() -> None:
    for function in (models.locate, models.pull):
        with pytest.raises(ValueError, match="one of yunet; got 'nose'"):
            function("nose")


def test_without_the_variable_the_cache_folder_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACEMARGIN_MODELS")
    assert models.models_folder().parts[-2:] == ("facemargin", "models")
    monkeypatch.setenv("FACEMARGIN_MODELS", "")
    assert models.models_folder().is_absolute()


def test_the_registered_hash_is_that_of_the_published_detector(shared_data: Path, monkeypatch) -> None:
    monkeypatch.undo()
    model = models.MODELS["yunet"]
    assert hashlib.sha256((shared_data / "models" / model.filename).read_bytes()).hexdigest() == model.sha256
