"""Settings from arguments and environment, read when the app is made."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facemargin.errors import BundleError, ConfigError, ModelNotFoundError
from service.app import create_app
from service.settings import Settings, read_settings


def test_from_the_environment_and_arguments_before_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACEMARGIN_BUNDLE", "/somewhere")
    monkeypatch.setenv("FACEMARGIN_STORE", str(tmp_path))
    monkeypatch.setenv("FACEMARGIN_MAX_FACES", "3")
    settings = read_settings(bundle=Path("/elsewhere"), detector=None)
    assert (settings.bundle, settings.store, settings.max_faces) == (Path("/elsewhere"), tmp_path, 3)
    assert settings.detector is None


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACEMARGIN_BUNDLE", raising=False)
    with pytest.raises(ConfigError, match=r"bundle \(--bundle or FACEMARGIN_BUNDLE\)"):
        read_settings(store=Path("x"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("index", "annoy"),
        ("templates", "worst"),
        ("default_max_fmr", 0),
        ("default_max_fpir", 1),
        ("max_body_bytes", 1),
        ("inference_threads", -1),
        ("max_wait_ms", 0),
        ("onnx_provider", "tpu"),
        ("idempotency_hours", 0),
        ("max_facse", 3),
    ],
)
def test_what_is_wrong_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        read_settings(bundle=Path("b"), store=Path("s"), **{name: value})


def test_the_app_reads_the_environment_when_it_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Any
) -> None:
    monkeypatch.setenv("FACEMARGIN_BUNDLE", str(tiny_bundle.path))
    monkeypatch.setenv("FACEMARGIN_STORE", str(tmp_path / "store"))
    app = create_app()
    assert app.state.service.settings.store == tmp_path / "store"
    app.state.service.close()


def test_a_detector_that_is_named_must_be_there(tmp_path: Path, tiny_bundle: Any) -> None:
    with pytest.raises(ModelNotFoundError, match=r"nowhere\.onnx"):
        create_app(Settings(bundle=tiny_bundle.path, store=tmp_path / "store", detector=tmp_path / "nowhere.onnx"))
    assert not (tmp_path / "store").exists()


def test_a_damaged_bundle_opens_no_store(tmp_path: Path, make_tiny_bundle: Any) -> None:
    bundle = make_tiny_bundle()
    (bundle.path / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="empty"):
        create_app(Settings(bundle=bundle.path, store=tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_the_service_does_not_import_torch_or_training() -> None:
    code = (
        "import sys, service.app, service.server, service.cli;"
        "bad = {'torch', 'torchvision', 'training', 'onnx', 'matplotlib'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(bad)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_line_imports_nothing_heavy_to_show_its_help() -> None:
    code = (
        "import sys, service.cli;"
        "bad = {'fastapi', 'sqlalchemy', 'numpy', 'onnxruntime', 'faiss'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(bad)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
