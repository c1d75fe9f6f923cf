"""The exported model: one folder that says everything about itself and proves that nothing in it has changed.

Owns the manifest's fields, the reading with all its checks, and the writing that leaves a whole bundle or none. It runs
no model; that is `facemargin.embedder`.
"""

import contextlib
import hashlib
import json
import platform
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from facemargin.errors import BundleError
from facemargin.flushing import flush, flush_path
from facemargin.metrics.calibration import Calibration
from facemargin.preprocessing.normalise import Preprocessing

FORMAT_VERSION = 1
MODEL_NAME = "model.onnx"
WEIGHTS_NAME = "weights.safetensors"
MANIFEST_NAME = "manifest.json"

_PACKAGES = ("facemargin", "numpy", "pillow", "opencv-python-headless", "onnxruntime")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SHA256 = r"^[0-9a-f]{64}$"
_JSON = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _plain_file_name(name: str) -> str:
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
        raise ValueError(f"file name must be letters, digits, '.', '_', '-' and not {MANIFEST_NAME}; got {name!r}")
    return name


_Files = dict[Annotated[str, AfterValidator(_plain_file_name)], Annotated[str, Field(pattern=_SHA256)]]


class MetricRecord(BaseModel):
    """One measured figure.

    Attributes:
        protocol: on what, such as ``lfw-open folds 6-10``.
        name: of the figure, such as ``tar@far=1e-2``.
        value: the figure.
        low: lower end of its 95 % interval, where there is one.
        high: upper end.
    """

    model_config = _JSON

    protocol: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None


