"""A file is the old one or the whole new one, and on disk before it takes its name."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.config import TrainConfig
from training.data.idx import write_idx
from training.plots import Scores, plot_roc
from training.trainer.folder import write_config
from training.trainer.trace import UnreadablePictures, open_trace
from training.whole_file import write_whole


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    assert write_whole(path, "old θ\r\n") == path
    assert path.read_bytes() == "old θ\r\n".encode()
    write_whole(path, b"\0\n")
    assert path.read_bytes() == b"\0\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", ["new \ud800", "new"])
def test_a_failure_leaves_the_old_file_and_nothing_beside_it(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((UnicodeEncodeError, OSError)):
        write_whole(path, content)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert write_whole(path, "many small ones", sync=False).read_text() == "many small ones"


def full(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def old_trace(folder: Path) -> None:
    open_trace(folder / "loss.csv", 1).close()


WRITERS: dict[str, Callable[[Path], object]] = {
    "config.json": lambda folder: write_config(TrainConfig(output=folder)),
    "loss.csv": old_trace,
    "unreadable.txt": lambda folder: UnreadablePictures(folder / "unreadable.txt", 0),
    "roc.png": lambda folder: plot_roc({"m": Scores([0.9, 0.8], [0.1, 0.2])}, folder / "roc.png"),
    "labels.idx": lambda folder: write_idx(folder / "labels.idx", np.zeros(3, np.uint8)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_replaced_waits_for_the_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        WRITERS[name](tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"old")]
