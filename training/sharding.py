"""Checkpoints of class rows that many processes write and any other number reads, each only the rows it needs.

A folder with one ``rows-XXXXX-of-XXXXX.safetensors`` per process that holds classes, ``replicated.safetensors`` for
what all processes have alike, and ``index.json``, which a person can read. Like `training.checkpoint` it is written
beside its place, synced and renamed: whole or absent. No pickle.

Why not torch.distributed.checkpoint (DCP) as it is: its metadata file is a pickle, and reading it runs what is inside.
Its safetensors storage has none, but also no checksums, writes in place, keeps no plain values, and wants shards to be
DTensors, which cut C rows into blocks of ⌈C/R⌉. The files of rows carry DCP's offsets in their headers, so that DCP's
``HuggingFaceStorageReader`` reads them too.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from facemargin.errors import CheckpointError
from facemargin.flushing import flush_path
from facemargin.heads import Head
from facemargin.partitions.collectives import Group, gather_numbers, gather_rows, world
from facemargin.partitions.sharded import Sharded, shard_range
from training.checkpoint import file_sha256

FORMAT_VERSION = 1
_INDEX, _REPLICATED = "index.json", "replicated.safetensors"
_ROW_PARAMETERS = ("weight", "bias")
_KNOWN_BY_ROW = ("row_steps",)

Result = TypeVar("Result")


def save_shards(folder: Path, head: Head, *optimizers: Optimizer) -> None:
    """Write a head and its optimizer state atomically; a collective call where the head's partition is ``sharded``.

    With any other partition one process has all the rows, and one process calls this. Learning rates and other options
    of optimizers are not saved: who resumes builds the optimizers anew.

    Args:
        folder: the new checkpoint, on a disk that all processes see.
        head: any head with one row a class.
        optimizers: those that hold the head's parameters; parameters of others in them are left out.

    Raises:
        CheckpointError: the folder exists, an optimizer has a state that does not go by rows, or a process could not
            write; the error is raised on all of them.
        ValueError: the partition keeps no row a class.
    """
    place = _Place.of(head)
    content = _together(place, f"cannot write {folder}", lambda: _Content.of(head, optimizers))
    partial = folder.with_name(f".partial-{folder.name}")
    _together(place, f"cannot write {folder}", lambda: _prepare(place, folder, partial))
    digest = _together(place, f"cannot write {folder}", lambda: _write_rows(place, partial, content.rows))
    digests = _gather_digests(place, digest)
    _together(place, f"cannot write {folder}", lambda: _finish(place, folder, partial, head, content, digests))


def load_shards(folder: Path, head: Head, *optimizers: Optimizer) -> None:
    """Read a checkpoint of `save_shards` into a head on any number of processes, bit for bit.

    A collective call where the head's partition is ``sharded``. The files and what is in them are checked before
    anything is changed; verifying the files is shared among the processes.

    Args:
        folder: the checkpoint.
        head: a head of the same name, C, D and options, with any partition that keeps one row a class, in the same
            dtype.
        optimizers: those that hold the head's parameters, of the classes that were saved or derived from them. They
            take over the state that was saved for them; any other state of the head's parameters is cleared.

    Raises:
        CheckpointError: missing, damaged, or of another head or optimizer; the error is raised on all processes.
        ValueError: the partition keeps no row a class.
    """
    place = _Place.of(head)
    problem = f"{folder} is not a readable checkpoint"
    index = _together(place, problem, lambda: _read_index(folder, head))
    _together(place, problem, lambda: _verify(place, folder, index))
    replicated = _together(place, problem, lambda: _check_contents(place, folder, index, head, optimizers))
    _together(place, problem, lambda: _take_over(place, folder, index, head, optimizers, replicated))


class _Place(NamedTuple):
    """Which classes this process holds, and the processes that hold the others."""

    rank: int
    ranks: int
    start: int
    stop: int
    device: torch.device
    group: Group

    @classmethod
    def of(cls, head: Head) -> "_Place":
        partition = head.partition
        if partition.factorised:
            raise ValueError(
                f"partition {partition.name!r} keeps no row a class, so there is nothing to split; use save_checkpoint"
            )
        if isinstance(partition, Sharded):
            rank_of_ranks = world(partition.group)
            return cls(*rank_of_ranks, *partition.class_range, head.weight.device, partition.group)
        return cls(0, 1, 0, head.num_classes, head.weight.device, None)


class _Content(NamedTuple):
    """What is saved, by name: the key in ``head.state_dict()``, or ``optimizer/PARAMETER/KEY``.

    Attributes:
        rows: tensors with one row for each class of this process.
        replicated: tensors that are the same on every process.
        plain: optimizer state that is no tensor.
        optimizers: the class of the optimizer of each parameter that has a state.
    """

    rows: dict[str, Tensor]
    replicated: dict[str, Tensor]
    plain: dict[str, Any]
    optimizers: dict[str, str]

    @classmethod
    def of(cls, head: Head, optimizers: tuple[Optimizer, ...]) -> "_Content":
        content = cls({}, {}, {}, {})
        for name, tensor in head.state_dict().items():
            (content.rows if name in _ROW_PARAMETERS else content.replicated)[name] = tensor
        for name, parameter, optimizer in _optimized(head, optimizers):
            state = optimizer.state.get(parameter, {})
            if state:
                content.optimizers[name] = type(optimizer).__name__
            for key, value in state.items():
                content._sort(f"optimizer/{name}/{key}", value, parameter if name in _ROW_PARAMETERS else None)
        return content

    def _sort(self, name: str, value: Any, rows: Tensor | None) -> None:
        if not isinstance(value, Tensor):
            self.plain[name] = value
        elif rows is None or value.ndim == 0:
            self.replicated[name] = value
        elif value.shape == rows.shape or (value.shape == rows.shape[:1] and not _may_be_by_column(name, rows)):
            self.rows[name] = value
        else:
            raise CheckpointError(
                f"cannot save {name} of shape {tuple(value.shape)}: a state by rows must have shape "
                f"{tuple(rows.shape)} or {tuple(rows.shape[:1])}, the second not that of a row too; use save_checkpoint"
            )


def _may_be_by_column(name: str, rows: Tensor) -> bool:
    """Whether (C,) could as well be (D,), and is not known to be the former."""
    return rows.shape[:1] == rows.shape[1:] and name.rpartition("/")[2] not in _KNOWN_BY_ROW


def _optimized(head: Head, optimizers: tuple[Optimizer, ...]) -> Iterator[tuple[str, nn.Parameter, Optimizer]]:
    """Each parameter of the head with the optimizer that holds it."""
    owners = {id(p): owner for owner in optimizers for group in owner.param_groups for p in group["params"]}
    for name, parameter in head.named_parameters():
        if id(parameter) in owners:
            yield name, parameter, owners[id(parameter)]


def _together(place: _Place, problem: str, work: Callable[[], Result]) -> Result:
    """Do a part of the work on every process; where one fails, all raise, so that none waits for it."""
    error: Exception | None = None
    try:
        result = work()
    except Exception as caught:  # whatever it is, the others must hear of it; it is raised below
        error = caught
    failed = [error is not None]
    if place.ranks > 1:
        failed = [bool(number) for (number,) in gather_numbers(failed, place.device, place.group)]
    if isinstance(error, CheckpointError):
        raise error
    if error is not None:
        raise CheckpointError(f"{problem}: {error}") from error
    if any(failed):
        raise CheckpointError(f"{problem}: rank {failed.index(True)} of {place.ranks} failed; its own error says why")
    return result


# ---- writing ------------------------------------------------------------------------------------------------------


def _prepare(place: _Place, folder: Path, partial: Path) -> None:
    if place.rank == 0:
        if folder.exists():
            raise CheckpointError(f"{folder} exists already; write the checkpoint to a new folder")
        if partial.exists():
            shutil.rmtree(partial)  # of a write that was interrupted
        partial.mkdir(parents=True)


def _part_name(rank: int, ranks: int) -> str:
    return f"rows-{rank:05d}-of-{ranks:05d}.safetensors"


def _write_rows(place: _Place, partial: Path, rows: dict[str, Tensor]) -> str:
    """Write this process's rows; the SHA-256 of the file."""
    if place.start == place.stop:
        return ""
    offsets = {name: {"saved_offsets": [place.start, *[0] * (value.ndim - 1)]} for name, value in rows.items()}
    header = {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"}
    return _write_tensors(partial / _part_name(place.rank, place.ranks), rows, header)


def _write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None) -> str:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, header)
    flush_path(path)
    return file_sha256(path)


