"""Checkpoints: a folder of safetensors files and a ``state.json`` that a person can read. No pickle, ever.

``tensors.safetensors`` holds what all ranks of a run have alike, one ``rows-XXXXX-of-XXXXX.safetensors`` a rank the
class rows that it alone has. Any number of ranks reads what any other number wrote, each only the rows it needs. A
checkpoint is written beside its final place, synced to disk and renamed, so that it is whole or absent.

The files are in the safetensors layout of torch.distributed.checkpoint (DCP), whose ``HuggingFaceStorageReader`` reads
them. DCP's own ``.metadata`` is a pickle, and reading it runs what is inside: it is neither written nor read. Nor does
DCP write these: it has no checksums, keeps no plain values and cuts C rows into blocks of ⌈C/R⌉ only.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from facemargin.errors import CheckpointError
from facemargin.flushing import flush_path
from training.ranks import ALONE, Ranks

FORMAT_VERSION = 2
_OVERDONE = (RecursionError, OverflowError)  # what JSON can hold and Python cannot: depth, infinite steps
_STEP = re.compile(r"step-(\d{8})")
_TENSORS, _STATE = "tensors.safetensors", "state.json"
LATE_S = 60.0
"""How late a shared disk may show a file: as long as NFS keeps what it knows of a folder, by default."""


class Rows(NamedTuple):
    """Rows start, start + 1, … of a tensor whose other rows are on other ranks.

    Attributes:
        own: (n, ...), on this rank.
        start: the first of them; the same in all `Rows` of a state.
    """

    own: Tensor
    start: int


@dataclass(frozen=True)
class SavedRows:
    """A tensor in a checkpoint whose rows are read when they are asked for.

    Attributes:
        folder: of the checkpoint.
        key: its name in the files.
        parts: (file, start, stop) of each.
    """

    folder: Path
    key: str
    parts: tuple[tuple[str, int, int], ...]

    def read(self, start: int, stop: int) -> Tensor:
        """Rows start … stop − 1; none of them has the right shape and dtype too.

        Raises:
            CheckpointError: a file cannot be read, or does not hold the rows that it should.
        """
        pieces = []
        try:
            for file, first, last in self.parts:
                with safe_open(self.folder / file, framework="pt") as content:
                    rows = content.get_slice(self.key)
                    if rows.get_shape()[:1] != [last - first]:
                        raise ValueError(f"{file} holds {self.key} {rows.get_shape()}, not {last - first} rows")
                    inside = slice(max(start - first, 0), max(min(stop, last) - first, 0))
                    pieces.append(rows[inside] if inside.start < inside.stop else rows[0:1][:0])
            found = torch.cat(pieces)
            if len(found) != stop - start:
                raise ValueError(f"of the rows {start} to {stop} of {self.key} it holds {len(found)}")
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.folder} is not a readable checkpoint: {error}") from error
        return found


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read back.

    Attributes:
        path: its folder.
        step: optimizer steps done.
        state: the nested state that was saved, with `SavedRows` for `Rows`.
    """

    path: Path
    step: int
    state: dict[str, Any]


@dataclass(frozen=True)
class _Packed:
    """A state taken apart: plain values with references, and what they refer to."""

    plain: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)

    @classmethod
    def of(cls, state: dict[str, Any]) -> "_Packed":
        packed = cls({})
        packed.plain.update({name: packed._pack(value, name) for name, value in state.items()})
        return packed

    def _pack(self, value: Any, key: str) -> Any:
        if isinstance(value, Rows):
            self.rows[key] = value
            return {"$rows": key}
        if isinstance(value, Tensor):
            self.tensors[key] = value
            return {"$tensor": key}
        if isinstance(value, dict):
            return {"$items": [[name, self._pack(item, f"{key}/{name}")] for name, item in value.items()]}
        if isinstance(value, list | tuple):
            return [self._pack(item, f"{key}/{place}") for place, item in enumerate(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"cannot save {key} of type {type(value).__name__} in a checkpoint")


def _unpack(value: Any, tensors: dict[str, Tensor], rows: dict[str, SavedRows]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors, rows) for item in value]
    if isinstance(value, dict):
        if "$tensor" in value:
            return tensors[value["$tensor"]]
        if "$rows" in value:
            return rows[value["$rows"]]
        return {name: _unpack(item, tensors, rows) for name, item in value["$items"]}
    return value


