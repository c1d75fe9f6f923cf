"""Training on several ranks, run by ``tests/ranks.py``: one process first, whose runs the others are compared with."""

import copy
import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from rich.console import Console

from facemargin.errors import CheckpointError, ConfigError, DataError, NonFiniteLossError
from training.batch_norm import synced
from training.checkpoint import load_checkpoint, open_checkpoint, read_rows
from training.config import TrainConfig, make_config
from training.ranks import OtherRankError, Ranks
from training.trainer import Trainer, open_source, train, training_images
from training.trainer.build import class_range
from training.trainer.trainer import Trainer as Stepping

QUIET = Console(quiet=True)
PEOPLE, OTHERS = "people", "others"  # drawn by the test, in the folder of the worlds: 9 people
# and "few", 3 people, so that a rank may have no class, and "many", 27, of which a batch never has all
BATCH, STEPS = 18, 6  # of 54 images; on 4 ranks their parts differ in size
LAST = f"step-{STEPS:08d}"

SMOOTH = {
    "name": "sphereface20",
    "width": 0.0625,
    "embedding_dim": 16,
}  # no batch norm: the same on any number of ranks
NORMED = {"name": "iresnet18", "width": 0.0625, "embedding_dim": 16, "dropout": 0.2}
ALL_SAMPLED = {"inner": {"name": "sampled", "samples": 1.0}}

VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {"optimizer": {"learning_rate": 0.05, "clip_norm": 0.5}, "ema_decay": 0.9},
    "sampled": {"partition": "sampled", "partitions": {"sampled": {"samples": 2}}, "head": "normface", "data": "many"},
    "sharded": {"partition": "sharded", "head": "softmax", "optimizer": {"learning_rate": 0.05, "clip_norm": 0.5}},
    "sharded-sampled": {"partition": "sharded", "partitions": {"sharded": ALL_SAMPLED}},
    "class-based": {"partition": "class-based"},
    "weights": {
        "partition": "sharded", "partitions": {"sharded": {"inner": "streaming"}}, "accumulate": 2,
        "heads": {"am-softmax": {"scale": 8.0, "class_weights": [0.0, 1, 2, 3, 1, 2, 3, 1, 2], "label_smoothing": 0.1}},
    },
    "synced": {
        "backbone": {"name": "iresnet18", "width": 0.0625, "embedding_dim": 16}, "sync_batch_norm": True,
        "optimizer": {"learning_rate": 0.01},
    },
    "few": {"partition": "sharded", "data": "few", "epochs": 6, "optimizer": {"learning_rate": 0.05, "clip_norm": 0.5}},
    "head-alone": {"freeze": 5, "freeze_epochs": 1, "start_from": "start"},
    "frozen": {"freeze": 1, "freeze_epochs": 1, "start_from": "start"},
}  # fmt: skip


def config_of(world: Any, output: str, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "output": world.folder / output,
        "epochs": 2,
        "batch_size": BATCH,
        "device": "cpu",
        "precision": "float32",
        "preprocessing": {"size": [32, 32]},
        "backbone": SMOOTH,
        "optimizer": {"learning_rate": 0.05},
        "heads": {"am-softmax": {"scale": 8.0}},
        "data": {"folders": [world.folder / PEOPLE], "workers": 0},
    }
    changes = {**changes}
    if changes.get("data") in ("few", "many"):
        changes["data"] = {"folders": [world.folder / changes["data"]], "workers": 0}
    if "start_from" in changes:
        changes["start_from"] = world.folder / changes["start_from"]
    return make_config({**values, **changes}, "test")


