"""Sharded: 1, 2, 3 and 4 processes give the dense loss and gradients, whatever their batches, classes and options are.

What ranks do together is in ``sharded_cases.py``; here it is started and asked about.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from facemargin.heads import HEADS, Head, make_head
from facemargin.partitions import Dense, make_partition
from facemargin.partitions import sharded as sharded_module
from facemargin.partitions.sharded import Sharded, shard_range

CASES = Path(__file__).with_name("sharded_cases.py")
RANKS = Path(__file__).parents[2] / "ranks.py"
NUMBERS_OF_RANKS = ("1", "2", "3", "4")
D, C = 5, 7


def run_worlds(folder: Path, cases: str) -> dict[str, dict[str, list[str]]]:
    # -P: the folder of the script holds a folder named facemargin, which is not the package.
    command = [sys.executable, "-P", "-W", "error", str(RANKS), f"{CASES}:{cases}", str(folder), *NUMBERS_OF_RANKS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment)
    outcomes = folder / "outcomes.json"
    assert outcomes.exists(), told.stderr
    return json.loads(outcomes.read_text())


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """What each rank says of each case, by number of ranks; torch is imported once for all of them."""
    return run_worlds(tmp_path_factory.mktemp("ranks"), "CASES")


def problems(cases: dict[str, list[str]]) -> str:
    return "\n".join(
        f"{case}, rank {rank}: {told}"
        for case, by_rank in cases.items()
        for rank, told in enumerate(by_rank)
        if told != "passed"
    )


@pytest.mark.parametrize("ranks", NUMBERS_OF_RANKS)
def test_any_number_of_ranks_gives_what_dense_gives(ranks, outcomes):
    assert not problems(outcomes[ranks])
    assert outcomes[ranks].keys() >= {f"dense-{name}-7-options" for name in HEADS}


@pytest.mark.slow
def test_every_head_option_and_inner_partition_gives_what_dense_gives(tmp_path: Path) -> None:
    for cases in run_worlds(tmp_path, "THOROUGH").values():
        assert not problems(cases)


def build(rank: int, ranks: int, monkeypatch: pytest.MonkeyPatch, **options: object) -> Head:
    """A head as that rank would build it; nothing is sent while it is built."""
    monkeypatch.setattr(sharded_module, "world", lambda group=None: (rank, ranks))
    torch.manual_seed(4)
    return make_head("softmax", embedding_dim=D, num_classes=C, partition={"name": "sharded", **options})


@pytest.mark.parametrize("at_once", [3, 1 << 16])
@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 9])
def test_the_first_rows_are_the_same_for_every_number_of_ranks(ranks, at_once, monkeypatch):
    monkeypatch.setattr(sharded_module, "ROWS_DRAWN_AT_ONCE", at_once)
    whole = build(0, 1, monkeypatch)
    parts = [build(rank, ranks, monkeypatch) for rank in range(ranks)]
    assert torch.equal(torch.cat([part.weight for part in parts]), whole.weight)
    assert [len(part.bias) for part in parts] == [len(part.weight) for part in parts]
    torch.manual_seed(4)
    if at_once >= C:
        assert torch.equal(make_head("softmax", embedding_dim=D, num_classes=C).weight, whole.weight)


@pytest.mark.parametrize("classes", [1, 3, 7, 1000])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 9])
def test_shards_hold_each_class_once_and_differ_by_one_at_most(classes, ranks):
    ranges = [shard_range(classes, rank, ranks) for rank in range(ranks)]
    assert [j for start, stop in ranges for j in range(start, stop)] == list(range(classes))
    sizes = [stop - start for start, stop in ranges]
    assert max(sizes) - min(sizes) <= 1


def test_a_head_built_before_the_process_group_is_refused_in_use(monkeypatch):
    head = build(0, 1, monkeypatch)
    monkeypatch.setattr(sharded_module, "world", lambda group=None: (1, 2))
    x, y = torch.randn(2, D), torch.tensor([0, 1])
    for use in (lambda: head(x, y), lambda: head.logits(x), lambda: head.predict(x)):
        with pytest.raises(RuntimeError, match=r"built as rank 0 of 1, and is now used as 1 of 2.*init_process_group"):
            use()


@pytest.mark.parametrize("inner", ["sharded", "hierarchical", "nce", {"name": "dense", "self_normalize": 0.1}])
def test_an_inner_partition_that_cannot_sum_over_a_shard_is_refused(inner):
    with pytest.raises(ValueError, match="cannot sum over a shard; use 'dense', 'streaming' or 'sampled'"):
        Sharded(inner=inner)


def test_what_an_inner_partition_does_not_know_cannot_be_asked_for():
    with pytest.raises(ValueError, match=r"self_normalize=0\.1 needs log Z"):
        Sharded(inner="sampled", self_normalize=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing=0\.1 .*inner='sampled'.*inner='dense'"):
        make_head("arcface", embedding_dim=D, num_classes=C, partition=Sharded(inner="sampled"), label_smoothing=0.1)


def test_an_inner_partition_belongs_to_one_head():
    inner = Dense()
    make_head("arcface", embedding_dim=D, num_classes=C, partition=Sharded(inner=inner))
    with pytest.raises(ValueError, match="make a new inner for each"):
        make_head("arcface", embedding_dim=D, num_classes=C, partition=Sharded(inner=inner))


def test_options_hold_those_of_the_inner_partition():
    options = Sharded(inner={"name": "sampled", "samples": 3}, gradients_are_averaged=False).options()
    assert json.loads(json.dumps(options)) == make_partition(options).options()
    assert options["inner"]["samples"] == 3
    assert options["gradients_are_averaged"] is False