def read_rows(value: Any, start: int, stop: int) -> Any:
    """A nested state with tensors of rows start … stop − 1 in the place of its `SavedRows`."""
    if isinstance(value, SavedRows):
        return value.read(start, stop)
    if isinstance(value, dict):
        return {name: read_rows(item, start, stop) for name, item in value.items()}
    return [read_rows(item, start, stop) for item in value] if isinstance(value, list) else value


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int, ranks: Ranks = ALONE) -> Path:
    """Write a checkpoint atomically and delete all but the newest ones; a collective call.

    Args:
        folder: the run's checkpoint folder, on a disk that all ranks see.
        step: optimizer steps done.
        state: nested dicts, lists, tensors, `Rows` and plain values; all but the rows is the first rank's.
        keep: checkpoints that stay.
        ranks: the processes of the run.

    Returns:
        The checkpoint's folder, ``step-XXXXXXXX``.

    Raises:
        CheckpointError: it cannot be written, or what another rank wrote is not to be seen from the first; the earlier
            ones are as they were.
        OtherRankError: another rank failed.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".partial-{final.name}"
    if not ranks.from_first(final.exists()):
        packed = ranks.together(lambda: _prepared(partial, state, ranks))
        part = ranks.together(lambda: _write_rows(partial, packed.rows, ranks))
        parts = ranks.gather(part)
        ranks.together(lambda: _finish(final, partial, step, packed, [part for part in parts if part], ranks))
        ranks.together(lambda: _delete_old(folder, keep, ranks))
    return final


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Tell what keeps a checkpoint from being written; safetensors has an error of its own for a full disk."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"no checkpoint can be written to {folder}: {error}") from error


def _prepared(partial: Path, state: dict[str, Any], ranks: Ranks) -> _Packed:
    if ranks.is_first:
        with _writing(partial.parent):
            for left in partial.parent.glob(".partial-*"):  # of writes that were interrupted
                shutil.rmtree(left, ignore_errors=True)
            partial.mkdir(parents=True)
    return _Packed.of(state)


def _delete_old(folder: Path, keep: int, ranks: Ranks) -> None:
    if ranks.is_first:
        with _writing(folder):
            for old in checkpoints_in(folder)[:-keep]:
                gone = old.rename(old.with_name(f".partial-{old.name}"))  # never half of one under its name
                shutil.rmtree(gone, ignore_errors=True)  # what stays goes with the next save


def _write_rows(partial: Path, rows: dict[str, Rows], ranks: Ranks) -> list[Any] | None:
    """Write this rank's rows: file, SHA-256, first row and the one after the last; None where it has none."""
    if not rows or len(next(iter(rows.values())).own) == 0:
        return None
    start, count = next((value.start, len(value.own)) for value in rows.values())
    # Where the rows belong, as DCP's safetensors files tell it.
    offsets = {key: {"saved_offsets": [value.start, *[0] * (value.own.ndim - 1)]} for key, value in rows.items()}
    header = {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"}
    name = f"rows-{ranks.rank:05d}-of-{ranks.size:05d}.safetensors"
    digest = _write_tensors(partial / name, {key: value.own for key, value in rows.items()}, header)
    return [name, digest, start, start + count]


def _write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None) -> str:
    # Copies, because a file cannot hold two tensors that share memory.
    copies = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    with _writing(path.parent.parent):
        save_file(copies, path, header)
        flush_path(path)
        return file_sha256(path)


