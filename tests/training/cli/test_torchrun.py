"""``torchrun … facemargin train`` as people call it: killed, interrupted, refused, and gone on with."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from facemargin.errors import ConfigError
from tests.training.conftest import draw_people
from training.checkpoint import checkpoints_in
from training.config import load_config
from training.ranks import refuse_several_processes
from training.trainer import restore_model, train

BIN = Path(sys.executable).parent
PATIENCE_S = 240
RECIPE = """\
output = {output}
epochs = {epochs}
batch_size = 18
device = {device}
precision = "float32"
partition = "sharded"
head = "normface"
[data]
folders = [{people}]
workers = 0
[preprocessing]
size = [32, 32]
[backbone]
name = "sphereface20"
width = 0.0625
embedding_dim = 16
[optimizer]
learning_rate = 0.02
[partitions.sharded]
inner = "streaming"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Twelve epochs of three steps on nine drawn people."""
    return write_recipe(tmp_path)


def write_recipe(folder: Path, *, epochs: int = 12, device: str = "cpu") -> Path:
    people = draw_people(folder / "people", 9, 6)
    values = {"output": folder / "run", "people": people, "device": device}
    path = folder / "run.toml"
    quoted = {key: json.dumps(str(value)) for key, value in values.items()}
    path.write_text(RECIPE.format(epochs=epochs, **quoted), encoding="utf-8")
    return path


def torchrun(*options: str) -> list[str]:
    return [str(BIN / "torchrun"), "--standalone", *options]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400", **changes}


@contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own session, gone with its children at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment(), start_new_session=True
        )
    try:
        yield process
    finally:
        for rank in ranks_of(process.pid):
            os.kill(rank, signal.SIGKILL)
        process.kill()
        process.wait()


def ranks_of(parent: int) -> list[int]:
    """Process ids of the ranks that a torchrun started, in order."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            values = dict(pair.split("=", 1) for pair in (entry / "environ").read_text().split("\0") if "=" in pair)
        except (OSError, ValueError):
            continue
        if int(stat[1]) == parent and "LOCAL_RANK" in values:
            found[int(values["LOCAL_RANK"])] = int(entry.name)
    return [found[rank] for rank in sorted(found)]


def wait_for(happened, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def losses(output: Path) -> list[float]:
    lines = (output / "loss.csv").read_text(encoding="utf-8").splitlines()[1:]
    return [float(line.split(",")[1]) for line in lines]


def unbroken(recipe: Path, folder: Path) -> list[float]:
    """The trace of one process."""
    train(load_config(recipe, {"output": folder / "alone"}))
    return losses(folder / "alone")


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_goes_on_from_the_last_checkpoint(recipe: Path, tmp_path: Path) -> None:
    command = torchrun("--nproc-per-node", "2", "--max-restarts", "1", "-m", "facemargin", "train", "--config")
    log, output = tmp_path / "log.txt", tmp_path / "run"
    with started([*command, str(recipe)], log) as process:
        wait_for(lambda: checkpoints_in(output / "checkpoints"), process, log)
        os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
        process.wait(PATIENCE_S)
    text = log.read_text()
    assert process.returncode == 0, text
    resumed = re.findall(r"resumed at step ([\d,]+)", text)
    assert len(resumed) == 1, text
    assert int(resumed[0]) % 3 == 0
    assert text.count("next: facemargin export --run") == 1  # said by the first rank alone
    assert text.count("people, 54 images") == 2
    np.testing.assert_allclose(losses(output), unbroken(recipe, tmp_path), rtol=1e-3)
    backbone, config, checkpoint = restore_model(output)  # which export, evaluate and calibrate read
    assert (checkpoint.step, config.partition) == (36, "sharded")
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 16)
    assert len(list(checkpoint.path.glob("rows-*-of-00002.safetensors"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_saves_once_and_another_number_of_ranks_goes_on(
    recipe: Path, tmp_path: Path, signalled: signal.Signals
) -> None:
    command = [str(BIN / "facemargin"), "train", "--config", str(recipe)]  # as `torchrun … $(which facemargin) train`
    log, output = tmp_path / "log.txt", tmp_path / "run"
    with started([*torchrun("--nproc-per-node", "3"), *command], log) as process:
        wait_for(lambda: checkpoints_in(output / "checkpoints"), process, log)
        process.send_signal(signalled)
        process.wait(PATIENCE_S)
    text = log.read_text()
    stopped = re.findall(r"interrupted at step ([\d,]+); saved", text)
    assert process.returncode != 0
    assert len(stopped) == 1, text
    step = int(stopped[0].replace(",", ""))
    assert checkpoints_in(output / "checkpoints")[-1].name == f"step-{step:08d}"
    assert len(losses(output)) == step < 36
    resume = torchrun("--nproc-per-node", "2", "-m", "facemargin", "train", "--output", str(output), "--resume")
    subprocess.run(resume, env=environment(), capture_output=True, timeout=PATIENCE_S, check=True)
    np.testing.assert_allclose(losses(output), unbroken(recipe, tmp_path), rtol=1e-3)


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all_with_one_message(recipe: Path, tmp_path: Path) -> None:
    pictures = sorted((tmp_path / "people").glob("*/*.png"))
    pictures[20].write_bytes(b"no picture")
    command = torchrun("--nproc-per-node", "3", "-m", "facemargin", "train", "--config", str(recipe))
    told = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert told.returncode != 0
    assert told.stderr.count("facemargin: error: ") == 1, told.stderr
    assert f"{pictures[20]}" in told.stderr
    assert "exitcode  : 2" in told.stderr
    assert "Connection closed" not in told.stderr
    assert checkpoints_in(tmp_path / "run" / "checkpoints")


@pytest.mark.slow
def test_a_lost_rank_is_told_in_one_line(recipe: Path, tmp_path: Path) -> None:
    command = torchrun("--nproc-per-node", "3", "-m", "facemargin", "train", "--config", str(recipe))
    log, output = tmp_path / "log.txt", tmp_path / "run"
    with started([*command, "--epochs", "2000"], log) as process:
        wait_for(lambda: checkpoints_in(output / "checkpoints"), process, log)
        before = checkpoints_in(output / "checkpoints")
        os.kill(ranks_of(process.pid)[2], signal.SIGKILL)
        process.wait(PATIENCE_S)
    text = log.read_text()
    assert process.returncode != 0
    assert text.count("facemargin: error: another process of this run has ended or cannot be reached") == 1, text
    assert checkpoints_in(output / "checkpoints")[-1].name >= before[-1].name


@pytest.mark.parametrize("command", ["compare", "demo"])
def test_commands_of_one_process_refuse_several(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"`facemargin {command}` works in one process: start it without torchrun"):
        refuse_several_processes(command)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU for nccl")
def test_gpus_exchange_by_nccl(tmp_path: Path) -> None:
    count = torch.cuda.device_count()
    recipe = write_recipe(tmp_path, epochs=2, device="cuda")
    # With one GPU there is one rank, which needs no group: then this shows the device alone.
    command = torchrun("--nproc-per-node", str(min(count, 4)), "-m", "facemargin", "train", "--config", str(recipe))
    told = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert told.returncode == 0, told.stderr
    expected = unbroken(recipe, tmp_path)
    np.testing.assert_allclose(losses(tmp_path / "run"), expected, rtol=5e-3)