def _gather_digests(place: _Place, digest: str) -> list[str]:
    if place.ranks == 1:
        return [digest]
    own = torch.tensor([list(bytes.fromhex(digest or "0" * 64))], dtype=torch.uint8, device=place.device)
    return [bytes(row).hex() for row in gather_rows(own, [1] * place.ranks, place.group).tolist()]


def _finish(place: _Place, folder: Path, partial: Path, head: Head, content: _Content, digests: list[str]) -> None:
    """What one process writes for all, and the renaming that makes the checkpoint exist."""
    if place.rank > 0:
        return
    ranges = [shard_range(head.num_classes, rank, place.ranks) for rank in range(place.ranks)]
    parts = [
        {"file": _part_name(rank, place.ranks), "classes": [start, stop], "sha256": digests[rank]}
        for rank, (start, stop) in enumerate(ranges)
        if start < stop
    ]
    index = {
        "format_version": FORMAT_VERSION,
        "head": head.name,
        "num_classes": head.num_classes,
        "embedding_dim": head.embedding_dim,
        "options": _options(head),
        "optimizers": content.optimizers,
        "rows": list(content.rows),
        "plain": content.plain,
        "parts": parts,
        "replicated": {"file": _REPLICATED, "sha256": _write_tensors(partial / _REPLICATED, content.replicated)},
    }
    (partial / _INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    for path in (partial / _INDEX, partial):
        flush_path(path)
    partial.rename(folder)
    flush_path(folder.parent)


def _options(head: Head) -> dict[str, Any]:
    """What the rows were trained for: the head's options as JSON, without the partition and what a message names."""
    apart = ("name", "num_classes", "embedding_dim", "partition", "check_labels")
    options = {key: value for key, value in head.options().items() if key not in apart}
    if options["class_weights"] is not None:  # C numbers: too many for a file that a person reads
        text = json.dumps(options["class_weights"])
        options["class_weights"] = f"SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"
    found: dict[str, Any] = json.loads(json.dumps(options))
    return found


# ---- reading ------------------------------------------------------------------------------------------------------


def _read_index(folder: Path, head: Head) -> dict[str, Any]:
    """The index, if it fits the head.

    Raises:
        CheckpointError: it does not.
    """
    index: dict[str, Any] = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    if index["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has shard format {index['format_version']}; this version of facemargin reads {FORMAT_VERSION}"
        )
    for name, own in (("head", head.name), ("num_classes", head.num_classes), ("embedding_dim", head.embedding_dim)):
        if index[name] != own:
            raise CheckpointError(
                f"{folder} has {name}={index[name]!r}, and this head {name}={own!r}: their class rows do not fit; "
                f"resume with {name}={index[name]!r}, or build a new head and do not load its rows"
            )
    saved, options = index["options"], _options(head)
    for name in sorted(saved.keys() | options.keys()):
        if saved.get(name) != options.get(name):
            raise CheckpointError(
                f"{folder} has {name}={saved.get(name)!r}, and this head {name}={options.get(name)!r}: "
                "build the head with the options of the run, or build a new head and do not load its rows"
            )
    classes = [part["classes"] for part in index["parts"]]
    starts, stops = zip(*classes, strict=True) if classes else ((), ())
    if (0, *stops) != (*starts, head.num_classes):
        raise CheckpointError(f"{folder / _INDEX} is damaged: its parts hold classes {classes}, not each class once")
    return index


def _verify(place: _Place, folder: Path, index: dict[str, Any]) -> None:
    """Check this process's share of the files."""
    for file in [*index["parts"], index["replicated"]][place.rank :: place.ranks]:
        path = folder / file["file"]
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; resume from another checkpoint")
        if file_sha256(path) != file["sha256"]:
            raise CheckpointError(
                f"{path} is damaged (its SHA-256 differs from {_INDEX}); resume from another checkpoint"
            )


def _check_contents(
    place: _Place, folder: Path, index: dict[str, Any], head: Head, optimizers: tuple[Optimizer, ...]
) -> dict[str, Tensor]:
    """Everything that could be wrong, before anything is changed; the replicated tensors."""
    own = head.state_dict()
    replicated = load_file(folder / index["replicated"]["file"])
    saved = {name for name in [*index["rows"], *replicated] if not name.startswith("optimizer/")}
    if saved != own.keys():
        raise CheckpointError(
            f"{folder} has {', '.join(sorted(saved))}, and this head {', '.join(sorted(own))}: "
            "build the head with the options of the run"
        )
    for name in own.keys() - set(_ROW_PARAMETERS):
        _compare(own[name], replicated[name], name, folder)
    for part in _overlapping(place, index["parts"]):
        with safe_open(folder / part["file"], framework="pt") as file:
            for name in index["rows"]:
                if name in own:
                    _compare(own[name][:0], file.get_slice(name)[:1][:0], name, folder)
    for name, _, optimizer in _optimized(head, optimizers):
        _check_optimizer(folder, name, index["optimizers"].get(name), optimizer)
    return replicated


def _check_optimizer(folder: Path, name: str, saved: str | None, optimizer: Optimizer) -> None:
    known = [kind.__name__ for kind in type(optimizer).__mro__]
    if saved is not None and saved not in known:
        raise CheckpointError(
            f"{folder} has the state of {saved} for {name}, and its optimizer is {known[0]}: resume with {saved}, or "
            "load the head without its optimizer"
        )


def _take_over(
    place: _Place,
    folder: Path,
    index: dict[str, Any],
    head: Head,
    optimizers: tuple[Optimizer, ...],
    replicated: dict[str, Tensor],
) -> None:
    own = head.state_dict()  # shares memory with the parameters
    rows = {name: tensor for name, tensor in own.items() if name in _ROW_PARAMETERS}
    _read_rows(place, folder, index, rows)
    for name in own.keys() - rows.keys():
        own[name].copy_(replicated[name])
    _restore_optimizers(head, optimizers, {**rows, **replicated, **index["plain"]})


def _read_rows(place: _Place, folder: Path, index: dict[str, Any], targets: dict[str, Tensor]) -> None:
    """Fill the targets with this process's classes, and add one for each tensor of rows that has none."""
    for part in _overlapping(place, index["parts"]):
        first, last = part["classes"]
        start, stop = max(first, place.start), min(last, place.stop)
        # A process without classes reads a row, and keeps none of it, for the shape and dtype of its empty state.
        wanted = slice(start - first, stop - first) if start < stop else slice(0, 1)
        with safe_open(folder / part["file"], framework="pt") as file:
            for name in index["rows"]:
                piece = file.get_slice(name)[wanted][: max(stop - start, 0)]
                if name not in targets:
                    shape = (place.stop - place.start, *piece.shape[1:])
                    targets[name] = torch.empty(shape, dtype=piece.dtype, device=place.device)
                targets[name][max(start - place.start, 0) :][: len(piece)].copy_(piece)


def _overlapping(place: _Place, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [part for part in parts if part["classes"][0] < place.stop and place.start < part["classes"][1]]
    return found if place.start < place.stop else parts[:1]


def _compare(target: Tensor, source: Tensor, name: str, folder: Path) -> None:
    if (target.dtype, target.shape) != (source.dtype, source.shape):
        raise CheckpointError(
            f"{folder} has {name} as {source.dtype} {tuple(source.shape)}, and this head as {target.dtype} "
            f"{tuple(target.shape)}: build the head with the options and the dtype of the run"
        )


def _restore_optimizers(head: Head, optimizers: tuple[Optimizer, ...], saved: dict[str, Any]) -> None:
    for name, parameter, optimizer in _optimized(head, optimizers):
        prefix = f"optimizer/{name}/"
        state = {key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)}
        optimizer.state.pop(parameter, None)  # also where nothing was saved: momentum of other rows is none of these
        if state:
            optimizer.state[parameter] = {
                key: value.to(_device(value, parameter, optimizer)) if isinstance(value, Tensor) else value
                for key, value in state.items()
            }


def _device(value: Tensor, parameter: nn.Parameter, optimizer: Optimizer) -> torch.device:
    """Where PyTorch's optimizers keep a state: numbers on the CPU, unless the step runs on the device alone."""
    groups = (group for group in optimizer.param_groups if any(p is parameter for p in group["params"]))
    on_device = any(group.get("capturable") or group.get("fused") for group in groups)
    return parameter.device if value.ndim > 0 or on_device else torch.device("cpu")