def losses(world: Any, output: str) -> list[float]:
    lines = (world.folder / output / "loss.csv").read_text(encoding="utf-8").splitlines()[1:]
    return [float(line.split(",")[1]) for line in lines]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Everything that was learned, by name, rows put together."""
    state = load_checkpoint(checkpoint).state
    state = read_rows(state, 0, state["data"]["people"])
    found = {f"{part}/{name}": value for part in ("backbone", "head") for name, value in state[part].items()}
    found |= {f"average/{name}": value for name, value in (state["average"] or {}).items()}
    moved = state["optimizer"]["state"].items()
    return found | {f"{number}/{key}": value for number, kept in moved for key, value in kept.items()}


@contextmanager
def stopped_after(step: int, rank: int):
    """One rank alone is sent SIGTERM in a step."""
    original = Stepping.train_step

    def stopping(self: Trainer, batch: Any) -> Any:
        losses = original(self, batch)
        if self.step == step and self.ranks.rank == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    Stepping.train_step = stopping
    try:
        yield
    finally:
        Stepping.train_step = original


def diverging_ends_all_ranks(world: Any) -> None:
    wild = {"optimizer": {"learning_rate": 1e30, "clip_norm": None}, "schedule": {"warmup": 0}, "head": "softmax"}
    with pytest.raises(NonFiniteLossError, match="head 'softmax' is not finite at step"):
        train(config_of(world, f"wild-{world.ranks}", **wild), console=QUIET)


def class_rows_are_taken_over_by_other_shards(world: Any) -> None:
    """A run starts with the rows of one that was split otherwise, or not at all."""
    for name in ("sharded-1", f"sharded-{world.ranks}", "unsplit"):
        if name == "unsplit" and world.ranks == 1:
            train(config_of(world, name, head="softmax", epochs=1), console=QUIET)
        state = read_rows(open_checkpoint(world.folder / name).state, 0, 9)["head"]
        for partition in ("sharded", "dense"):
            config = config_of(world, "never", head="softmax", partition=partition, start_from=name)
            trainer = Trainer(config, training_images(config), Ranks(world.rank, world.ranks))
            trainer.start_from(open_source(world.folder / name))
            own = slice(*class_range(trainer.head))
            assert torch.equal(trainer.head.weight, state["weight"][own])
            assert torch.equal(trainer.head.bias, state["bias"][own])
    meet(world)


def meet(world: Any) -> None:
    if world.ranks > 1:
        dist.barrier()


def learns_as_one_process_does(world: Any, name: str) -> None:
    if VARIANTS[name].get("start_from") and not (world.folder / "start").exists():  # in the world of one
        train(config_of(world, "start", epochs=1), console=QUIET)
    output = f"{name}-{world.ranks}"
    result = train(config_of(world, output, **VARIANTS[name]), console=QUIET)
    assert result.finished
    assert result.history.images == STEPS * BATCH
    meet(world)
    expected, found = losses(world, f"{name}-1"), losses(world, output)
    assert len(found) == STEPS
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    first = weights(world.folder / f"{name}-1" / "checkpoints" / LAST)
    mine = weights(result.checkpoint)
    assert mine.keys() == first.keys()
    if name == "synced":  # rounding grows fast through twenty batch norms: they are compared in float64 below
        return
    for key, value in first.items():
        torch.testing.assert_close(mine[key], value, rtol=5e-3, atol=5e-4, msg=lambda text, key=key: f"{key}: {text}")


def a_resumed_run_has_the_identical_trace(world: Any, name: str, changes: dict[str, Any]) -> None:
    whole, broken = f"whole-{name}-{world.ranks}", f"broken-{name}-{world.ranks}"
    validation = {"images": world.folder / OTHERS}
    train(config_of(world, whole, backbone=NORMED, validation=validation, **changes), console=QUIET)
    config = config_of(world, broken, backbone=NORMED, validation=validation, **changes)
    with stopped_after(4, rank=world.ranks - 1):
        stopped = train(config, console=QUIET)
    assert (stopped.finished, stopped.step) == (False, 4)
    again = train(config, resume=True, console=QUIET)
    assert again.finished
    meet(world)
    assert losses(world, whole) == losses(world, broken)
    theirs = weights(world.folder / whole / "checkpoints" / LAST)
    mine = weights(again.checkpoint)
    assert all(torch.equal(mine[key], value) for key, value in theirs.items())
    assert json.dumps(again.history.validation) == json.dumps(
        load_checkpoint(world.folder / whole / "checkpoints" / LAST).state["history"]["validation"]
    )


def batch_norm_measures_all_ranks(world: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    for norm, shape in ((torch.nn.BatchNorm2d(5), (7, 5, 3, 2)), (torch.nn.BatchNorm1d(5, momentum=None), (7, 5))):
        x = torch.randn(shape, generator=generator, dtype=torch.float64) + 100  # far from 0, where squares lose digits
        wanted = torch.randn(shape, generator=generator, dtype=torch.float64)
        norm = norm.double()
        torch.nn.init.normal_(norm.weight, generator=generator)
        network = torch.nn.Sequential(copy.deepcopy(norm))
        synced(network)
        assert network.state_dict().keys() == {f"0.{name}" for name in norm.state_dict()}
        part = Ranks(world.rank, world.ranks).part(len(x))
        whole, own = x.clone().requires_grad_(), x[part].clone().requires_grad_()
        (norm(whole) * wanted).exp().sum().backward()
        (network(own) * wanted[part]).exp().sum().backward()
        gradients = [network[0].weight.grad, network[0].bias.grad]
        for gradient in gradients if world.ranks > 1 else ():
            dist.all_reduce(gradient)
        close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
        close(own.grad, whole.grad[part])
        close(gradients, [norm.weight.grad, norm.bias.grad])
        close(dict(network[0].named_buffers()), dict(norm.named_buffers()))
        close(network.eval()(x), norm.eval()(x))


STAGES = {1: 2, 2: 3, 4: 5, 3: 6}  # where the run has come to when a world is done with it


def goes_on_with_another_number_of_ranks(world: Any, name: str) -> None:
    output = f"elastic-{name}"
    config = config_of(world, output, **VARIANTS[name])
    if world.ranks == 1:
        with stopped_after(STAGES[1], rank=0):
            train(config, console=QUIET)
    else:
        with stopped_after(STAGES[world.ranks], rank=0):
            train(config, resume=True, console=QUIET)
    meet(world)
    expected, found = losses(world, f"{name}-1"), losses(world, output)
    assert len(found) == STAGES[world.ranks]
    np.testing.assert_allclose(found, expected[: len(found)], rtol=2e-4)


def unreadable_pictures_are_told_by_the_first_rank(world: Any) -> None:
    if world.ranks == 1:
        people = shutil.copytree(world.folder / PEOPLE, world.folder / "damaged")
        for person in ("person03", "person05", "person07"):
            (people / person / "2.png").write_bytes(b"no picture")
    data = {"folders": [world.folder / "damaged"], "workers": 0}
    lenient = data | {"on_bad_image": "skip", "max_bad_share": 3 / 54}
    output = f"damaged-{world.ranks}"
    result = train(config_of(world, output, data=lenient), console=QUIET)
    meet(world)
    assert result.finished
    named, expected = ((world.folder / name / "unreadable.txt").read_text() for name in (output, "damaged-1"))
    assert named == expected
    np.testing.assert_allclose(losses(world, output), losses(world, "damaged-1"), rtol=2e-4)
    assert result.history.images == STEPS * BATCH - result.history.unreadable
    strict = config_of(world, f"strict-{world.ranks}", data=data | {"on_bad_image": "skip", "max_bad_share": 0.01})
    with pytest.raises(DataError, match="of the 54 images of epoch 1 cannot be read"):
        train(strict, console=QUIET)
    with pytest.raises(Exception, match=r"person0[357]") as caught:  # on all ranks, whoever has the picture
        train(config_of(world, f"failing-{world.ranks}", data=data), console=QUIET)
    assert type(caught.value).__name__ == "UnsupportedImageError"
    meet(world)
    assert list((world.folder / f"failing-{world.ranks}" / "checkpoints").iterdir())  # saved by all, before it


def what_cannot_work_is_refused_on_all_ranks(world: Any) -> None:
    if world.ranks == 1:
        return
    elsewhere = world.folder / ("nowhere" if world.rank == 1 else PEOPLE)
    data = {"folders": [elsewhere], "workers": 0}
    with pytest.raises(DataError if world.rank == 1 else OtherRankError, match="nowhere"):
        train(config_of(world, "refused", data=data), console=QUIET)
    if not torch.cuda.is_available():  # which only one rank's machine is asked for
        with pytest.raises(ConfigError if world.rank == 1 else OtherRankError, match="'cuda' is not on this machine"):
            train(config_of(world, "refused", device="cuda" if world.rank == 1 else "cpu"), console=QUIET)
    with pytest.raises(ConfigError, match=r"rank 1 of . has another config than rank 0"):
        train(config_of(world, "refused", seed=int(world.rank == 1)), console=QUIET)
    with pytest.raises(ConfigError, match="leaves fewer than 2 images for each; raise it"):
        train(config_of(world, "refused", batch_size=4 * world.ranks - 1, accumulate=2), console=QUIET)
    apart = {"partition": "sharded", "partitions": {"sharded": {"gradients_are_averaged": False}}}
    with pytest.raises(ConfigError, match="gradients_are_averaged must be true"):
        train(config_of(world, "refused", **apart), console=QUIET)
    with pytest.raises(ConfigError, match="already holds a run"):
        train(config_of(world, "dense-1"), console=QUIET)
    meet(world)
    assert not (world.folder / "refused").exists()


def a_checkpoint_that_one_rank_cannot_write_is_none(world: Any) -> None:
    from training import checkpoint

    ranks = Ranks(world.rank, world.ranks)
    state = {"rows": checkpoint.Rows(torch.ones(2, 3), 2 * world.rank), "plain": torch.zeros(2)}
    folder = world.folder / f"saves-{world.ranks}"
    checkpoint.save_checkpoint(folder, 1, state, keep=2, ranks=ranks)
    original = checkpoint.save_file

    def fail(*_: object) -> None:
        raise OSError("disk full")

    if world.rank == world.ranks - 1:
        checkpoint.save_file = fail
    with pytest.raises(CheckpointError if world.rank == world.ranks - 1 else OtherRankError, match="disk full"):
        checkpoint.save_checkpoint(folder, 2, state, keep=2, ranks=ranks)
    checkpoint.save_file = original
    assert [path.name for path in checkpoint.checkpoints_in(folder)] == ["step-00000001"]
    found = checkpoint.load_checkpoint(folder / "step-00000001", ranks)
    assert torch.equal(read_rows(found.state, 1, 2 * world.ranks)["rows"], torch.ones(2 * world.ranks - 1, 3))
    meet(world)
    if world.rank == 0 and world.ranks > 1:
        (folder / "step-00000001" / f"rows-00001-of-{world.ranks:05d}.safetensors").write_bytes(b"damage")
    meet(world)
    damaged = checkpoint.CheckpointError | OtherRankError if world.ranks > 1 else ()
    if damaged:
        with pytest.raises((checkpoint.CheckpointError, OtherRankError), match=r"rows-00001.* is damaged"):
            checkpoint.load_checkpoint(folder / "step-00000001", ranks)


FEW = {"sampled": {"samples": 2}}
SPLIT = {"sharded": {"inner": {"name": "sampled", "samples": 2}}}

CASES: dict[str, Callable[[Any], None]] = {
    **{f"learns-{name}": partial(learns_as_one_process_does, name=name) for name in VARIANTS},
    "elastic-dense": partial(goes_on_with_another_number_of_ranks, name="dense"),
    "elastic-sharded": partial(goes_on_with_another_number_of_ranks, name="sharded"),
    "resumed-sampled": partial(
        a_resumed_run_has_the_identical_trace,
        name="sampled",
        changes={"partition": "sampled", "partitions": FEW, "ema_decay": 0.9, "data": "many"},
    ),
    "resumed-sharded": partial(
        a_resumed_run_has_the_identical_trace,
        name="sharded",
        changes={
            "partition": "sharded",
            "partitions": SPLIT,
            "data": "many",
            "optimizer": {"name": "adamw", "learning_rate": 1e-3},
        },
    ),
    "batch-norm": batch_norm_measures_all_ranks,
    "unreadable": unreadable_pictures_are_told_by_the_first_rank,
    "refused": what_cannot_work_is_refused_on_all_ranks,
    "diverging": diverging_ends_all_ranks,
    "started": class_rows_are_taken_over_by_other_shards,
    "saving": a_checkpoint_that_one_rank_cannot_write_is_none,
}

_FOR_SLOW_TESTS = {
    "learns-class-based",
    "learns-synced",
    "learns-few",
    "learns-head-alone",
    "learns-frozen",
    "elastic-dense",
    "resumed-sampled",
}
MAIN_CASES = {name: case for name, case in CASES.items() if name not in _FOR_SLOW_TESTS}
