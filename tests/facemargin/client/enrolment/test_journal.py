"""What a bulk enrolment has done survives it."""

import errno
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemargin.client.enrolment.journal import Journal
from facemargin.errors import DataError

TARGET = {"collection": "staff", "created_at": "2026-01-31T09:30:00+00:00"}


def add(journal: Journal, number: int) -> None:
    journal.add(person="name:Ada", sha256=f"{number:064x}", image=f"Ada/{number}\n.png", person_id="p_1", face="f_1")


def done(path: Path, count: int) -> list[bool]:
    with Journal(path, TARGET) as journal:
        return [journal.done("name:Ada", f"{number:064x}") for number in range(count)]


def test_what_was_added_is_done_in_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, TARGET) as journal:
        add(journal, 0)
        assert journal.done("name:Ada", f"{0:064x}")
        assert not journal.done("name:Grace", f"{0:064x}")
    with Journal(path, TARGET) as journal:
        add(journal, 2)
    assert done(path, 3) == [True, False, True]
    assert path.stat().st_mode & 0o777 == 0o600


@settings(max_examples=25)
@given(st.data())
def test_a_file_cut_off_anywhere_loses_only_what_was_cut(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    with Journal(path, TARGET) as journal:
        for number in range(3):
            add(journal, number)
    content = path.read_bytes()
    length = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:length])
    whole = content[:length].count(b"\n")
    assert done(path, 3) == [number < whole - 1 for number in range(3)]
    with Journal(path, TARGET) as journal:
        add(journal, 2)
    assert done(path, 3)[2]
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_each_record_is_on_the_disk_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "journal.jsonl", list[int]()
    monkeypatch.setattr("os.fsync", lambda number: synced.append(len(path.read_bytes().splitlines())))
    with Journal(path, TARGET) as journal:
        add(journal, 0)
        add(journal, 1)
    assert synced == [1, 2, 3]


def test_a_journal_of_another_collection_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, TARGET).close()
    for other in ({"collection": "guests"}, {"created_at": "2026-02-01T00:00:00+00:00"}):
        with pytest.raises(DataError, match="about another service or collection"):
            Journal(path, TARGET | other)


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"person": "name:Ada"}'])
def test_damage_in_the_middle_is_told_by_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, TARGET) as journal:
        add(journal, 0)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match="damaged in line 3"):
        Journal(path, TARGET)


def test_two_runs_cannot_hold_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, TARGET), pytest.raises(DataError, match="in use by another run"):
        Journal(path, TARGET)
    Journal(path, TARGET).close()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose another by --journal"):
        Journal(tmp_path / "absent" / "journal.jsonl", TARGET)


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(path, TARGET) as journal:
        add(journal, 0)
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            with pytest.raises(OSError, match="No space left"):
                add(journal, 1)
            with pytest.raises(DataError, match=r"cannot be written: No space left on device; choose another"):
                Journal(tmp_path / "other.jsonl", TARGET)
        assert path.read_bytes() == before
        assert not journal.done("name:Ada", f"{1:064x}")
        add(journal, 2)
    assert done(path, 3) == [True, False, True]
