"""Checkpoints come back bit for bit, are whole or absent, run nothing, and say what is wrong with a damaged one.

Several ranks that save one together are in ``ranks_cases.py``.
"""

import itertools
import json
import pickle
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from facemargin.errors import CheckpointError
from training import checkpoint
from training.checkpoint import (
    Rows,
    checkpoints_in,
    file_sha256,
    load_checkpoint,
    newest_checkpoint,
    read_rows,
    save_checkpoint,
)
from training.trainer import open_source

STATE = {
    "weights": {"a.b": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
    "random": torch.get_rng_state(),
    "plain": {"none": None, "flag": True, "text": "θ", "number": 0.1},
}


def test_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    found = load_checkpoint(save_checkpoint(tmp_path, 7, STATE, keep=1))
    assert found.step == 7
    assert torch.equal(found.state["weights"]["a.b"], STATE["weights"]["a.b"])
    assert found.state["weights"]["half"].dtype == torch.bfloat16
    assert torch.equal(found.state["random"], STATE["random"])
    assert found.state["optimizer"]["state"][0]["step"] == 3.0  # integer keys stay integers
    assert found.state["plain"] == STATE["plain"]


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 1, STATE, keep=1)
    assert sorted(path.name for path in folder.iterdir()) == ["state.json", "tensors.safetensors"]
    assert json.loads((folder / "state.json").read_text())["step"] == 1


ROWS = torch.arange(21.0).reshape(7, 3)


def spread(folder: Path, bounds: list[int]) -> Path:
    """A checkpoint of ROWS and a bias as ranks write it that hold the rows between these bounds."""
    path = save_checkpoint(folder, 1, {"head": {"weight": Rows(ROWS, 0), "bias": Rows(ROWS[:, 0], 0)}}, keep=1)
    (path / "rows-00000-of-00001.safetensors").unlink()
    header = json.loads((path / "state.json").read_text())
    header["rows"], header["sha256"] = [], {"tensors.safetensors": header["sha256"]["tensors.safetensors"]}
    for start, stop in itertools.pairwise(bounds):
        name = f"rows-{len(header['rows']):05d}.safetensors"
        save_file({"head/weight": ROWS[start:stop].clone(), "head/bias": ROWS[start:stop, 0].clone()}, path / name)
        header["sha256"][name] = file_sha256(path / name)
        header["rows"].append([name, start, stop])
    (path / "state.json").write_text(json.dumps(header))
    return path


@pytest.mark.parametrize("bounds", [[0, 7], [0, 4, 7], [0, 3, 5, 7], [0, 1, 2, 3, 7]])
@pytest.mark.parametrize(("start", "stop"), [(0, 7), (0, 3), (2, 6), (4, 5), (6, 7), (3, 3), (7, 7)])
def test_any_rows_are_read_whoever_wrote_them(tmp_path: Path, bounds: list[int], start: int, stop: int) -> None:
    state = load_checkpoint(spread(tmp_path, bounds)).state
    found = read_rows(state, start, stop)["head"]
    assert torch.equal(found["weight"], ROWS[start:stop])
    assert torch.equal(found["bias"], ROWS[start:stop, 0])


