"""Training on several ranks equals training on one, resumes on any number of them, and fails on all where one fails.

What ranks do together is in ``ranks_cases.py``; here it is started and asked about.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facemargin.errors import ConfigError
from tests.training.conftest import draw_people
from training.hardware import choose_device
from training.ranks import ALONE, Ranks, launched

CASES = Path(__file__).with_name("ranks_cases.py")
RANKS = Path(__file__).parents[1] / "ranks.py"
ROOT = RANKS.parents[1]


def outcomes_of(folder: Path, cases: str, *sizes: str) -> dict[str, dict[str, list[str]]]:
    draw_people(folder / "people", 9, 6)
    draw_people(folder / "few", 3, 8, seed=2)
    draw_people(folder / "many", 27, 2, seed=3)
    draw_people(folder / "others", 4, 3, seed=1)
    command = [sys.executable, "-P", "-W", "error", str(RANKS), f"{CASES}:{cases}", str(folder), *sizes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment)
    assert (folder / "outcomes.json").exists(), told.stderr
    return json.loads((folder / "outcomes.json").read_text())


def problems(outcomes: dict[str, dict[str, list[str]]]) -> str:
    told = [
        f"{case}, rank {rank} of {ranks}: {text}"
        for ranks, cases in outcomes.items()
        for case, texts in cases.items()
        for rank, text in enumerate(texts)
        if text != "passed"
    ]
    return "\n".join(told)


def test_two_ranks_do_what_one_does(tmp_path: Path) -> None:
    assert not problems(outcomes_of(tmp_path, "MAIN_CASES", "1", "2"))


@pytest.mark.slow
def test_any_number_of_ranks_does_what_one_does_and_goes_on_with_its_run(tmp_path: Path) -> None:
    assert not problems(outcomes_of(tmp_path, "CASES", "1", "2", "4", "3"))


def test_one_rank_is_the_trivial_case() -> None:
    assert ALONE.gather({"text": "θ", "list": [1, None]}) == [{"text": "θ", "list": [1, None]}]
    assert ALONE.gather_numbers(3, 4) == [[3, 4]]
    assert ALONE.from_first(["a"]) == ["a"]
    rows = torch.ones(3, 2, requires_grad=True)
    assert ALONE.whole_batch(rows, torch.arange(3))[0] is rows
    assert torch.equal(ALONE.all_rows(rows, 3), rows)
    network = torch.nn.Linear(2, 2)
    assert ALONE.averaging(network, torch.device("cpu")) is network
    with pytest.raises(KeyError, match="own"):
        ALONE.together(lambda: {}["own"])


@given(count=st.integers(0, 40), size=st.integers(1, 9))
def test_parts_hold_everything_once_and_in_order(count: int, size: int) -> None:
    parts = [list(range(count))[Ranks(rank, size).part(count)] for rank in range(size)]
    assert [thing for part in parts for thing in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_environment_of_torchrun_says_which_rank_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() == ALONE
    values = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for name, value in {**values, "MASTER_ADDR": "host", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert launched() == Ranks(5, 8, 1, 4)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert launched().restarts == 2


@pytest.mark.parametrize(
    "left", [{"RANK": "0"}, {"RANK": "x", "MASTER_PORT": "1"}, {"RANK": "2", "MASTER_PORT": "1"}, {"LOCAL_RANK": "1"}]
)
def test_an_environment_that_torchrun_did_not_make_is_refused(left: dict[str, str], monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert launched() == ALONE  # without a number of processes it means nothing
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "host", **left}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"RANK=.*WORLD_SIZE=2.* start with torchrun, or unset WORLD_SIZE"):
        launched()


def test_each_process_of_a_machine_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert choose_device("auto", local_rank=3, local_size=4) == torch.device("cuda", 3)
    assert choose_device("cuda:2") == torch.device("cuda", 2)
    for wanted, size in (("cuda", 5), ("cuda:1", 2)):
        with pytest.raises(ConfigError, match=rf"{size} processes on this machine need a GPU each: it has 4"):
            choose_device(wanted, local_size=size)
    assert choose_device("cpu", local_rank=1, local_size=9) == torch.device("cpu")
