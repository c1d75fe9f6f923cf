"""Model files that facemargin uses but does not ship: where they come from, where they lie, how they are checked."""

import contextlib
import hashlib
import os
import secrets
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from facemargin.errors import ModelNotFoundError
from facemargin.flushing import flush

MODELS_VARIABLE = "FACEMARGIN_MODELS"
"""Environment variable with the folder of model files; by default the user's cache folder."""

_TIMEOUT_S = 60
_LARGEST_DOWNLOAD = 64 * 1024 * 1024


@dataclass(frozen=True)
class DownloadableModel:
    """A public model file.

    Attributes:
        name: as `facemargin models pull` takes it.
        filename: its name in the models folder.
        url: where it is published.
        sha256: what its bytes must hash to, in hexadecimal.
        licence: SPDX identifier.
        purpose: what facemargin uses it for.
    """

    name: str
    filename: str
    url: str
    sha256: str
    licence: str
    purpose: str


MODELS: dict[str, DownloadableModel] = {
    "yunet": DownloadableModel(
        name="yunet",
        filename="yunet_n_dynamic.onnx",
        url="https://github.com/ShiqiYu/libfacedetection.train/raw/master/onnx/yunet_n_dynamic.onnx",
        sha256="104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
        licence="Apache-2.0",
        purpose="face detection with five landmarks",
    ),
}


def models_folder() -> Path:
    """The folder of model files: $FACEMARGIN_MODELS, else the user's cache folder."""
    chosen = os.environ.get(MODELS_VARIABLE)
    return Path(chosen) if chosen else user_cache_path("facemargin") / "models"


def locate(name: str) -> Path:
    """The file of a model on this machine, its hash checked.

    Raises:
        ModelNotFoundError: it is not here, or is not the published file; the message says how to get it.
        ValueError: an unknown name.
    """
    model = _named(name)
    path = models_folder() / model.filename
    advice = f"get it with `facemargin models pull {name}` (or set {MODELS_VARIABLE} to the folder that holds it)"
    if not path.is_file():
        raise ModelNotFoundError(f"the model '{name}' ({model.purpose}) is not at {path}: {advice}")
    if _sha256(path.read_bytes()) != model.sha256:
        raise ModelNotFoundError(f"{path} is not the published file of '{name}' (its SHA-256 differs): {advice}")
    return path


def pull(name: str, source: Path | None = None) -> Path:
    """Fetch a model from where it is published, or from a file, and put it where `locate` finds it.

    The hash is checked before anything is written; the write is atomic.

    Args:
        name: a name in `MODELS`.
        source: a local copy to take instead of downloading.

    Returns:
        The file in the models folder.

    Raises:
        ModelNotFoundError: it cannot be read or downloaded, or its bytes are not the published ones.
        ValueError: an unknown name.
    """
    model = _named(name)
    origin = model.url if source is None else str(source)
    try:
        data = _download(model.url) if source is None else source.read_bytes()
    except OSError as error:
        raise ModelNotFoundError(f"cannot read {origin}: {error}; `--from FILE` takes a local copy") from error
    found = _sha256(data)
    if found != model.sha256:
        raise ModelNotFoundError(
            f"{origin} is not the published file of '{name}': SHA-256 {found}, expected {model.sha256}; "
            "nothing was written"
        )
    target = models_folder() / model.filename
    _write_atomically(target, data)
    return target


def _named(name: str) -> DownloadableModel:
    if name not in MODELS:
        raise ValueError(f"name must be one of {', '.join(MODELS)}; got {name!r}")
    return MODELS[name]


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
        data: bytes = response.read(_LARGEST_DOWNLOAD)
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_atomically(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            flush(file)
        temporary.replace(target)
    except OSError as error:
        raise ModelNotFoundError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
