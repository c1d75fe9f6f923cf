"""Checkpoints of class rows: bit for bit on any number of processes, whole or absent, and clear about what is wrong.

What ranks do together is in ``sharding_cases.py``; here it is started and asked about.
"""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW

from facemargin.errors import CheckpointError
from facemargin.heads import Head, make_head
from facemargin.partitions import sharded as sharded_module
from facemargin.rowwise import RowwiseAdamW, RowwiseSGD
from training import sharding
from training.sharding import load_shards, save_shards

CASES = Path(__file__).with_name("sharding_cases.py")
RANKS = Path(__file__).parents[1] / "ranks.py"
D, C = 4, 6


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """What each rank says of each case, by number of ranks: three save, the others resume."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-P", "-W", "error", str(RANKS), f"{CASES}:CASES", str(folder), "3", "1", "2", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment)
    assert (folder / "outcomes.json").exists(), told.stderr
    return json.loads((folder / "outcomes.json").read_text())


@pytest.mark.parametrize("ranks", ["3", "1", "2", "4"])
def test_what_three_ranks_saved_any_number_resumes_bit_for_bit(ranks, outcomes):
    problems = {case: told for case, by_rank in outcomes[ranks].items() for told in by_rank if told != "passed"}
    assert not problems, "\n".join(problems.values())


def build(name: str = "arcface", *, dim: int = D, classes: int = C, seed: int = 1, **options: Any) -> tuple[Head, SGD]:
    torch.manual_seed(seed)
    head = make_head(name, embedding_dim=dim, num_classes=classes, **options)
    return head, SGD(head.parameters(), lr=0.1, momentum=0.9)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Head, SGD]:
    head, optimizer = build()
    for _ in range(2):
        head(torch.randn(3, D), torch.tensor([0, 2, 5])).backward()
        optimizer.step()
        head.advance()
    save_shards(tmp_path / "rows", head, optimizer)
    return tmp_path / "rows", head, optimizer


@pytest.mark.parametrize("partition", ["dense", "sharded", "sampled"])
def test_any_partition_with_a_row_a_class_resumes(saved, partition):
    folder, head, optimizer = saved
    found, found_optimizer = build(seed=2, partition=partition)
    load_shards(folder, found, found_optimizer)
    assert torch.equal(found.weight, head.weight)
    assert int(found.step) == 2
    momentum = found_optimizer.state[found.weight]["momentum_buffer"]
    assert torch.equal(momentum, optimizer.state[head.weight]["momentum_buffer"])
    assert momentum.data_ptr() != optimizer.state[head.weight]["momentum_buffer"].data_ptr()


def test_a_checkpoint_can_be_read_by_a_person_and_holds_no_pickle(saved):
    folder = saved[0]
    names = ["index.json", "replicated.safetensors", "rows-00000-of-00001.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    index = json.loads((folder / "index.json").read_text())
    assert (index["head"], index["num_classes"], index["embedding_dim"]) == ("arcface", C, D)
    assert index["parts"][0]["classes"] == [0, C]


def test_the_storage_reader_of_torch_reads_the_rows(saved):
    import torch.distributed.checkpoint as dcp

    folder, head, optimizer = saved
    rows = {"weight": torch.zeros(C, D), "optimizer/weight/momentum_buffer": torch.zeros(C, D)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in a single process", category=UserWarning)
        dcp.load(rows, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
    assert torch.equal(rows["weight"], head.weight)
    assert torch.equal(rows["optimizer/weight/momentum_buffer"], optimizer.state[head.weight]["momentum_buffer"])


def test_a_rank_reads_only_its_own_rows(saved, monkeypatch):
    folder, head, _ = saved
    read = []

    class Spy:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.file = safe_open(*arguments, **options)

        def __enter__(self) -> "Spy":
            self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def get_slice(self, name: str) -> Any:
            rows = self.file.get_slice(name)
            return type("Rows", (), {"__getitem__": lambda _, wanted: (read.append(wanted), rows[wanted])[1]})()

    safe_open = sharding.safe_open
    monkeypatch.setattr(sharding, "safe_open", Spy)
    for module in (sharded_module, sharding):
        monkeypatch.setattr(module, "world", lambda group=None: (1, 3))
    found, optimizer = build(seed=2, partition="sharded")
    load_shards(folder, found, optimizer)
    assert torch.equal(found.weight, head.weight[2:4])
    assert read == [slice(None, 1), slice(2, 4), slice(2, 4)]  # of each tensor; the first looks at its dtype


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 9}, "num_classes=6, and this head num_classes=9.*build a new head and do not load"),
        ({"dim": 8}, "embedding_dim=4, and this head embedding_dim=8.*build a new head and do not load"),
        ({"name": "am-softmax"}, "head='arcface', and this head head='am-softmax'"),
        ({"learn_scale": True}, "has learn_scale=False, and this head learn_scale=True"),
        ({"margin": 0.3}, r"has margin=0\.5, and this head margin=0\.3: build the head with the options of the run"),
        ({"scale": 30.0}, r"has scale=64\.0, and this head scale=30\.0"),
        ({"class_weights": [1.0] * C}, "has class_weights=None, and this head class_weights='SHA-256 "),
        (
            {"partition": {"name": "dense", "self_normalize": 0.1}},
            "step, weight, and this head partition.log_z",
        ),
    ],
)
def test_another_head_is_named(saved, changes, message):
    with pytest.raises(CheckpointError, match=message):
        load_shards(saved[0], *build(**changes))


def test_another_dtype_is_named(saved):
    head, _ = build()
    before = head.double().weight.clone()
    with pytest.raises(CheckpointError, match=r"weight as torch\.float32 .* this head as torch\.float64"):
        load_shards(saved[0], head)
    assert torch.equal(head.weight, before)
    assert int(head.step) == 0


def test_damage_is_named(saved):
    folder = saved[0]
    part, index = folder / "rows-00000-of-00001.safetensors", folder / "index.json"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"rows-00000-of-00001.safetensors is damaged"):
        load_shards(folder, *build())
    part.unlink()
    with pytest.raises(CheckpointError, match=r"rows-00000-of-00001.safetensors is missing"):
        load_shards(folder, *build())
    record = json.loads(index.read_text())
    index.write_text(json.dumps({**record, "parts": [{**record["parts"][0], "classes": [0, 5]}]}))
    with pytest.raises(CheckpointError, match=r"damaged: its parts hold classes \[\[0, 5\]\]"):
        load_shards(folder, *build())
    index.write_text(json.dumps({**record, "format_version": 9}))
    with pytest.raises(CheckpointError, match=r"shard format 9"):
        load_shards(folder, *build())
    for text in ("{", "[]", "{}"):
        index.write_text(text)
        with pytest.raises(CheckpointError, match=r"not a readable checkpoint"):
            load_shards(folder, *build())
    index.unlink()
    with pytest.raises(CheckpointError, match=r"not a readable checkpoint"):
        load_shards(folder, *build())


def test_an_interrupted_write_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    head, optimizer = build()
    with monkeypatch.context() as patch:
        patch.setattr(sharding, "save_file", fail)
        with pytest.raises(CheckpointError, match=r"cannot write .*rows: disk full"):
            save_shards(tmp_path / "rows", head, optimizer)
    assert not (tmp_path / "rows").exists()
    save_shards(tmp_path / "rows", head, optimizer)
    load_shards(tmp_path / "rows", *build())
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


def test_a_checkpoint_is_never_written_over(saved):
    folder, head, optimizer = saved
    with pytest.raises(CheckpointError, match=r"exists already"):
        save_shards(folder, head, optimizer)


def test_a_partition_without_a_row_a_class_is_refused(tmp_path):
    head, optimizer = build(partition="hierarchical")
    with pytest.raises(ValueError, match=r"'hierarchical' keeps no row a class.*use save_checkpoint"):
        save_shards(tmp_path / "rows", head, optimizer)


@pytest.mark.parametrize(("dim", "shape"), [(D, (D,)), (D, (C, 1)), (C, (C,))])
def test_a_state_that_does_not_go_by_rows_is_refused(dim, shape, tmp_path):
    head, optimizer = build(dim=dim)
    optimizer.state[head.weight]["factors"] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=rf"optimizer/weight/factors of shape \({shape[0]},"):
        save_shards(tmp_path / "rows", head, optimizer)


@pytest.mark.parametrize("dim", [D, C])
def test_one_number_a_row_is_saved_and_resumed(dim, tmp_path):
    head, _ = build(dim=dim)
    optimizer = RowwiseAdamW(head.parameters())
    optimizer.state[head.weight]["row_steps"] = torch.arange(float(C))
    save_shards(tmp_path / "rows", head, optimizer)
    again, _ = build(dim=dim)
    load_shards(tmp_path / "rows", again, resumed := RowwiseAdamW(again.parameters()))
    assert torch.equal(resumed.state[again.weight]["row_steps"], torch.arange(float(C)))


def test_the_state_of_another_optimizer_is_refused_and_one_derived_from_it_takes_it(saved):
    head, _ = build(seed=2)
    before = head.weight.clone()
    with pytest.raises(CheckpointError, match=r"has the state of SGD for weight, and its optimizer is AdamW"):
        load_shards(saved[0], head, AdamW(head.parameters()))
    assert torch.equal(head.weight, before)
    load_shards(saved[0], head, derived := RowwiseSGD(head.parameters(), lr=0.1, momentum=0.9))
    assert "momentum_buffer" in derived.state[head.weight]


def test_a_state_that_was_not_saved_is_cleared(saved, tmp_path):
    _, head, optimizer = saved
    save_shards(tmp_path / "without", head)
    assert optimizer.state[head.weight]
    load_shards(tmp_path / "without", head, optimizer)
    assert not optimizer.state


def test_an_error_of_any_kind_is_raised_as_one_of_the_checkpoint(saved, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(sharding, "load_file", fail)
    with pytest.raises(CheckpointError, match="is not a readable checkpoint: no memory"):
        load_shards(saved[0], *build())