def _finish(final: Path, partial: Path, step: int, packed: _Packed, parts: list[list[Any]], ranks: Ranks) -> None:
    """What the first rank writes for all, and the renaming that makes the checkpoint exist."""
    if not ranks.is_first:
        return
    for name, *_ in parts:
        _wait_for(partial / name)
    files = {_TENSORS: _write_tensors(partial / _TENSORS, packed.tensors)}
    header = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "sha256": files | {name: digest for name, digest, _, _ in parts},
        "rows": [[name, start, stop] for name, _, start, stop in parts],
    }
    with _writing(final.parent):
        (partial / _STATE).write_text(json.dumps({**header, "state": packed.plain}, indent=1), encoding="utf-8")
        for path in (partial / _STATE, partial):
            flush_path(path)
        partial.rename(final)
        flush_path(final.parent)


def _wait_for(file: Path) -> None:
    """A shared disk may show late what another machine wrote."""
    end = time.monotonic() + LATE_S
    while not file.is_file():
        if time.monotonic() > end:
            raise CheckpointError(
                f"{file}, which another rank wrote, is not here: output must be on a disk all machines share"
            )
        time.sleep(0.1)


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


def load_checkpoint(path: Path, ranks: Ranks = ALONE) -> Checkpoint:
    """Read a checkpoint of this or the earlier format; a collective call, in which the ranks share the verifying.

    Raises:
        CheckpointError: missing, damaged, or of another format version.
        OtherRankError: it is so on another rank.
    """
    return ranks.together(lambda: _load(path, ranks))


def _load(path: Path, ranks: Ranks) -> Checkpoint:
    try:
        header = json.loads((path / _STATE).read_text(encoding="utf-8"))
        version, step, packed = (header[key] for key in ("format_version", "step", "state"))
        if version not in (1, FORMAT_VERSION):
            raise CheckpointError(
                f"{path} has checkpoint format {version}; this version of facemargin reads 1 and {FORMAT_VERSION}"
            )
        # The earlier format is one file of tensors, without rows apart.
        files = {_TENSORS: header["sha256"]} if version == 1 else dict(header["sha256"])
        parts = tuple((str(name), int(start), int(stop)) for name, start, stop in header.get("rows", []))
        _require_sound(path, int(step), files, parts)
        _verify(path, files, ranks)
        rows = {key: SavedRows(path, str(key), parts) for key in _row_keys(packed)}
        tensors = load_file(path / _TENSORS)
        state = {name: _unpack(value, tensors, rows) for name, value in packed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, *_OVERDONE) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}{_foreign(path)}") from error
    return Checkpoint(path, int(step), state)


def _require_sound(path: Path, step: int, files: dict[str, str], parts: tuple[tuple[str, int, int], ...]) -> None:
    """Refuse a record that names files elsewhere, uses some without a checksum, or has rows twice or not at all."""
    named = {*files, *(name for name, _, _ in parts)}
    if outside := sorted(name for name in named if Path(name).name != name):
        raise CheckpointError(f"{path / _STATE} names the file {outside[0]!r}, which is not in this folder")
    if unchecked := sorted((named | {_TENSORS}) - files.keys()):
        raise CheckpointError(f"{path / _STATE} is damaged: it has no SHA-256 of {unchecked[0]}")
    bounds = [0, *(stop for _, _, stop in parts)]
    if [start for _, start, _ in parts] != bounds[:-1] or any(stop <= start for _, start, stop in parts) or step < 0:
        raise CheckpointError(
            f"{path / _STATE} is damaged: its files hold the rows {parts} after step {step}, not each row once"
        )


def _verify(path: Path, files: dict[str, str], ranks: Ranks) -> None:
    """Compare this rank's share of the files with their checksums."""
    for name in sorted(files)[ranks.rank :: ranks.size]:
        if file_sha256(path / name) != files[name]:
            raise CheckpointError(
                f"{path / name} is damaged (its SHA-256 differs from {_STATE}); "
                "delete this checkpoint folder to resume from the one before"
            )


def _row_keys(value: Any) -> list[str]:
    """The names of all tensors whose rows lie apart."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value["$rows"]] if isinstance(value, dict) and "$rows" in value else []
    return own + [key for item in items for key in _row_keys(item)]


def _foreign(path: Path) -> str:
    if not (path / ".metadata").exists():
        return ""
    return (
        "; its .metadata is the pickle that torch.distributed.checkpoint writes, which is never read here: reading it "
        "would run what is inside"
    )
