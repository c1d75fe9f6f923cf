"""Checkpoints come back bit for bit, are whole or absent, and say what is wrong with a damaged one."""

import json
from pathlib import Path

import pytest
import torch

from facemargin.errors import CheckpointError
from training.checkpoint import checkpoints_in, load_checkpoint, newest_checkpoint, save_checkpoint

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
    with pytest.raises(OSError, match="disk full"):
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
