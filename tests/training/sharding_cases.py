"""Checkpoints of class rows across numbers of ranks, run by ``tests/ranks.py``: three ranks save, others resume."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from facemargin.errors import CheckpointError
from facemargin.heads import Head, make_head
from facemargin.partitions.collectives import gather_rows
from facemargin.partitions.sharded import shard_range
from facemargin.rowwise import RowwiseAdamW, RowwiseSGD
from training.sharding import load_shards, save_shards

D, BATCH = 5, 8
SAVED_ON = 3


class Run(NamedTuple):
    head: str
    classes: int
    options: dict[str, Any]
    partition: dict[str, Any]
    optimizer: Callable[..., Optimizer]


SAMPLED = {"inner": {"name": "sampled", "samples": 0.3}}
RUNS = {
    "momentum": Run(
        "arcface", 7, {"learn_scale": True}, {"self_normalize": 0.1}, partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    ),
    "few-classes": Run("softmax", 3, {}, {}, partial(torch.optim.AdamW, lr=0.05)),
    "sampled-momentum": Run("softmax", 40, {}, SAMPLED, partial(RowwiseSGD, lr=0.05, momentum=0.9, weight_decay=0.1)),
    "sampled-moments": Run("am-softmax", 40, {}, SAMPLED, partial(RowwiseAdamW, lr=0.05)),
}


def start(run: Run, seed: int) -> tuple[Head, Optimizer]:
    torch.manual_seed(seed)
    partition = {"name": "sharded", **run.partition}
    head = make_head(run.head, embedding_dim=D, num_classes=run.classes, partition=partition, **run.options).double()
    return head, run.optimizer(head.parameters())


def own_batch(world: Any, run: Run) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, D, generator=generator, dtype=torch.float64)
    y = torch.randint(run.classes, (BATCH,), generator=generator)
    own = slice(*shard_range(BATCH, world.rank, world.ranks))
    return x[own], y[own]


def train_step(world: Any, run: Run, head: Head, optimizer: Optimizer) -> Tensor:
    optimizer.zero_grad()
    loss = head(*own_batch(world, run))
    loss.backward()
    optimizer.step()
    head.advance()
    return loss.detach()


def whole_state(world: Any, run: Run, head: Head, optimizer: Optimizer) -> dict[str, Tensor]:
    """All of the head and its optimizer on every rank, rows put together."""
    state = dict(head.state_dict())
    for name, parameter in head.named_parameters():
        state |= {f"{name}/{key}": value for key, value in optimizer.state[parameter].items()}
    sizes = [stop - start for start, stop in (shard_range(run.classes, r, world.ranks) for r in range(world.ranks))]
    return {
        name: gather_rows(value, sizes).clone()
        if name.split("/")[0] in ("weight", "bias") and value.ndim
        else value.clone()
        for name, value in state.items()
    }


def after_the_next_step(world: Any, run: Run, head: Head, optimizer: Optimizer) -> dict[str, Tensor]:
    """Where nothing is drawn at random, the next loss and what comes of it; else the scores alone."""
    if head.partition.inner.exact:
        loss = train_step(world, run, head, optimizer)
        return {"loss": loss, **whole_state(world, run, head, optimizer)}
    sizes = [stop - start for start, stop in (shard_range(BATCH, r, world.ranks) for r in range(world.ranks))]
    return {"logits": gather_rows(head.logits(own_batch(world, run)[0]), sizes)}


def saved_and_resumed(world: Any, name: str) -> None:
    run, folder = RUNS[name], world.folder / name
    if world.ranks == SAVED_ON:
        head, optimizer = start(run, seed=3)
        for _ in range(3):
            train_step(world, run, head, optimizer)
        save_shards(folder, head, optimizer)
        saved = whole_state(world, run, head, optimizer)
        following = after_the_next_step(world, run, head, optimizer)
        if world.rank == 0:
            save_file(saved, world.folder / f"{name}-whole.safetensors")
            save_file(following, world.folder / f"{name}-following.safetensors")
    else:
        head, optimizer = start(run, seed=8)
        load_shards(folder, head, optimizer)
        if world.ranks > SAVED_ON:  # once more, from where a rank may have no class
            save_shards(world.folder / f"{name}-again", head, optimizer)
            head, optimizer = start(run, seed=9)
            load_shards(world.folder / f"{name}-again", head, optimizer)
        saved = load_file(world.folder / f"{name}-whole.safetensors")
        found = whole_state(world, run, head, optimizer)
        assert found.keys() == saved.keys()
        assert any(key.startswith("weight/") and value.ndim == 2 and bool(value.any()) for key, value in found.items())
        assert all(torch.equal(found[key], saved[key]) and found[key].dtype == saved[key].dtype for key in saved)
        following = load_file(world.folder / f"{name}-following.safetensors")
        found = after_the_next_step(world, run, head, optimizer)
        for key, value in following.items():
            torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-10)


def every_rank_hears_of_a_problem(world: Any) -> None:
    run = RUNS["momentum"]
    head, optimizer = start(run, seed=3)
    folder: Path = world.folder / "momentum"
    with pytest.raises(CheckpointError, match="exists already" if world.rank == 0 else "rank 0 of .* failed"):
        save_shards(folder, head, optimizer)
    if world.rank == 0:
        optimizer.state[head.weight]["factors"] = torch.zeros(D, 2)
    message = "optimizer/weight/factors" if world.rank == 0 else "rank 0 of .* failed"
    with pytest.raises(CheckpointError, match=message):
        save_shards(world.folder / "never", head, optimizer)
    optimizer.state.clear()
    damaged = world.folder / "damaged"
    if world.ranks == SAVED_ON:
        if world.rank == 0:
            shutil.copytree(folder, damaged)
            part = damaged / "rows-00001-of-00003.safetensors"
            part.write_bytes(part.read_bytes()[:-1] + b"\x01")
        return
    before = head.weight.clone()
    with pytest.raises(CheckpointError, match="is damaged" if world.rank == 1 % world.ranks else "rank 1 of .* failed"):
        load_shards(damaged, head, optimizer)
    assert torch.equal(head.weight, before)
    assert not optimizer.state


CASES = {
    **{name: partial(saved_and_resumed, name=name) for name in RUNS},
    "every_rank_hears_of_a_problem": every_rank_hears_of_a_problem,
}