class Manifest(BaseModel):
    """Everything there is to know about a bundle; docs/bundle.md explains each field.

    Attributes:
        format_version: of the bundle's layout, `FORMAT_VERSION`.
        name: for people, such as ``iresnet18 am-softmax lfw-open``.
        embedding_dim: length of an embedding.
        preprocessing: how a photograph becomes network input.
        flip_sum: an embedding is the sum of the network's outputs for the crop and its mirror image.
        opset: ONNX opset of the model.
        backbone: name and arguments of the backbone; None for a foreign model.
        head: name and resolved options of the head it was trained with; None where unknown.
        data: fingerprint of the training data; None where unknown.
        metrics: measured figures with their protocols.
        card: a short description: what for, trained on what, known limits.
        licence: of the weights; an SPDX identifier where there is one.
        calibration: what a cosine means; None before `facemargin calibrate`.
        files: SHA-256 of every file beside the manifest.
        versions: of the libraries that made the bundle.
    """

    model_config = _JSON

    format_version: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)] = FORMAT_VERSION
    name: Annotated[str, Field(min_length=1)]
    embedding_dim: Annotated[int, Field(ge=1)]
    preprocessing: Preprocessing = Preprocessing()
    flip_sum: bool = False
    opset: Annotated[int, Field(ge=1)]
    backbone: dict[str, JsonValue] | None = None
    head: dict[str, JsonValue] | None = None
    data: dict[str, JsonValue] | None = None
    metrics: tuple[MetricRecord, ...] = ()
    card: str = ""
    licence: str = ""
    calibration: Calibration | None = None
    files: _Files = {}
    versions: dict[str, str] = {}

    @property
    def model_id(self) -> str:
        """Sixteen hexadecimal digits that name the embedding space.

        Two bundles have the same id exactly when their embeddings may be compared: same model file, same preprocessing,
        same flip-sum. Name, card, metrics and calibration do not count.

        Raises:
            BundleError: the manifest does not belong to a written bundle yet.
        """
        if MODEL_NAME not in self.files:
            raise BundleError(f"the manifest lists no {MODEL_NAME}; a bundle has a model id once it is written")
        space = [self.files[MODEL_NAME], self.preprocessing.model_dump(mode="json"), self.flip_sum]
        return hashlib.sha256(json.dumps(space, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files were checked against its manifest.

    Attributes:
        path: its folder.
        manifest: what it says about itself.
    """

    path: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL_NAME

    @property
    def model_id(self) -> str:
        """As `Manifest.model_id`."""
        return self.manifest.model_id


def load_bundle(path: Path | str) -> Bundle:
    """Read a bundle and check every file in it against the manifest.

    Args:
        path: its folder. Hidden files (``.DS_Store``) are ignored.

    Raises:
        BundleError: no such folder, no manifest, a manifest that is no JSON, has an unknown or wrong field or another
            format version, a file that is missing, empty, changed or not listed.
    """
    path = Path(path)
    with _io_errors(path):
        if not path.is_dir():
            reason = "it is not a folder" if path.exists() else "no such folder"
            raise BundleError(f"{path}: there is no bundle here ({reason})")
        manifest = _read_manifest(path / MANIFEST_NAME)
        _check_listing(path, manifest)
        for name, expected in manifest.files.items():
            _check_file(path / name, expected)
    return Bundle(path, manifest)


def write_bundle(
    path: Path | str, manifest: Manifest, files: Mapping[str, bytes], *, overwrite: bool = False
) -> Bundle:
    """Write a new bundle: the whole of it or nothing.

    Everything is written and flushed to a folder beside the target, which then takes its place by renaming. With
    `overwrite`, the old bundle is moved aside first and only then removed.

    Args:
        path: its folder; an empty folder may be there.
        manifest: its description; `files` and `versions` in it are filled in (given versions win).
        files: contents by name; ``model.onnx`` must be among them.
        overwrite: replace a bundle that is already there. A folder that is no bundle is never replaced.

    Raises:
        BundleError: something is there already, or it cannot be written.
        ValueError: no model, an empty file or a file name that is not plain.
    """
    path = Path(path)
    if MODEL_NAME not in files:
        raise ValueError(f"files must hold {MODEL_NAME}, got {sorted(files)}")
    for name, data in files.items():
        if not data:
            raise ValueError(f"file {name} must not be empty")
    whole = _revalidated(
        manifest,
        files={_plain_file_name(name): hashlib.sha256(data).hexdigest() for name, data in files.items()},
        versions=library_versions() | manifest.versions,
    )
    with _io_errors(path):
        _check_replaceable(path, overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        try:
            fresh.mkdir()
            for name, data in files.items():
                _write_synced(fresh / name, data)
            _write_synced(fresh / MANIFEST_NAME, _manifest_bytes(whole))
            flush_path(fresh)
            _take_place(fresh, path)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        flush_path(path.parent)
    return Bundle(path, whole)


def update_manifest(bundle: Bundle, manifest: Manifest) -> Bundle:
    """Replace the manifest of a written bundle, atomically; the files stay.

    Raises:
        BundleError: it cannot be written.
        ValueError: a manifest that lists other files.
    """
    if manifest.files != bundle.manifest.files:
        raise ValueError("manifest must list the files of the bundle unchanged; write a new bundle for other files")
    whole = _revalidated(manifest)
    temporary = bundle.path / f".{MANIFEST_NAME}.{secrets.token_hex(4)}.new"
    with _io_errors(bundle.path):
        try:
            _write_synced(temporary, _manifest_bytes(whole))
            temporary.replace(bundle.path / MANIFEST_NAME)
        finally:
            temporary.unlink(missing_ok=True)
        flush_path(bundle.path)
    return Bundle(bundle.path, whole)


def library_versions(*more: str) -> dict[str, str]:
    """Versions of Python and of the libraries that decide what a bundle computes.

    Args:
        more: further distributions to name; one that is not installed is left out.
    """
    versions = {"python": platform.python_version()}
    for package in (*_PACKAGES, *more):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _revalidated(manifest: Manifest, **changes: Any) -> Manifest:
    """The manifest with changes, validated again: `model_copy` alone checks nothing."""
    return Manifest.model_validate(dict(manifest) | changes)


def _manifest_bytes(manifest: Manifest) -> bytes:
    return manifest.model_dump_json(indent=2).encode() + b"\n"


def _read_manifest(path: Path) -> Manifest:
    if not path.is_file():
        raise BundleError(
            f"{path.parent}: there is no {MANIFEST_NAME}, so this is no bundle (or it was copied in part)"
        )
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise BundleError(f"{path} is not valid JSON ({error}); copy or export the bundle again") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} must hold a JSON object; copy or export the bundle again")
    found = content.get("format_version")
    if found != FORMAT_VERSION:
        raise BundleError(
            f"{path}: bundle format version {found!r} is unknown; this facemargin reads version {FORMAT_VERSION}: "
            "install the facemargin that wrote it, or export the bundle again"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{path}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key '{where}'; remove it or install the facemargin that wrote it"
        case "missing":
            return f"the key '{where}' is missing; export the bundle again"
        case _:
            return f"the key '{where}' is wrong: {problem['msg']}"


def _check_listing(path: Path, manifest: Manifest) -> None:
    present = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")} - {MANIFEST_NAME}
    if MODEL_NAME not in manifest.files:
        raise BundleError(f"{path / MANIFEST_NAME} lists no {MODEL_NAME}; export the bundle again")
    if missing := sorted(manifest.files.keys() - present):
        raise BundleError(f"{path}: {', '.join(missing)} is missing; copy the bundle again")
    if extra := sorted(present - manifest.files.keys()):
        raise BundleError(f"{path}: {', '.join(extra)} is not listed in {MANIFEST_NAME}; remove it from the bundle")


def _check_file(path: Path, expected: str) -> None:
    if not path.is_file():
        raise BundleError(f"{path} is not a file; copy the bundle again")
    if path.stat().st_size == 0:
        raise BundleError(f"{path} is empty (0 bytes); copy or export the bundle again")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise BundleError(
            f"{path} was changed or damaged: its SHA-256 is {found[:16]}…, {MANIFEST_NAME} says {expected[:16]}…; "
            "copy or export the bundle again"
        )


def _check_replaceable(path: Path, overwrite: bool) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / MANIFEST_NAME).is_file():
        raise BundleError(f"{path} exists and is no bundle; it is left as it is, choose another folder")
    if not overwrite:
        raise BundleError(f"{path} holds a bundle already; choose another folder or ask for overwriting")


def _take_place(fresh: Path, path: Path) -> None:
    """Rename the fresh folder to its place; an old one goes back there if that fails."""
    if not path.exists():
        fresh.rename(path)
        return
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    path.rename(old)
    try:
        fresh.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        flush(file)


@contextlib.contextmanager
def _io_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a BundleError that names the bundle."""
    try:
        yield
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error} ({error.filename or path})") from error
