"""The training loop: what happens when. How it is computed is the trainer's business."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from facemargin.errors import DataError, ImageError, NonFiniteLossError
from facemargin.heads import BatchLosses
from training.checkpoint import Checkpoint, checkpoints_in, load_checkpoint, newest_checkpoint, save_checkpoint
from training.config import TrainConfig, make_config
from training.data.loader import Batch, make_loader
from training.hardware import describe_hardware
from training.progress import TrainingProgress
from training.trainer import events
from training.trainer.folder import checkpoint_folder, write_config
from training.trainer.history import TrainResult
from training.trainer.images import training_images
from training.trainer.memory import forget_peak, peak_memory_bytes
from training.trainer.signals import stop_signals
from training.trainer.starting import open_source
from training.trainer.trace import UnreadablePictures, open_trace
from training.trainer.trainer import Trainer
from training.validation import Validator

TIMED_STEPS = 1000
"""Steps whose durations the quartiles are of."""

MIN_BATCH = 2
"""Batch norm cannot measure a batch of one."""


def train(config: TrainConfig, *, resume: bool = False, console: Console | None = None) -> TrainResult:
    """Train a backbone under a loss head.

    Args:
        config: the run.
        resume: go on from the newest checkpoint in ``config.output``; the loss trace is the one of an unbroken run.
        console: where progress is shown; stderr by default.

    Returns:
        How it ended; after Ctrl-C with ``finished=False`` and a checkpoint.

    Raises:
        ConfigError, DataError, CheckpointError, BundleError: nothing was trained, and why.
        NonFiniteLossError: the loss or its gradient became NaN or infinite; the last checkpoint is from before.
    """
    console = console or Console(stderr=True)
    saved = load_checkpoint(newest_checkpoint(config.output / "checkpoints")) if resume else None
    if saved is not None:
        config = _as_started(config, saved, console)
    trainer = Trainer(config, training_images(config))
    validator = Validator.load(config.validation, config.preprocessing.template) if config.validation else None
    checkpoints = checkpoint_folder(config, resume)
    if saved is not None:
        trainer.restore(saved)
    elif config.start_from is not None:
        _start_from(trainer, config.start_from, console)
    write_config(config)
    events.introduce(trainer, console)
    with stop_signals() as stop:
        return _Loop(trainer, validator, checkpoints, console, stop).run()


def _as_started(config: TrainConfig, saved: Checkpoint, console: Console) -> TrainConfig:
    """The config with the source that the run started from: it is needed no more, wherever it lies now."""
    before = make_config(saved.state["config"], str(saved.path))
    if before.start_from is None:
        return config
    if config.start_from not in (None, before.start_from):
        events.warn(console, f"start_from {config.start_from} is not read: the run goes on from {saved.path}")
    return config.model_copy(update={"start_from": before.start_from, "reset_head": before.reset_head})


def _start_from(trainer: Trainer, path: Path, console: Console) -> None:
    source = open_source(path)
    trainer.start_from(source)
    if other := source.other_preprocessing(trainer.config.preprocessing):
        events.warn(console, f"the weights of {source.path} were trained on other input: {', '.join(other)}")


class _Loop:
    """Takes every batch of a run, and does after each step what is due."""

    def __init__(
        self,
        trainer: Trainer,
        validator: Validator | None,
        checkpoints: Path,
        console: Console,
        stop: threading.Event,
    ) -> None:
        self.trainer, self.config, self.history = trainer, trainer.config, trainer.history
        self.validator, self.checkpoints, self.console, self.stop = validator, checkpoints, console, stop
        self.durations: deque[float] = deque(maxlen=TIMED_STEPS)
        self.earlier_peak = self.history.peak_memory_bytes or 0
        self.decoded_on_cpu = 0

    def run(self) -> TrainResult:
        """Every step up to the last or to a stop signal; saved at the end."""
        trainer, output = self.trainer, self.config.output
        batches = self._batches()
        trainer.network.train()
        forget_peak(trainer.device)
        self.unreadable = UnreadablePictures(output / "unreadable.txt", trainer.step)
        with (
            open_trace(output / "loss.csv", trainer.step) as self.trace,
            SummaryWriter(str(output / "tensorboard"), purge_step=trainer.step) as self.writer,
            TrainingProgress(self.console, trainer.total_steps, trainer.step) as self.progress,
        ):
            try:
                self._go_through(batches)
            except (DataError, ImageError):
                self._save()  # what was learned before the picture that cannot be read
                raise
        self._say_pictures()
        return self._result()

    def _batches(self) -> Iterable[Batch]:
        trainer, data = self.trainer, self.config.data
        return make_loader(
            trainer.images,
            trainer.plan,
            first_step=trainer.step,
            last_step=trainer.total_steps,
            augmentation=self.config.augmentation,
            preprocessing=self.config.preprocessing,
            workers=data.workers,
            cache=data.cache,
            pin_memory=trainer.device.type == "cuda",
            on_bad_image=data.on_bad_image,
            max_bad_share=data.max_bad_share,
            unreadable_before=self.history.unreadable_in_epoch,
            decode_on=trainer.device if data.decode == "cuda" else None,
        )

    def _go_through(self, batches: Iterable[Batch]) -> None:
        self.saved_at = started = time.monotonic()
        for batch in batches:
            self._count_pictures(batch)
            losses = self._step(batch)
            now = time.monotonic()
            self.history.seconds += now - started
            if losses is not None:
                self._show(losses)
            self._do_what_is_due(now)
            if self.stop.is_set():
                self.console.print(
                    f"interrupted at step {self.trainer.step:,}; saved. Go on with --resume", highlight=False
                )
                break
            started = time.monotonic()

    def _step(self, batch: Batch) -> BatchLosses | None:
        """Learn from a batch and trace its loss; None where too little of it could be read."""
        if len(batch.labels) < MIN_BATCH:
            self.trainer.skip_step()
            self.trace.write(f"{self.trainer.step},\n")
            return None
        started = time.monotonic()
        losses = self.trainer.train_step(batch)
        loss = float(losses.loss)
        self.durations.append(time.monotonic() - started)
        if not math.isfinite(loss):
            raise self._not_finite()
        self.trace.write(f"{self.trainer.step},{loss!r}\n")
        self.history.loss = loss
        self.history.images += len(batch.labels)
        return losses

    def _not_finite(self) -> NonFiniteLossError:
        earlier = checkpoints_in(self.checkpoints)
        return NonFiniteLossError(
            step=self.trainer.step,
            head=self.config.head,
            advice=events.advice(self.config),
            checkpoint=earlier[-1] if earlier else None,
        )

    def _show(self, losses: BatchLosses) -> None:
        trainer = self.trainer
        rate_img_s = self.history.images / self.history.seconds
        self.progress.update(trainer.step, float(losses.loss), rate_img_s, trainer.plan)
        if trainer.step % events.LOG_EVERY_STEPS == 0:
            events.log_step(self.writer, trainer, losses, rate_img_s)

    def _do_what_is_due(self, now: float) -> None:
        epoch_done = self.trainer.step % self.trainer.plan.steps_per_epoch == 0
        if epoch_done:
            self.history.unreadable_in_epoch = 0
            self._validate()
        if epoch_done or self.stop.is_set() or now - self.saved_at > 60 * self.config.checkpoint_minutes:
            self.trace.flush()
            self._save()
            self.saved_at = time.monotonic()

    def _validate(self) -> None:
        trainer, wanted = self.trainer, self.config.validation
        last = trainer.step == trainer.total_steps
        if self.validator is None or wanted is None or (trainer.epoch % wanted.every_epochs != 0 and not last):
            return
        figures = self.validator.measure(trainer.measured, self.config.preprocessing, trainer.device)
        events.record_validation(self.writer, trainer, figures, self.console)

    def _count_pictures(self, batch: Batch) -> None:
        trainer, history = self.trainer, self.history
        self.decoded_on_cpu += batch.decoded_on_cpu
        if not batch.unreadable:
            return
        if history.unreadable_in_epoch == 0:
            events.warn(self.console, f"left out, because it cannot be read: {batch.unreadable[0]}")
        self.unreadable.add(trainer.epoch + 1, trainer.step + 1, batch.unreadable)
        history.unreadable += len(batch.unreadable)
        history.unreadable_in_epoch += len(batch.unreadable)

    def _say_pictures(self) -> None:
        if self.decoded_on_cpu:
            events.warn(self.console, f"{self.decoded_on_cpu:,} pictures went to the CPU: nvJPEG does not take them")
        if count := self.history.unreadable:
            times = "once" if count == 1 else f"{count:,} times"
            events.warn(self.console, f"{times} a picture could not be read and was left out: {self.unreadable.path}")

    def _save(self) -> Path:
        if self.durations:
            low, median, high = 1000 * np.percentile(self.durations, (25, 50, 75))
            self.history.step_ms = (float(low), float(median), float(high))
        peak = peak_memory_bytes(self.trainer.device)
        self.history.peak_memory_bytes = None if peak is None else max(peak, self.earlier_peak)
        trainer = self.trainer
        return save_checkpoint(self.checkpoints, trainer.step, trainer.state(), keep=self.config.keep_checkpoints)

    def _result(self) -> TrainResult:
        trainer = self.trainer
        return TrainResult(
            checkpoint=self._save(),
            step=trainer.step,
            finished=trainer.step == trainer.total_steps,
            loss=self.history.loss,
            history=self.history,
            people=len(trainer.images.people),
            images=len(trainer.images.pictures),
            hardware=describe_hardware(trainer.device),
            precision=trainer.precision,
        )
