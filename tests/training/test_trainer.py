"""Training learns, resumes to the identical loss trace, stops on a non-finite loss and refuses what cannot work."""

import copy
import csv
import dataclasses
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from facemargin.errors import CheckpointError, ConfigError, DataError, NonFiniteLossError, UnsupportedImageError
from facemargin.heads import HEADS
from training.checkpoint import checkpoints_in, load_checkpoint, open_checkpoint
from training.config import TrainConfig
from training.data.loader import Batch
from training.trainer import (
    Trainer,
    build_head,
    open_source,
    require_same_run,
    restore_model,
    train,
    training_images,
)

MakeConfig = Callable[..., TrainConfig]
QUIET = Console(quiet=True)
BATCH = Batch(torch.randn(8, 3, 32, 32), torch.arange(8))


def losses(output: Path) -> list[tuple[int, str]]:
    with (output / "loss.csv").open(encoding="utf-8") as file:
        return [(int(row["step"]), row["loss"]) for row in csv.DictReader(file)]


def interrupted(config: TrainConfig, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train and be sent Ctrl-C in a step."""
    step = Trainer.train_step

    def interrupting(self: Trainer, batch: Batch) -> Any:
        losses = step(self, batch)
        if self.step == after:
            os.kill(os.getpid(), signal.SIGINT)
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupting)
        result = train(config, console=QUIET)
    assert (result.finished, result.step) == (False, after)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains_and_its_loss_falls(tiny_config: MakeConfig, head: str) -> None:
    options = {"l2-softmax": {"alpha": 8.0}, "am-softmax": {"scale": 8.0}, "arcface": {"scale": 8.0}}
    result = train(tiny_config(head=head, heads=options, epochs=8), console=QUIET)
    values = [float(loss) for _, loss in losses(result.checkpoint.parents[1])]
    assert result.finished
    assert len(values) == result.step == 48
    assert sum(values[-6:]) < 0.8 * sum(values[:6])


@pytest.mark.parametrize(
    ("head", "partition", "optimizer"),
    [
        ("a-softmax", "dense", "sgd"),
        ("normface", "sampled", "sgd"),
        ("am-softmax", "nce", "adamw"),
        ("softmax", "hierarchical", "sgd"),
    ],
)
def test_a_resumed_run_has_the_identical_loss_trace(
    tiny_config: MakeConfig,
    tmp_path: Path,
    head: str,
    partition: str,
    optimizer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = {"sampled": {"samples": 2}, "nce": {"samples": 3}}  # so that rows wait, and draws matter
    changes: dict[str, Any] = {"head": head, "partition": partition, "partitions": few, "epochs": 3}
    changes["optimizer"] = {"name": optimizer, "learning_rate": 1e-2}
    whole = train(tiny_config(**changes), console=QUIET)
    broken = tiny_config(**changes, output=tmp_path / "broken")
    interrupted(broken, 10, monkeypatch)
    with (tmp_path / "broken" / "loss.csv").open("a", encoding="utf-8") as trace:
        trace.write("11,0.5\n12,")  # what a kill after the last checkpoint leaves behind
    resumed = train(broken, resume=True, console=QUIET)
    assert resumed.finished
    assert losses(tmp_path / "broken") == losses(whole.checkpoint.parents[1])
    for key in ("backbone", "head"):
        expected, found = (load_checkpoint(result.checkpoint).state[key] for result in (whole, resumed))
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert torch.equal(value, found[name]) if isinstance(value, torch.Tensor) else value == found[name]


def test_signals_are_given_back(tiny_config: MakeConfig) -> None:
    before = signal.getsignal(signal.SIGINT)
    train(tiny_config(epochs=1), console=QUIET)
    assert signal.getsignal(signal.SIGINT) is before


def test_training_works_outside_the_main_thread(tiny_config: MakeConfig) -> None:
    results: list[bool] = []
    config = tiny_config(epochs=1)
    thread = threading.Thread(target=lambda: results.append(train(config, console=QUIET).finished))
    thread.start()
    thread.join()
    assert results == [True]


def test_a_checkpoint_holds_everything(tiny_config: MakeConfig) -> None:
    result = train(tiny_config(head="a-softmax", epochs=1), console=QUIET)
    state = load_checkpoint(result.checkpoint).state
    assert set(state) == {
        "config", "data", "sampler", "backbone", "average", "head", "head_options", "optimizer", "schedule", "history",
        "version",
    }  # fmt: skip
    assert int(state["head"]["step"]) == result.step
    assert state["head_options"]["annealing"]["base"] > 0
    assert state["sampler"] == {"seed": 0, "step": 6, "epoch": 1, "batch": 0}


def test_a_non_finite_loss_stops_with_step_head_and_advice(tiny_config: MakeConfig) -> None:
    config = tiny_config(
        head="softmax", optimizer={"learning_rate": 1e30, "clip_norm": None}, schedule={"warmup": 0}, epochs=4
    )
    with pytest.raises(NonFiniteLossError, match=r"head 'softmax'.*step \d+.*clip_norm.*learning_rate") as caught:
        train(config, console=QUIET)
    assert caught.value.step < 24
    assert all(float(loss) == float(loss) for _, loss in losses(config.output))


def test_a_non_finite_step_changes_no_weight_but_has_measured_the_batch(tiny_config: MakeConfig) -> None:
    config = tiny_config()
    trainer = Trainer(config, training_images(config))
    before = {name: value.clone() for name, value in trainer.head.state_dict().items()}
    weights = [parameter.detach().clone() for parameter in trainer.parameters]
    loss = trainer.train_step(Batch(torch.full((8, 3, 32, 32), torch.nan), torch.arange(8))).loss
    assert torch.isnan(loss)
    assert trainer.step == 0
    assert all(torch.equal(before[name], value) for name, value in trainer.head.state_dict().items())
    assert all(torch.equal(*pair) for pair in zip(weights, trainer.parameters, strict=True))
    running = {name: value for name, value in trainer.backbone.named_buffers() if name.endswith("running_mean")}
    assert any(value.isnan().any() for value in running.values())  # as `Trainer.train_step` says


def test_clipping_bounds_the_gradient(tiny_config: MakeConfig) -> None:
    config = tiny_config(optimizer={"clip_norm": 1e-3, "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0})
    trainer = Trainer(config, training_images(config))
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    trainer.train_step(BATCH)
    rate = trainer.schedule.lr_lambdas[0](0)
    changes = [(a - b.detach()).flatten() for a, b in zip(before, trainer.parameters, strict=True)]
    moved = float(torch.cat(changes).norm())
    assert moved == pytest.approx(1e-3 * rate, rel=1e-3)


def test_bfloat16_keeps_float32_weights_and_a_float32_loss(tiny_config: MakeConfig) -> None:
    config = tiny_config(precision="bfloat16")
    trainer = Trainer(config, training_images(config))
    loss = trainer.train_step(BATCH).loss
    assert loss.dtype == torch.float32
    assert {parameter.dtype for parameter in trainer.parameters} == {torch.float32}


def test_validation_is_recorded_each_epoch(tiny_config: MakeConfig, other_people: Path) -> None:
    result = train(tiny_config(epochs=2, validation={"images": other_people}), console=QUIET)
    assert [record["epoch"] for record in result.history.validation] == [1, 2]
    assert all(0 <= record["all_pairs_eer"] <= 1 for record in result.history.validation)
    events = list((result.checkpoint.parents[1] / "tensorboard").iterdir())
    assert len(events) == 1


def test_validation_people_are_checked_before_training(tiny_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="one folder a person"):
        train(tiny_config(validation={"images": tmp_path / "empty"}), console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_saves_what_was_learned(
    tiny_config: MakeConfig, tmp_path: Path, drawn_people: Path, workers: int
) -> None:
    people = tmp_path / "people"
    shutil.copytree(drawn_people, people)
    (people / "person03" / "2.png").write_bytes(b"no picture")
    config = tiny_config(data={"folders": [people], "workers": workers})
    with pytest.raises(UnsupportedImageError, match=r"person03.2\.png"):
        train(config, console=QUIET)
    assert checkpoints_in(config.output / "checkpoints")


def test_pictures_left_out_are_named_and_counted_and_a_resumed_run_leaves_out_the_same(
    tiny_config: MakeConfig, tmp_path: Path, drawn_people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = shutil.copytree(drawn_people, tmp_path / "people")
    for person in ("person03", "person05"):
        (people / person / "2.png").write_bytes(b"no picture")
    data = {"folders": [people], "workers": 0, "on_bad_image": "skip", "max_bad_share": 0.5}
    whole, broken = (tiny_config(data=data, output=tmp_path / name) for name in ("whole", "broken"))
    with (tmp_path / "shown").open("w", encoding="utf-8") as shown:
        result = train(whole, console=Console(width=300, file=shown))
    assert (result.finished, result.history.unreadable, result.history.images) == (True, 4, 2 * 48 - 4)
    named = (whole.output / "unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert sorted((line.split("\t")[0], Path(line.split("\t")[2].split(": ")[0]).parent.name) for line in named) == [
        ("1", "person03"), ("1", "person05"), ("2", "person03"), ("2", "person05"),
    ]  # fmt: skip
    text = (tmp_path / "shown").read_text(encoding="utf-8")
    assert text.count("left out, because it cannot be read: ") == 2  # the first of each epoch
    assert "4 times a picture could not be read and was left out" in text
    interrupted(broken, 8, monkeypatch)
    with (broken.output / "unreadable.txt").open("a", encoding="utf-8") as file:
        file.write("2\t11\tlost: after the last checkpoint\n2\t1")
    resumed = train(broken, resume=True, console=QUIET)
    for name in ("loss.csv", "unreadable.txt"):
        assert (broken.output / name).read_bytes() == (whole.output / name).read_bytes()
    assert (resumed.history.unreadable, resumed.history.unreadable_in_epoch) == (4, 0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_without_a_batch_moves_nothing_but_the_plan(tiny_config: MakeConfig, name: str) -> None:
    config = tiny_config(head="a-softmax", optimizer={"name": name, "learning_rate": 0.01})
    skipping, learning = (Trainer(config, training_images(config)) for _ in range(2))
    for _ in range(2):  # with and without momentum from before
        before = [parameter.detach().clone() for parameter in skipping.parameters]
        skipping.skip_step()
        assert all(torch.equal(*pair) for pair in zip(before, skipping.parameters, strict=True))
        skipping.train_step(BATCH)
    for _ in range(4):
        learning.train_step(BATCH)
    assert (skipping.step, int(skipping.head.step)) == (learning.step, int(learning.head.step)) == (4, 4)
    assert skipping.schedule.get_last_lr() == learning.schedule.get_last_lr()


def test_a_batch_too_small_to_learn_from_is_skipped_and_keeps_its_place(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches(*_: object, first_step: int, last_step: int, **__: object) -> Iterator[Batch]:
        for step in range(first_step, last_step):
            kept = {0: 0, 3: 1}.get(step, 8)  # the first batch of all is empty
            yield Batch(BATCH.crops[:kept], BATCH.labels[:kept], ("a.png: not a\npicture",) * (8 - kept))

    monkeypatch.setattr("training.trainer.loop.make_loader", batches)
    whole, broken = tiny_config(output=tmp_path / "whole"), tiny_config(output=tmp_path / "broken")
    history = train(whole, console=QUIET).history
    assert (history.unreadable, history.images) == (15, 10 * 8)
    rows = losses(whole.output)
    assert [step for step, _ in rows] == list(range(1, 13))
    assert [step for step, loss in rows if loss == ""] == [1, 4]
    assert "1\t4\ta.png: not a picture" in (whole.output / "unreadable.txt").read_text(encoding="utf-8").splitlines()
    interrupted(broken, 5, monkeypatch)
    train(broken, resume=True, console=QUIET)
    assert losses(broken.output) == rows


def test_time_and_memory_are_measured_and_kept_over_a_resumption(tiny_config: MakeConfig) -> None:
    config = tiny_config(epochs=1)
    first = train(config, console=QUIET).history
    assert first.step_ms is not None
    assert 0 < first.step_ms[0] <= first.step_ms[1] <= first.step_ms[2] < 1000 * first.seconds
    assert first.peak_memory_bytes is None or 50e6 < first.peak_memory_bytes < 50e9
    again = train(config, resume=True, console=QUIET).history  # no step is left
    assert again.step_ms == first.step_ms
    assert first.peak_memory_bytes is None or (again.peak_memory_bytes or 0) >= first.peak_memory_bytes


def test_the_lambda_schedule_is_stated_for_the_run(tiny_config: MakeConfig) -> None:
    planned = build_head(tiny_config(head="a-softmax"), [1] * 8, 100).annealing
    longer = build_head(tiny_config(head="a-softmax"), [1] * 8, 1000).annealing
    assert planned is not None
    assert longer is not None
    assert planned.at(50) == pytest.approx(longer.at(500))
    own = {"a-softmax": {"annealing": {"base": 10.0, "gamma": 0.1}}}
    assert build_head(tiny_config(head="a-softmax", heads=own), [1] * 8, 100).current_lambda == 10.0
    none = {"a-softmax": {"annealing": "none"}}
    assert build_head(tiny_config(head="a-softmax", heads=none), [1] * 8, 100).annealing is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "cosface"}, "known heads: softmax, modified"),
        ({"head": "softmax", "heads": {"softmax": {"margin": 0.3}}}, r"heads\.softmax: margin=0\.3"),
        ({"heads": {"am-softmax": {"margin": -1.0}}}, r"heads\.am-softmax: .*margin"),
        ({"backbone": {"name": "resnet"}}, "iresnet18"),
        ({"batch_size": 500}, "above the 48 training images; lower it"),
        ({"data": {"folders": []}}, "no training images"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tiny_config: MakeConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tiny_config(**changes), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_second_start_does_not_overwrite_a_run(tiny_config: MakeConfig) -> None:
    config = tiny_config(epochs=1)
    train(config, console=QUIET)
    with pytest.raises(ConfigError, match="already holds a run; pass --resume"):
        train(config, console=QUIET)


def test_resuming_needs_a_checkpoint_of_the_same_run_and_data(
    tiny_config: MakeConfig, tmp_path: Path, drawn_people: Path
) -> None:
    with pytest.raises(CheckpointError, match="start the run without --resume"):
        train(tiny_config(), resume=True, console=QUIET)
    train(tiny_config(epochs=1), console=QUIET)
    saved = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match="other settings of: batch_size, seed"):
        train(tiny_config(epochs=1, seed=1, batch_size=4), resume=True, console=QUIET)
    assert (tmp_path / "run" / "config.json").read_bytes() == saved
    fewer = tmp_path / "people"
    shutil.copytree(drawn_people, fewer)
    config = tiny_config(epochs=1, output=tmp_path / "second", data={"folders": [fewer], "workers": 0})
    train(config, console=QUIET)
    shutil.rmtree(fewer / "person00")
    with pytest.raises(CheckpointError, match=r"8 people and 48 images; data\.folders now holds 7 people"):
        train(config, resume=True, console=QUIET)


def test_a_full_disk_is_one_clear_error(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for writer, error in (("trainer.folder.write_whole", ConfigError), ("checkpoint.save_file", CheckpointError)):
        with monkeypatch.context() as patched:
            patched.setattr(f"training.{writer}", full)
            with pytest.raises(error, match=r"run.*No space left on device"):
                train(tiny_config(epochs=1))


def test_optimizer_state_of_other_shapes_is_refused(tiny_config: MakeConfig) -> None:
    config = tiny_config(epochs=1, optimizer={"name": "adamw", "learning_rate": 0.01})
    path = train(config).checkpoint
    whole = load_checkpoint(path)
    for spoil in (
        lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3, 3)),
        lambda state: state["optimizer"].pop("param_groups"),
        lambda state: state.pop("history"),
        lambda state: state.update(schedule=None),
    ):
        state = copy.deepcopy(whole.state)
        spoil(state)
        with pytest.raises(CheckpointError, match="does not fit this run"):
            Trainer(config, training_images(config)).restore(dataclasses.replace(whole, state=state))


def test_a_finished_run_can_be_resumed_without_effect(tiny_config: MakeConfig) -> None:
    config = tiny_config(epochs=1)
    first = train(config, console=QUIET)
    second = train(config, resume=True, console=QUIET)
    assert (second.step, second.finished, second.checkpoint) == (first.step, True, first.checkpoint)
    assert second.loss == first.loss


def test_restore_model_gives_the_trained_network(tiny_config: MakeConfig) -> None:
    result = train(tiny_config(epochs=1), console=QUIET)
    backbone, config, checkpoint = restore_model(result.checkpoint.parents[1])
    assert not backbone.training
    assert config.batch_size == 8
    assert checkpoint.step == result.step
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 16)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        restore_model(result.checkpoint.parents[1] / "tensorboard")


def test_partitions_are_told_how_many_images_each_person_has(tiny_config: MakeConfig) -> None:
    head = build_head(tiny_config(partition="hierarchical"), [1, 5, 2], 100)
    assert head.options()["partition"]["class_counts"] == [1, 5, 2]
    own = tiny_config(partition="hierarchical", partitions={"hierarchical": {"class_counts": [3, 2, 1]}})
    assert build_head(own, [1, 5, 2], 100).options()["partition"]["class_counts"] == [3, 2, 1]
    frequent = {"name": "sampled", "proposal": "frequency"}
    inside = tiny_config(partition="sharded", partitions={"sharded": {"inner": frequent}})
    assert build_head(inside, [1, 5, 2], 100).options()["partition"]["inner"]["class_counts"] == [1, 5, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partition": "sparse"}, r"partitions\.sparse: .*known partitions: dense"),
        ({"partitions": {"dense": {"block": 3}}}, r"partitions\.dense: block=3: .*its options: self_normalize"),
    ],
)
def test_a_partition_that_cannot_be_is_named(tiny_config: MakeConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tiny_config(**changes), console=QUIET)
    with pytest.raises(ConfigError, match=r"heads\.softmax cannot name a partition: set partition and \[partitions"):
        tiny_config(heads={"softmax": {"partition": "dense"}})


def test_the_share_of_saturated_samples_is_logged(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.trainer.events.LOG_EVERY_STEPS", 1)
    config = tiny_config(epochs=1, heads={"am-softmax": {"scale": 1e4}})
    train(config, console=QUIET)
    events = EventAccumulator(str(config.output / "tensorboard"))
    events.Reload()
    assert {"train/softmax_one_share", "train/softmax_zero_share"} <= set(events.Tags()["scalars"])
    assert max(event.value for event in events.Scalars("train/softmax_zero_share")) > 0.5


def test_a_run_can_start_from_anothers_weights(tiny_config: MakeConfig, tmp_path: Path, drawn_people: Path) -> None:
    first = tiny_config(epochs=1, head="a-softmax")
    train(first, console=QUIET)
    again = tiny_config(head="a-softmax", output=tmp_path / "second", start_from=first.output, epochs=1)
    trainer, old = Trainer(again, training_images(again)), Trainer(first, training_images(first))
    trainer.start_from(open_source(first.output))
    old.restore(open_checkpoint(first.output))
    assert int(trainer.head.step) == 0
    own, theirs = ([*t.backbone.parameters(), *t.head.parameters()] for t in (trainer, old))
    for one, other in zip(own, theirs, strict=True):
        assert torch.equal(one, other)
    streamed = tiny_config(
        head="a-softmax", partition="streaming", output=tmp_path / "streamed", start_from=first.output
    )
    Trainer(streamed, training_images(streamed)).start_from(open_source(first.output))
    assert train(again, console=QUIET).finished
    shutil.rmtree(first.output)
    moved = again.model_copy(update={"start_from": tmp_path / "moved"})
    with (tmp_path / "shown").open("w", encoding="utf-8") as shown:  # needs the source no more, wherever it lies
        for config in (again, moved, again.model_copy(update={"start_from": None})):
            assert train(config, resume=True, console=Console(width=300, file=shown)).finished
    assert (tmp_path / "shown").read_text(encoding="utf-8").count("moved is not read: the run goes on from ") == 1
    assert json.loads((again.output / "config.json").read_text(encoding="utf-8"))["start_from"] == str(first.output)
    with pytest.raises(CheckpointError, match="other settings of: start_from"):  # of a result that is there already
        require_same_run(moved, json.loads(again.model_dump_json()), again.output)


def test_the_same_parts_may_be_frozen_by_name_or_by_number(tiny_config: MakeConfig, tmp_path: Path) -> None:
    def freezing(freeze: object) -> TrainConfig:
        return tiny_config(start_from=tmp_path, freeze=freeze)

    saved = json.loads(freezing(2).model_dump_json())
    state = torch.get_rng_state()
    for same in (2, ["stem", "stage1"], ["stage1", "stem"]):
        require_same_run(freezing(same), saved, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    for other in (0, 1, ["stem", "stage2"]):
        with pytest.raises(CheckpointError, match="other settings of: freeze;"):
            require_same_run(freezing(other), saved, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "arcface"}, "has head am-softmax, this run arcface; --reset-head"),
        ({"partition": "hierarchical"}, "the head of .* does not fit this run: .*--reset-head"),
        ({"backbone": {"name": "iresnet18", "width": 0.0625, "embedding_dim": 8}}, "has another backbone"),
        ({"data": "fewer"}, "has people 8, this run 7; --reset-head"),
        ({"data": "others"}, "was trained on other people, .*--reset-head"),
        ({"reset_head": True, "head": "arcface", "data": "others"}, None),
        ({"reset_head": True, "partition": "hierarchical", "data": "fewer"}, None),
    ],
)
def test_weights_of_other_people_or_another_head_are_refused(
    tiny_config: MakeConfig, tmp_path: Path, drawn_people: Path, changes: dict[str, Any], message: str | None
) -> None:
    first = tiny_config(epochs=1)
    train(first, console=QUIET)
    if "data" in changes:
        people = shutil.copytree(drawn_people, tmp_path / "people")
        if changes["data"] == "fewer":
            shutil.rmtree(people / "person00")
        else:
            (people / "person00").rename(people / "stranger")
        changes = changes | {"data": {"folders": [people], "workers": 0}}
    config = tiny_config(**{"epochs": 1, "output": tmp_path / "next", "start_from": first.output} | changes)
    if message is None:
        assert train(config, console=QUIET).finished
        return
    with pytest.raises(CheckpointError, match=message):
        train(config, console=QUIET)
    assert not (tmp_path / "next").exists()


@pytest.mark.slow
def test_a_compiled_run_learns_the_same(tiny_config: MakeConfig, tmp_path: Path) -> None:
    backbone = {"name": "iresnet18", "width": 0.0625, "embedding_dim": 16}  # no dropout: compiled code draws its own
    train(tiny_config(epochs=1, backbone=backbone), console=QUIET)
    train(tiny_config(epochs=1, backbone=backbone, compile=True, output=tmp_path / "compiled"), console=QUIET)
    plain, compiled = (
        [float(loss) for _, loss in losses(output)] for output in (tmp_path / "run", tmp_path / "compiled")
    )
    # Rounding in another order grows about a hundredfold a step on so small a network: the first loss shows the forward
    # pass, the second the first gradient.
    assert compiled[:2] == pytest.approx(plain[:2], rel=1e-3)
    assert len(compiled) == len(plain)
    assert checkpoints_in(tmp_path / "compiled" / "checkpoints")