def test_rows_of_which_some_are_missing_are_refused(tmp_path: Path) -> None:
    path = spread(tmp_path, [0, 4, 7])
    header = json.loads((path / "state.json").read_text())
    header["rows"][1][1] = 5
    (path / "state.json").write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match=r"its files hold the rows .*not each row once"):
        load_checkpoint(path)
    header["sha256"]["../elsewhere"] = "0" * 64
    header["rows"][1][1] = 4
    (path / "state.json").write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match="which is not in this folder"):
        load_checkpoint(path)


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "of a file elsewhere": lambda header: header["rows"].append(["../../other.safetensors", 7, 9]),
    "of a file without a checksum": lambda header: header["sha256"].popitem(),
    "without a checksum of the tensors": lambda header: header["sha256"].pop("tensors.safetensors"),
    "backwards": lambda header: header.update(rows=[header["rows"][0], ["rows-00001.safetensors", 4, 2]]),
    "without end": lambda header: header["rows"][1].__setitem__(2, float("inf")),
    "of a step that is none": lambda header: header.update(step="second"),
    "of a step before the first": lambda header: header.update(step=-1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_is_refused(tmp_path: Path, name: str) -> None:
    path = spread(tmp_path / "run" / "checkpoints", [0, 4, 7])
    save_file({"head/weight": ROWS[:2].clone()}, tmp_path / "run" / "other.safetensors")
    header = json.loads((path / "state.json").read_text())
    HOSTILE[name](header)
    (path / "state.json").write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_checkpoint(path)


def test_a_record_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = spread(tmp_path, [0, 7])
    (path / "state.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(path)


def test_files_with_other_rows_than_they_should_have_are_refused(tmp_path: Path) -> None:
    path = spread(tmp_path, [0, 4, 7])
    save_file({"head/weight": ROWS[4:6].clone(), "head/bias": torch.tensor(1.0)}, path / "rows-00001.safetensors")
    header = json.loads((path / "state.json").read_text())
    header["sha256"]["rows-00001.safetensors"] = file_sha256(path / "rows-00001.safetensors")
    (path / "state.json").write_text(json.dumps(header))
    head = load_checkpoint(path).state["head"]
    for name in ("weight", "bias"):
        with pytest.raises(CheckpointError, match=f"rows-00001.safetensors holds head/{name} .*, not 3 rows"):
            head[name].read(4, 7)
    with pytest.raises(CheckpointError, match=r"rows 5 to 9 of head/weight it holds 2"):
        load_checkpoint(spread(tmp_path / "whole", [0, 4, 7])).state["head"]["weight"].read(5, 9)


def test_what_interrupted_writes_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / ".partial-step-00000007").mkdir()
    save_checkpoint(tmp_path, 8, STATE, keep=1)
    save_checkpoint(tmp_path, 9, STATE, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000009"]


def test_a_disk_that_shows_files_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = tmp_path / "rows"
    timer = threading.Timer(0.15, late.touch)
    timer.start()
    checkpoint._wait_for(late)
    timer.join()
    monkeypatch.setattr(checkpoint, "LATE_S", 0.1)
    with pytest.raises(CheckpointError, match="output must be on a disk all machines share"):
        checkpoint._wait_for(tmp_path / "elsewhere")


def test_a_full_disk_is_told_as_safetensors_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"no checkpoint can be written to .*No space left"):
        save_checkpoint(tmp_path, 1, STATE, keep=1)
    assert not checkpoints_in(tmp_path)


def test_the_storage_reader_of_torch_reads_the_files(tmp_path: Path) -> None:
    state = {"head": {"weight": Rows(ROWS, 0)}, "backbone": {"a.b": torch.ones(2, 2)}}
    path = save_checkpoint(tmp_path, 1, state, keep=1)
    found = {"head/weight": torch.zeros(7, 3), "backbone/a.b": torch.zeros(2, 2)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in a single process", category=UserWarning)
        dcp.load(found, storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=True)
    assert torch.equal(found["head/weight"], ROWS)
    assert torch.equal(found["backbone/a.b"], torch.ones(2, 2))


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_no_pickle_is_ever_read(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    pickle.loads(trap)
    assert sprung.exists()  # it works where somebody unpickles it
    sprung.unlink()
    path = save_checkpoint(tmp_path / "run", 1, STATE, keep=1)
    (path / ".metadata").write_bytes(trap)
    assert load_checkpoint(path).step == 1  # not looked at
    (path / "tensors.safetensors").write_bytes(trap)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_checkpoint(path)
    header = json.loads((path / "state.json").read_text())
    header["sha256"]["tensors.safetensors"] = file_sha256(path / "tensors.safetensors")
    (path / "state.json").write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(path)
    (path / "state.json").unlink()
    for read in (load_checkpoint, open_source):
        with pytest.raises(CheckpointError, match=r"its \.metadata is the pickle .* never read here"):
            read(path)
    assert not sprung.exists()


def test_the_earlier_format_is_read(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 3, STATE, keep=1)
    header = json.loads((path / "state.json").read_text())
    del header["rows"]
    header |= {"format_version": 1, "sha256": header["sha256"]["tensors.safetensors"]}
    (path / "state.json").write_text(json.dumps(header))
    found = load_checkpoint(path)
    assert (found.step, found.state["plain"]) == (3, STATE["plain"])
    assert torch.equal(found.state["weights"]["a.b"], load_file(path / "tensors.safetensors")["weights/a.b"])


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, STATE, keep=2)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-00000002", "step-00000010"]
    assert newest_checkpoint(tmp_path).name == "step-00000010"


def test_an_interrupted_write_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, STATE, keep=2)

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("training.checkpoint.save_file", fail)
    with pytest.raises(CheckpointError, match=r"no checkpoint can be written to .*: disk full"):
        save_checkpoint(tmp_path, 2, STATE, keep=2)
    assert newest_checkpoint(tmp_path).name == "step-00000001"


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="plain/path of type"):
        save_checkpoint(tmp_path, 1, {"plain": {"path": tmp_path}}, keep=1)


def test_damage_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        newest_checkpoint(tmp_path)
    folder = save_checkpoint(tmp_path, 1, STATE, keep=1)
    tensors = folder / "tensors.safetensors"
    data = tensors.read_bytes()
    tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_checkpoint(folder)
    tensors.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(folder)
    (folder / "state.json").write_text(json.dumps({"format_version": 99, "step": 1, "sha256": "", "state": {}}))
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(folder)
