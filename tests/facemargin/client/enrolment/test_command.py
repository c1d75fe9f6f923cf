"""``facemargin enrol`` against a service in a process of its own."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from facemargin.cli import main
from facemargin.client import Client


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def enrol(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], process: Any) -> Run:
    """Runs the command in this process."""

    def command(*arguments: str | Path) -> Done:
        words = ["facemargin", "enrol", "--url", process.url, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return command


@pytest.fixture
def there(process: Any) -> Iterator[Client]:
    with Client(process.url) as client:
        for found in client.collections().collections:
            client.delete_collection(found.name)
        client.create_collection("staff")
        yield client


def test_a_folder_is_enrolled_and_the_next_time_there_is_nothing_to_do(
    enrol: Run, there: Client, people_folder: Any, everybody: Any
) -> None:
    root = people_folder(3, 2)
    (root / "readme.txt").write_text("hello")
    first = enrol(root, "--collection", "staff", "--aligned")
    assert first.code == 0, first
    assert "6 pictures of 3 people: enrolled 6, enrolled before 0, duplicates 0, failed 0, not tried 0" in first.out
    assert "ignored 1 files that are no pictures of a person" in first.out
    assert {name: len(faces) for name, faces in everybody(there, "staff").items()} == {
        f"Person {number}": 2 for number in range(3)
    }
    second = enrol(root, "--collection", "staff", "--aligned", "--json")
    report = json.loads(second.out)
    assert (second.code, report["enrolled"], report["already"], report["failures_file"]) == (0, 0, 6, None)
    assert Path(report["journal"]) == root.with_name("photos.staff.enrol.jsonl")


def test_failures_are_listed_in_a_csv_that_can_be_enrolled_again(
    enrol: Run, there: Client, people_folder: Any, crop: Any
) -> None:
    root = people_folder(2, 1)
    bad = root / "Person 1" / "bad.png"
    bad.write_bytes(b"text")
    done = enrol(root, "--collection", "staff", "--aligned")
    listed = root.with_name("photos.staff.enrol-failures.csv")
    assert done.code == 1
    assert f"failed: {bad}:" in done.out
    assert str(listed) in done.out
    [row] = csv.DictReader(listed.read_text().splitlines())
    assert (row["image"], row["name"], row["problem"]) == (str(bad), "Person 1", "unsupported-image")
    assert "JPEG" in row["reason"]
    bad.write_bytes(crop(1, 9))
    assert enrol(listed, "--collection", "staff", "--aligned").code == 0
    assert enrol(root, "--collection", "staff", "--aligned").code == 0
    assert not listed.exists()
    assert there.collection("staff").faces == 3


def test_photographs_without_a_detector_stop_the_run(enrol: Run, there: Client, people_folder: Any) -> None:
    done = enrol(people_folder(2, 1), "--collection", "staff")
    assert done.code == 1
    assert "enrolled 0, enrolled before 0, duplicates 0, failed 0, not tried 2" in done.out
    assert "stopped: " in done.out
    assert "the same command goes on from here" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--collection", "absent"], "there is no collection 'absent'"),
        (["--collection", "a/b"], "there is no collection 'a/b'|invalid-request"),
        (["--collection", "staff", "--min-quality", "{"], "--min-quality: Invalid JSON"),
        (["--collection", "staff", "--min-quality", '{"beauty": 1}'], "--min-quality: beauty"),
        (["--collection", "staff", "--min-quality", '{"score": 2}'], "--min-quality: score"),
        (["--collection", "staff", "--key-file", "absent"], "--key-file absent cannot be read"),
        (["--collection", "staff", "--url", "ftp://x"], "--url: url is 'ftp://x'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    enrol: Run, there: Client, people_folder: Any, arguments: list[str], words: str
) -> None:
    root = people_folder(1, 1)
    done = enrol(root, *arguments)
    assert (done.code, done.out) == (2, "")
    assert re.search(words, done.err)
    assert len(done.err.splitlines()) == 1
    assert sorted(path.name for path in root.parent.iterdir()) == ["photos"]


def test_a_missing_collection_is_made_when_asked(enrol: Run, there: Client, people_folder: Any) -> None:
    assert enrol(people_folder(1, 1), "--collection", "new", "--create", "--aligned").code == 0
    assert there.collection("new").faces == 1


def test_the_key_comes_from_a_file_or_the_environment_and_a_wrong_one_is_told(
    enrol: Run, there: Client, people_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = people_folder(1, 1)
    file = tmp_path / "key"
    for content in ("", "two words", "fm_1_ü"):
        file.write_text(content)
        done = enrol(root, "--collection", "staff", "--key-file", file)
        assert (done.code, "must hold one API key" in done.err) == (2, True)
    for number in range(2):
        file.write_text("fm_00000000_wrong\n")
        monkeypatch.setenv("FACEMARGIN_API_KEY", "fm_00000000_wrong")
        done = enrol(root, "--collection", "staff", *(["--key-file", file] if number else []))
        assert done.code == 2
        assert "unauthenticated" in done.err
        assert "wrong" not in done.err


def started(process: Any, root: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "facemargin", "enrol", str(root), "--collection", "staff", "--aligned"]
    return subprocess.Popen(
        [*command, "--url", process.url, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def wait_for_lines(journal: Path, count: int) -> None:
    end = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < count:
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize(
    "lost", [pytest.param(False, id="journal kept", marks=pytest.mark.slow), pytest.param(True, id="journal lost")]
)
def test_a_killed_run_goes_on_without_enrolling_twice(
    process: Any, enrol: Run, there: Client, people_folder: Any, everybody: Any, lost: bool
) -> None:
    root = people_folder(15, 3)
    journal = root.with_name("photos.staff.enrol.jsonl")
    running = started(process, root)
    wait_for_lines(journal, 10)
    running.kill()
    running.communicate()
    begun = there.collection("staff").faces
    assert 9 <= begun < 45
    if lost:
        journal.unlink()
    report = json.loads(enrol(root, "--collection", "staff", "--aligned", "--json").out)
    assert (report["enrolled"] + report["already"], report["failed"], report["not_tried"]) == (45, 0, 0)
    assert (report["already"] == 0) is lost
    assert {name: len(faces) for name, faces in everybody(there, "staff").items()} == {
        f"Person {number}": 3 for number in range(15)
    }


def test_ctrl_c_says_how_to_go_on(process: Any, there: Client, people_folder: Any) -> None:
    root = people_folder(15, 3)
    running = started(process, root)
    wait_for_lines(root.with_name("photos.staff.enrol.jsonl"), 5)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "stopped: interrupted; the same command goes on from here" in said
    assert "Traceback" not in said
    assert "failed 0" in said


@pytest.mark.slow
def test_a_service_that_restarts_does_not_end_the_run(
    start_process: Any, tmp_path: Path, people_folder: Any, everybody: Any
) -> None:
    root, store = people_folder(20, 3), tmp_path / "store"
    service = start_process(store)
    with Client(service.url) as client:
        client.create_collection("staff")
        with started(service, root) as running:
            wait_for_lines(root.with_name("photos.staff.enrol.jsonl"), 20)
            service.kill()
            start_process(store, service.port)
            said, _ = running.communicate(timeout=60)
        assert running.returncode == 0, said
        assert sum(map(len, everybody(client, "staff").values())) == 60
