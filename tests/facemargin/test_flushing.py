"""What a power failure must not undo."""

import os
from pathlib import Path

import pytest

from facemargin import flushing
from facemargin.flushing import flush, flush_path


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Device and inode of everything that is flushed to the disk."""
    seen: list[tuple[int, int]] = []

    def remembered(number: int) -> None:
        found = os.fstat(number)
        seen.append((found.st_dev, found.st_ino))
        fsync(number)

    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", remembered)
    return seen


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_dev, path.stat().st_ino


def test_what_is_still_in_the_buffer_is_on_the_disk_too(tmp_path: Path, flushed: list[tuple[int, int]]) -> None:
    path = tmp_path / "file"
    with path.open("w") as file:
        file.write("a face")
        assert path.read_bytes() == b""
        flush(file)
        assert path.read_bytes() == b"a face"
    assert flushed == [identity(path)]


def test_a_closed_file_and_a_folder_are_flushed(tmp_path: Path, flushed: list[tuple[int, int]]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a face")
    flush_path(path)
    flush_path(tmp_path)
    assert flushed == [identity(path), identity(tmp_path)]
    assert path.read_bytes() == b"a face"


def test_where_folders_cannot_be_opened_only_files_are_flushed(
    tmp_path: Path, flushed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a face")
    monkeypatch.setattr(flushing.os, "name", "nt")
    flush_path(tmp_path)
    assert flushed == []
    flush_path(path)
    monkeypatch.undo()
    assert len(flushed) == 1


def test_no_handle_is_left_when_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def refused(number: int) -> None:
        opened.append(number)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(OSError, match="Input/output error"):
        flush_path(tmp_path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
