"""Checkpoints: a folder with ``tensors.safetensors`` and a ``state.json`` that a person can read. No pickle.

A checkpoint is written beside its final place, synced to disk and renamed, so that it is whole or absent.
"""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from facemargin.errors import CheckpointError
from facemargin.flushing import flush_path

FORMAT_VERSION = 1
_STEP = re.compile(r"step-(\d{8})")
_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read back.

    Attributes:
        path: its folder.
        step: optimizer steps done.
        state: the nested state that was saved.
    """

    path: Path
    step: int
    state: dict[str, Any]


def _pack(value: Any, key: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"$tensor": key}
    if isinstance(value, dict):
        return {"$items": [[name, _pack(item, f"{key}/{name}", tensors)] for name, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{key}/{place}", tensors) for place, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot save {key} of type {type(value).__name__} in a checkpoint")


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if isinstance(value, dict):
        if "$tensor" in value:
            return tensors[value["$tensor"]]
        return {name: _unpack(item, tensors) for name, item in value["$items"]}
    return value


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write a checkpoint atomically and delete all but the newest ones.

    Args:
        folder: the run's checkpoint folder.
        step: optimizer steps done.
        state: nested dicts, lists, tensors and plain values.
        keep: checkpoints that stay.

    Returns:
        The checkpoint's folder, ``step-XXXXXXXX``.
    """
    final = folder / f"step-{step:08d}"
    if not final.exists():
        partial = folder / f".partial-{final.name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        tensors: dict[str, torch.Tensor] = {}
        packed = {name: _pack(value, name, tensors) for name, value in state.items()}
        save_file(tensors, partial / _TENSORS)
        header = {"format_version": FORMAT_VERSION, "step": step, "sha256": file_sha256(partial / _TENSORS)}
        (partial / _STATE).write_text(json.dumps({**header, "state": packed}, indent=1), encoding="utf-8")
        for path in (partial / _TENSORS, partial / _STATE, partial):
            flush_path(path)
        partial.rename(final)
        flush_path(folder)
    for old in checkpoints_in(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints_in(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and _STEP.fullmatch(path.name))


def newest_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        CheckpointError: there is none.
    """
    found = checkpoints_in(folder)
    if not found:
        raise CheckpointError(f"no checkpoint in {folder}; start the run without --resume")
    return found[-1]


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint folder, or the newest checkpoint of a run's output folder.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    return load_checkpoint(newest_checkpoint(path / "checkpoints") if (path / "checkpoints").is_dir() else path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: missing, damaged, or of another format version.
    """
    try:
        header = json.loads((path / _STATE).read_text(encoding="utf-8"))
        version, step, digest, packed = (header[key] for key in ("format_version", "step", "sha256", "state"))
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has checkpoint format {version}; this version of facemargin reads {FORMAT_VERSION}"
            )
        if file_sha256(path / _TENSORS) != digest:
            raise CheckpointError(
                f"{path / _TENSORS} is damaged (its SHA-256 differs from state.json); "
                "delete this checkpoint folder to resume from the one before"
            )
        tensors = load_file(path / _TENSORS)
        state = {name: _unpack(value, tensors) for name, value in packed.items()}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from error
    return Checkpoint(path, step, state)
