"""The command itself, as a process: what it writes and prints, and what a kill, Ctrl-C or a full disk leave."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from facemargin.bundle import Bundle
from tests.training.bulk.conftest import Asked, contents, crop, files_of, finished

PARTS = 25
PART_PICTURES = 40


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "facemargin", "embed", *map(str, arguments)]


def call(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(command(*arguments), check=False, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 names of six crops: a second of work and more."""
    root = tmp_path_factory.mktemp("many") / "crops"
    root.mkdir()
    for number in range(PARTS * PART_PICTURES):
        path = root / f"{number:05}.png"
        if number < 6:
            path.write_bytes(crop(number))
        else:
            os.link(root / f"{number % 6:05}.png", path)
    return root


@pytest.fixture
def long_run(many: Path, tiny_bundle: Bundle, tmp_path: Path) -> list[str | Path]:
    """Arguments of a run over them."""
    return [
        many, "--bundle", tiny_bundle.path, "--aligned", "--output", tmp_path / "out",
        "--part-pictures", str(PART_PICTURES), "--threads", "1",
    ]  # fmt: skip


def stopped_midway(arguments: list[str | Path], output: Path, number: signal.Signals) -> tuple[int, str]:
    """Start it, send a signal once some parts are complete; its exit code and what it said."""
    process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while len(list(output.glob("progress/part-*.json"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    return process.returncode, error


def test_a_run_killed_and_run_again_equals_one_that_was_not(
    long_run: list[str | Path], many: Path, asked: Asked, tmp_path: Path
) -> None:
    code, _ = stopped_midway(long_run, tmp_path / "out", signal.SIGKILL)
    assert code == -signal.SIGKILL
    complete = len(list((tmp_path / "out" / "progress").glob("part-*.json")))
    assert 3 <= complete < PARTS
    assert not (tmp_path / "out" / "embeddings.json").exists()
    again = call(*long_run, "--json")
    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout)
    assert (told["before"], told["complete"]) == (complete * PART_PICTURES, True)
    found = contents(tmp_path / "out")
    finished(asked(sources=(many,), output=tmp_path / "whole", part_pictures=PART_PICTURES, batch=0))
    ours, theirs = files_of(tmp_path / "out"), files_of(tmp_path / "whole")
    assert ours == theirs  # the same rows, and every bit of every vector
    assert [row["key"] for row in found.rows] == [f"{number:05}.png" for number in range(PARTS * PART_PICTURES)]
    np.testing.assert_allclose(found.vectors[:6], found.vectors[6:12], atol=1e-6)


def test_ctrl_c_says_how_to_go_on_and_keeps_complete_parts(long_run: list[str | Path], tmp_path: Path) -> None:
    code, error = stopped_midway(long_run, tmp_path / "out", signal.SIGINT)
    assert code == 130
    assert error.strip() == "interrupted; complete parts are kept, run the same command again to go on"
    names = list(files_of(tmp_path / "out"))
    assert len([name for name in names if name.startswith("progress/part-")]) >= 3
    assert not [name for name in names if "partial" in name]


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_whole_files(
    crops: Path, tiny_bundle: Bundle, asked: Asked, tmp_path: Path
) -> None:
    arguments = command(crops, "--bundle", tiny_bundle.path, "--aligned", "--output", tmp_path / "out")
    limit = 4_000  # bytes a file: enough for the plan, not for a part
    result = subprocess.run(
        arguments,
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert result.returncode == 2
    assert re.fullmatch(
        r"facemargin: error: .*part-000000\.parquet cannot be written \(File too large\); .*\n", result.stderr
    )
    assert list(files_of(tmp_path / "out")) == ["progress/plan.json"]
    assert len(finished(asked(part_pictures=4096, batch=0)).rows) == 24


def test_ranks_of_a_launcher_without_torch(crops: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "absent" / "torch").mkdir(parents=True)
    (tmp_path / "absent" / "torch" / "__init__.py").write_text("raise ModuleNotFoundError(name='torch')")
    output = tmp_path / "out"
    arguments = [crops, "--bundle", tiny_bundle.path, "--aligned", "--output", output, "--part-pictures", "5"]
    first = call(*arguments, RANK="0", WORLD_SIZE="2", PYTHONPATH=str(tmp_path / "absent"))
    assert first.returncode == 0, first.stderr
    assert "rank 0 is done; parts of other ranks that are missing: 2\n" in first.stdout
    second = call(*arguments, RANK="1", WORLD_SIZE="2", PYTHONPATH=str(tmp_path / "absent"))
    assert second.returncode == 0, second.stderr
    assert re.search(r"10 pictures in \d+\.\d s: 10 faces\n", second.stdout)
    assert re.search(
        r"[\d,]+ faces a second; the network alone [\d,]+ \(\d+ at a time, batch 16\); ratio \d", second.stdout
    )
    assert f"{output} is complete: 24 faces of 24 pictures\n" in second.stdout
    assert len(contents(output).rows) == 24
    other = call(*arguments, "--batch", "4")
    assert other.returncode == 2
    assert other.stderr == (
        f"facemargin: error: {output} was begun otherwise: now batch 4 (there 16); name another folder, or go on as it "
        "was begun\n"
    )
