"""The training loop: batches in, loss trace and checkpoints out. Owns when things happen, not how they are computed."""

import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch
from rich.console import Console
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from facemargin import __version__
from facemargin.backbones import Backbone, make_backbone
from facemargin.errors import CheckpointError, ConfigError, DataError, ImageError, NonFiniteLossError
from facemargin.heads import HEADS, BatchLosses, Head, make_head
from facemargin.partitions import PARTITIONS, make_partition, partition_options
from facemargin.rowwise import clip_gradients
from training.align import REPORT_NAME
from training.averaging import averaged
from training.checkpoint import (
    Checkpoint,
    checkpoints_in,
    load_checkpoint,
    newest_checkpoint,
    open_checkpoint,
    save_checkpoint,
)
from training.config import TrainConfig, make_config
from training.data.folder import label_people
from training.data.lfw_open import lfw_open
from training.data.loader import Batch, BatchPlan, make_loader
from training.data.pictures import LabelledImages
from training.hardware import choose_device, choose_precision, describe_hardware
from training.optimization import make_optimizer, make_schedule
from training.progress import TrainingProgress
from training.validation import Validator

LOG_EVERY_STEPS = 20


@dataclass
class History:
    """What a run measured so far; saved with every checkpoint.

    Attributes:
        seconds: time spent in the loop, over all resumptions, without validation.
        images: images trained on.
        loss: of the last step; None before the first.
        validation: one record an evaluation: epoch, step and figures.
    """

    seconds: float = 0.0
    images: int = 0
    loss: float | None = None
    validation: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended.

    Attributes:
        checkpoint: newest checkpoint.
        step: optimizer steps done.
        finished: False when the run was interrupted and can be resumed.
        loss: loss of the last step; None when there was none.
        history: what was measured.
        people, images: size of the training set.
        hardware, precision: what it ran on.
    """

    checkpoint: Path
    step: int
    finished: bool
    loss: float | None
    history: History
    people: int
    images: int
    hardware: str
    precision: str


def training_images(config: TrainConfig) -> LabelledImages:
    """The labelled images that a config trains on.

    Raises:
        ConfigError: no folder is named.
        DataError: a folder cannot be used.
    """
    if not config.data.folders:
        raise ConfigError("no training images: set data.folders in the config or pass --data DIR")
    only = None
    if config.data.protocol == "lfw-open" and config.data.pairs is not None:
        only = lfw_open(config.data.folders[0], config.data.pairs).train
    return label_people(config.data.folders, only=only, min_images=config.data.min_images)


def build_head(config: TrainConfig, class_counts: Sequence[int], total_steps: int) -> Head:
    """The head of a run, its λ schedule stated for the run's length unless the config gives one.

    Args:
        config: the run.
        class_counts: training images of each person; partitions that go by frequency are told them.
        total_steps: optimizer steps of the run.

    Raises:
        ConfigError: an unknown head or partition, or an option that it refuses.
    """
    options = dict(config.head_options)
    if options.get("annealing") == "none":  # TOML has no null
        options["annealing"] = None
    elif "annealing" not in options and config.head in HEADS:
        planned = HEADS[config.head].annealing_for_run(total_steps)
        options |= {} if planned is None else {"annealing": planned}
    size = {"embedding_dim": config.backbone.embedding_dim, "num_classes": len(class_counts)}
    try:
        summing = make_partition(_with_class_counts(config.partition_options, list(class_counts)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"partitions.{config.partition}: {error}") from error
    try:
        return make_head(config.head, **size, partition=summing, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"heads.{config.head}: {error}") from error


def _with_class_counts(partition: Any, class_counts: list[int]) -> dict[str, Any]:
    """Options of a partition, and of the one inside it, with the counts where they are wanted and not given."""
    options = {"name": partition} if isinstance(partition, str) else dict(partition)
    if options.get("name") in PARTITIONS and "class_counts" in partition_options(options["name"]):
        options.setdefault("class_counts", class_counts)
    if "inner" in options:
        options["inner"] = _with_class_counts(options["inner"], class_counts)
    return options


def build_backbone(config: TrainConfig) -> Backbone:
    """The backbone of a run, with the input size of its preprocessing.

    Raises:
        ConfigError: an unknown backbone or an argument out of range.
    """
    try:
        return make_backbone(**config.backbone.model_dump(), input_size=config.preprocessing.size)
    except ValueError as error:
        raise ConfigError(f"backbone: {error}") from error


def restore_model(path: Path, *, average: bool = True) -> tuple[Backbone, TrainConfig, Checkpoint]:
    """The trained backbone of a checkpoint, in eval mode on the CPU, with the config it was trained with.

    Args:
        path: a checkpoint folder, or a run's output folder (its newest checkpoint is taken).
        average: take the averaged weights where the run kept them; False takes those of the last step.

    Raises:
        CheckpointError: no or a damaged checkpoint, or one that does not fit its own config.
    """
    checkpoint = open_checkpoint(path)
    try:
        config = make_config(checkpoint.state["config"], str(checkpoint.path))
        backbone = build_backbone(config)
        if average and config.ema_decay is not None:
            averaged(backbone, config.ema_decay).load_state_dict(checkpoint.state["average"])
        else:
            backbone.load_state_dict(checkpoint.state["backbone"])
    except (ConfigError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint.path} does not hold the model that its config describes: {error}"
        ) from error
    return backbone.eval(), config, checkpoint


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _advice(config: TrainConfig) -> str:
    options = []
    if config.optimizer.clip_norm is None:
        options.append("set optimizer.clip_norm (5 is a good start)")
    options.append(f"lower optimizer.learning_rate (now {config.optimizer.learning_rate:g})")
    options.append("lengthen schedule.warmup")
    if config.head in ("l-softmax", "a-softmax"):
        options.append(f"raise the minimum of heads.{config.head}.annealing")
    elif HEADS[config.head].has_margin:
        options.append(f"lower heads.{config.head}.margin")
    return ", or ".join(options) + "; then start anew in another output folder"


class Trainer:
    """One run's moving parts: network, head, optimizer, schedule, history; and how to save and restore them."""

    def __init__(self, config: TrainConfig, images: LabelledImages) -> None:
        """Build everything from the config; weights depend on the seed alone.

        Raises:
            ConfigError: the config does not fit the machine or the data.
        """
        self.config, self.images = config, images
        self.plan = BatchPlan(len(images.pictures), config.batch_size, config.seed)
        if self.plan.steps_per_epoch == 0:
            raise ConfigError(
                f"batch_size {config.batch_size} is above the {len(images.pictures)} training images; lower it"
            )
        self.total_steps = self.plan.steps_per_epoch * config.epochs
        self.device = choose_device(config.device)
        self.precision = choose_precision(config.precision, self.device)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # a resumed run repeats itself
        torch.manual_seed(config.seed)
        backbone = build_backbone(config)
        self.backbone = backbone.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head = build_head(config, images.class_counts(), self.total_steps).to(self.device)
        self.network: nn.Module = torch.compile(self.backbone) if config.compile else self.backbone  # type: ignore[assignment]
        self.average = None if config.ema_decay is None else averaged(self.backbone, config.ema_decay)
        self.optimizer = make_optimizer(self.backbone, self.head, config.optimizer)
        self.schedule = make_schedule(self.optimizer, config.schedule, self.total_steps)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.history = History()
        self.step = 0

    def train_step(self, batch: Batch) -> BatchLosses:
        """One optimizer step on a batch; returns its losses, detached. Nothing changes if one is not finite."""
        crops = batch.crops.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        labels = batch.labels.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            embeddings = self.network(crops)
        losses = self.head.batch_losses(embeddings.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        losses.loss.backward()  # type: ignore[no-untyped-call]
        limit = self.config.optimizer.clip_norm
        norm = clip_gradients(self.parameters, math.inf if limit is None else limit)
        loss = losses.loss.detach()
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            return losses._replace(loss=loss * math.nan)
        self.optimizer.step()
        self.schedule.step()
        self.head.advance()
        if self.average is not None:
            self.average.update_parameters(self.backbone)
        self.step += 1
        return losses._replace(loss=loss)

    @property
    def measured(self) -> nn.Module:
        """The network that validation measures: the averaged one where the run keeps an average."""
        return self.backbone if self.average is None else self.average.module

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if it had never stopped."""
        cuda = torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        return {
            "config": json.loads(self.config.model_dump_json()),
            "data": data_record(self.images),
            "sampler": {"seed": self.plan.seed, "step": self.step, **self._place()},
            "backbone": self.backbone.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "head": self.head.state_dict(),
            "head_options": self.head.options(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {key: value for key, value in self.schedule.state_dict().items() if key != "lr_lambdas"},
            "random": {"torch": torch.get_rng_state(), "cuda": cuda},
            "history": asdict(self.history),
            "version": __version__,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint's state.

        Raises:
            CheckpointError: the checkpoint is of another config or of other training data.
        """
        state = checkpoint.state
        require_same_run(self.config, state["config"], checkpoint.path)
        now = data_record(self.images)
        if any(now[key] != value for key, value in state["data"].items()):
            raise CheckpointError(
                f"{checkpoint.path} was trained on {state['data']['people']} people and {state['data']['images']} "
                f"images; data.folders now holds {len(self.images.people)} people and {len(self.images.pictures)} "
                "images, or other files; resume with the same data, or start a new run from this one's backbone: "
                "--start-from RUN --reset-head"
            )
        try:
            self.backbone.load_state_dict(state["backbone"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.head.load_state_dict(state["head"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.path} does not fit this run: {_one_line(error)}") from error
        self.schedule.load_state_dict({**state["schedule"], "lr_lambdas": [None] * len(self.schedule.lr_lambdas)})
        torch.set_rng_state(state["random"]["torch"])
        if self.device.type == "cuda" and len(state["random"]["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random"]["cuda"])
        self.history = History(**state["history"])
        self.step = checkpoint.step

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Take over the weights of another run; step, λ, schedule and optimizer start anew.

        Raises:
            CheckpointError: of another backbone, or, without ``reset_head``, of other people or another head.
        """
        state, advice = checkpoint.state, "--reset-head takes over its backbone alone"
        if not self.config.reset_head:
            saved, own = state["head_options"], self.head.options()
            for key, what in (("num_classes", "people"), ("name", "head")):
                if saved[key] != own[key]:
                    raise CheckpointError(f"{checkpoint.path} has {what} {saved[key]}, this run {own[key]}; {advice}")
            if state["data"].get("people_sha256") != data_record(self.images)["people_sha256"]:
                raise CheckpointError(
                    f"{checkpoint.path} was trained on other people, or in another order: its class rows are theirs; "
                    f"{advice}"
                )
        try:
            self.backbone.load_state_dict(state["backbone"])
        except RuntimeError as error:
            raise CheckpointError(
                f"{checkpoint.path} has another backbone than this run: {_one_line(error)}"
            ) from error
        if self.config.reset_head:
            return
        try:
            self.head.load_state_dict({**state["head"], "step": self.head.step})
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the head of {checkpoint.path} does not fit this run: {_one_line(error)}; {advice}"
            ) from error

    def _place(self) -> dict[str, int]:
        epoch, batch = divmod(self.step, self.plan.steps_per_epoch)
        return {"epoch": epoch, "batch": batch}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def data_record(images: LabelledImages) -> dict[str, Any]:
    """Size and fingerprint of a training set, for checkpoints and manifests."""
    return {
        "people": len(images.people),
        "images": len(images.pictures),
        "sha256": images.fingerprint(),
        "people_sha256": hashlib.sha256("\n".join(images.people).encode()).hexdigest(),
    }


def require_same_run(config: TrainConfig, saved: dict[str, Any], path: Path) -> None:
    """Compare a config with the saved one of a run; where it lies and how often it saves may differ.

    Raises:
        CheckpointError: naming the settings that differ.
    """
    free = ("output", "checkpoint_minutes", "keep_checkpoints", "test")
    now = json.loads(config.model_dump_json())
    saved = json.loads(make_config(saved, str(path)).model_dump_json())  # settings that are newer than it have defaults
    for values in (now, saved):
        for key in free:
            values.pop(key, None)
        values["data"] = {**values["data"], "workers": None, "cache": None}
    changed = sorted(key for key in now.keys() | saved.keys() if now.get(key) != saved.get(key))
    if changed:
        raise CheckpointError(
            f"{path} belongs to a run with other settings of: {', '.join(changed)}; "
            "resume with the saved config.json's values, or start a new run in another output folder"
        )


def _open_trace(path: Path, step: int) -> TextIO:
    """The loss trace ``step,loss``, cut back to the steps before a resumed one."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: step + 1] if path.exists() and step else []
    partial = path.with_suffix(".partial")
    partial.write_text("".join(lines) or "step,loss\n", encoding="utf-8")
    partial.replace(path)
    return path.open("a", encoding="utf-8")


def _checkpoint_folder(config: TrainConfig, resume: bool) -> Path:
    checkpoints = config.output / "checkpoints"
    if checkpoints_in(checkpoints) and not resume:
        raise ConfigError(f"{config.output} already holds a run; pass --resume to go on with it, or another --output")
    if resume:
        newest_checkpoint(checkpoints)
    return checkpoints


def _write_config(config: TrainConfig) -> None:
    config.output.mkdir(parents=True, exist_ok=True)
    partial = config.output / ".config.json.partial"
    partial.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(config.output / "config.json")


def train(config: TrainConfig, *, resume: bool = False, console: Console | None = None) -> TrainResult:
    """Train a backbone under a loss head.

    Args:
        config: the run.
        resume: go on from the newest checkpoint in ``config.output``; the loss trace is the one of an unbroken run.
        console: where progress is shown; stderr by default.

    Returns:
        How it ended; after Ctrl-C with ``finished=False`` and a checkpoint.

    Raises:
        ConfigError, DataError, CheckpointError: nothing was trained, and why.
        NonFiniteLossError: the loss or its gradient became NaN or infinite; the last checkpoint is from before.
    """
    console = console or Console(stderr=True)
    images = training_images(config)
    trainer = Trainer(config, images)
    validator = Validator.load(config.validation, config.preprocessing.template) if config.validation else None
    checkpoints = _checkpoint_folder(config, resume)
    if resume:
        trainer.restore(load_checkpoint(newest_checkpoint(checkpoints)))
    elif config.start_from is not None:
        trainer.start_from(open_checkpoint(config.start_from))
    _write_config(config)
    _introduce(trainer, console)
    with _stop_signals() as stop:
        return _run(trainer, validator, checkpoints, console, stop)


def _introduce(trainer: Trainer, console: Console) -> None:
    config, images = trainer.config, trainer.images
    console.print(
        f"[bold]{config.head}[/] ({config.partition}) on {config.backbone.name}: "
        f"{len(images.people):,} people, {len(images.pictures):,} images"
        + (f" ({images.left_out:,} people left out)" if images.left_out else ""),
        highlight=False,
    )
    console.print(
        f"{describe_hardware(trainer.device)}; {trainer.precision}; {trainer.total_steps:,} steps"
        + (f", resumed at step {trainer.step:,}" if trainer.step else ""),
        highlight=False,
    )
    unaligned = [str(folder) for folder in config.data.folders if not (folder / REPORT_NAME).exists()]
    if unaligned:
        console.print(
            f"[yellow]note:[/] no {REPORT_NAME} in {', '.join(unaligned)}: the pictures are taken as aligned crops; "
            "`facemargin data align` makes them from photographs",
            highlight=False,
        )
    if problem := trainer.head.diagnose(trainer.total_steps):
        console.print(f"[yellow]warning:[/] {problem}", highlight=False)


def _run(
    trainer: Trainer, validator: Validator | None, checkpoints: Path, console: Console, stop: threading.Event
) -> TrainResult:
    config, plan = trainer.config, trainer.plan
    loader = make_loader(
        trainer.images,
        plan,
        first_step=trainer.step,
        last_step=trainer.total_steps,
        augmentation=config.augmentation,
        preprocessing=config.preprocessing,
        workers=config.data.workers,
        cache=config.data.cache,
        pin_memory=trainer.device.type == "cuda",
    )

    def save() -> Path:
        return save_checkpoint(checkpoints, trainer.step, trainer.state(), keep=config.keep_checkpoints)

    saved_at = time.monotonic()
    trainer.network.train()
    with (
        _open_trace(config.output / "loss.csv", trainer.step) as trace,
        SummaryWriter(str(config.output / "tensorboard"), purge_step=trainer.step) as events,
        TrainingProgress(console, trainer.total_steps, trainer.step) as progress,
    ):
        started = time.monotonic()
        try:
            for batch in loader:
                losses = trainer.train_step(batch)
                loss_value = float(losses.loss)
                if not math.isfinite(loss_value):
                    earlier = checkpoints_in(checkpoints)
                    raise NonFiniteLossError(
                        step=trainer.step,
                        head=config.head,
                        advice=_advice(config),
                        checkpoint=earlier[-1] if earlier else None,
                    )
                trace.write(f"{trainer.step},{loss_value!r}\n")
                now = time.monotonic()
                trainer.history.loss = loss_value
                trainer.history.seconds += now - started
                started = now
                trainer.history.images += len(batch.labels)
                rate_img_s = trainer.history.images / trainer.history.seconds
                progress.update(trainer.step, loss_value, rate_img_s, plan)
                if trainer.step % LOG_EVERY_STEPS == 0:
                    _log(events, trainer, losses, rate_img_s)
                epoch_done = trainer.step % plan.steps_per_epoch == 0
                if epoch_done and validator is not None and _due(trainer):
                    figures = validator.measure(trainer.measured, config.preprocessing, trainer.device)
                    _record(trainer, figures, events, console)
                if epoch_done or stop.is_set() or now - saved_at > 60 * config.checkpoint_minutes:
                    trace.flush()
                    save()
                    saved_at = time.monotonic()
                if stop.is_set():
                    console.print(f"interrupted at step {trainer.step:,}; saved. Go on with --resume", highlight=False)
                    break
                started = time.monotonic()
        except (DataError, ImageError):
            save()  # what was learned before the picture that cannot be read
            raise
    return TrainResult(
        checkpoint=save(),
        step=trainer.step,
        finished=trainer.step == trainer.total_steps,
        loss=trainer.history.loss,
        history=trainer.history,
        people=len(trainer.images.people),
        images=len(trainer.images.pictures),
        hardware=describe_hardware(trainer.device),
        precision=trainer.precision,
    )


def _due(trainer: Trainer) -> bool:
    wanted = trainer.config.validation
    epoch = trainer.step // trainer.plan.steps_per_epoch
    return wanted is not None and (epoch % wanted.every_epochs == 0 or trainer.step == trainer.total_steps)


def _log(events: SummaryWriter, trainer: Trainer, losses: BatchLosses, rate_img_s: float) -> None:
    events.add_scalar("train/loss", float(losses.loss), trainer.step)
    for name, share in zip(("zero", "one"), losses.saturation(), strict=True):
        events.add_scalar(f"train/softmax_{name}_share", share, trainer.step)
    events.add_scalar("train/learning_rate", trainer.schedule.get_last_lr()[0], trainer.step)
    events.add_scalar("train/images_per_second", rate_img_s, trainer.step)
    if trainer.head.uses_annealing:
        events.add_scalar("head/lambda", trainer.head.current_lambda, trainer.step)
    if (scale := trainer.head.scale) is not None:
        events.add_scalar("head/scale", float(scale), trainer.step)


def _record(trainer: Trainer, figures: dict[str, float], events: SummaryWriter, console: Console) -> None:
    epoch = trainer.step // trainer.plan.steps_per_epoch
    trainer.history.validation.append({"epoch": epoch, "step": trainer.step, **figures})
    for name, value in figures.items():
        events.add_scalar(f"validation/{name}", value, trainer.step)
    shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
    console.print(f"epoch {epoch}: {shown}", highlight=False)
