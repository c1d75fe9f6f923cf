"""The training loop: what happens when. How it is computed is the trainer's business."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.console import Console

from facemargin.errors import ConfigError, DataError, ImageError, NonFiniteLossError
from facemargin.heads import BatchLosses
from training.checkpoint import Checkpoint, checkpoints_in, load_checkpoint, newest_checkpoint, save_checkpoint
from training.config import TrainConfig, make_config
from training.data.loader import Batch, make_loader
from training.data.pictures import LabelledImages
from training.hardware import choose_device, describe_hardware, may_use_gpu
from training.ranks import Ranks, joined, launched
from training.trainer import events
from training.trainer.folder import require_unused, write_config
from training.trainer.history import TrainResult
from training.trainer.images import training_images
from training.trainer.journal import Journal, Unwritten, Written
from training.trainer.memory import forget_peak, peak_memory_bytes
from training.trainer.signals import stop_signals
from training.trainer.starting import open_source
from training.trainer.trainer import Trainer
from training.validation import Validator

TIMED_STEPS = 1000
"""Steps whose durations the quartiles are of."""


def train(config: TrainConfig, *, resume: bool = False, console: Console | None = None) -> TrainResult:
    """Train a backbone under a loss head; where torchrun has started several processes, all of them call this.

    Args:
        config: the run.
        resume: go on from the newest checkpoint in ``config.output``; the loss trace is the one of an unbroken run.
            Processes that torchrun has started anew do so by themselves.
        console: where the first rank shows progress; stderr by default.

    Returns:
        How it ended; after Ctrl-C with ``finished=False`` and a checkpoint.

    Raises:
        ConfigError, DataError, CheckpointError, BundleError: nothing was trained, and why; ConfigError and
            CheckpointError also where the output can no longer be written.
        NonFiniteLossError: the loss or its gradient became NaN or infinite; the last checkpoint is from before.
        OtherRankError: another process failed, or is gone.
    """
    with joined(on_gpu=may_use_gpu(config.device, launched().local_rank)) as ranks:
        console = (console or Console(stderr=True)) if ranks.is_first else Console(quiet=True)
        try:
            loop = _prepared(config, resume, console, ranks)
            with stop_signals() as stop:
                return loop.run(stop)
        except OSError as error:
            raise ConfigError(
                f"output {config.output} cannot be used: {error}; make room or choose another, and --resume goes on "
                "from the last checkpoint"
            ) from error


def _prepared(config: TrainConfig, resume: bool, console: Console, ranks: Ranks) -> "_Loop":
    """Everything that can be refused before the first step, on all ranks alike."""
    place = {"local_rank": ranks.local_rank, "local_size": ranks.local_size}
    device = ranks.together(lambda: choose_device(config.device, **place))
    ranks.require_same("kind of device", device.type)
    saved = _saved(config, resume, ranks)
    if saved is not None:
        config = ranks.together(lambda: _as_started(config, saved, console))
    images = ranks.together(lambda: training_images(config))
    ranks.require_same("config", config.model_dump_json())
    ranks.require_same("training set", images.fingerprint())
    trainer, validator = ranks.together(lambda: _built(config, images, saved, ranks, console))
    ranks.together(lambda: write_config(config) if ranks.is_first else None)
    if ranks.is_first:
        events.introduce(trainer, console)
    journal = Written(trainer, console) if ranks.is_first else Unwritten()
    return _Loop(trainer, validator, journal)


def _saved(config: TrainConfig, resume: bool, ranks: Ranks) -> Checkpoint | None:
    """The checkpoint to go on from: the newest that the first rank sees."""
    folder = config.output / "checkpoints"
    again = ranks.restarts > 0 and bool(checkpoints_in(folder))
    if not ranks.from_first(resume or again):
        ranks.together(lambda: require_unused(config))
        return None
    newest = ranks.together(lambda: newest_checkpoint(folder) if ranks.is_first else folder)
    return load_checkpoint(folder / ranks.from_first(newest.name), ranks)


def _built(
    config: TrainConfig, images: LabelledImages, saved: Checkpoint | None, ranks: Ranks, console: Console
) -> tuple[Trainer, Validator | None]:
    trainer = Trainer(config, images, ranks)
    validator = Validator.load(config.validation, config.preprocessing.template) if config.validation else None
    if saved is not None:
        trainer.restore(saved)
    elif config.start_from is not None:
        _start_from(trainer, config.start_from, console)
    return trainer, validator


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

    def __init__(self, trainer: Trainer, validator: Validator | None, journal: Journal) -> None:
        self.trainer, self.config, self.history = trainer, trainer.config, trainer.history
        self.ranks, self.validator, self.journal = trainer.ranks, validator, journal
        self.checkpoints = self.config.output / "checkpoints"
        self.durations: deque[float] = deque(maxlen=TIMED_STEPS)
        self.earlier_peak = self.history.peak_memory_bytes or 0
        self.decoded_on_cpu = 0

    def run(self, stop: threading.Event) -> TrainResult:
        """Every step up to the last or to a stop signal; saved at the end."""
        trainer = self.trainer
        batches = self.ranks.together(self._batches)
        trainer.connect()
        trainer.network.train()
        forget_peak(trainer.device)
        with self.journal:
            try:
                self._go_through(batches, stop)
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
            ranks=self.ranks,
        )

    def _go_through(self, batches: Iterable[Batch], stop: threading.Event) -> None:
        self.saved_at = started = time.monotonic()
        for batch in batches:
            self._count_pictures(batch)
            losses = self._step(batch)
            now = time.monotonic()
            self.history.seconds += now - started
            if losses is not None:
                self.journal.show(losses, self.history.images / self.history.seconds)
            stopping, save = self._agreed(stop.is_set(), now - self.saved_at > 60 * self.config.checkpoint_minutes)
            self._do_what_is_due(save=save or stopping)
            if stopping:
                self.journal.say(f"interrupted at step {self.trainer.step:,}; saved. Go on with --resume")
                break
            started = time.monotonic()

    def _agreed(self, *wishes: bool) -> list[bool]:
        """What any rank wishes, the same on all of them."""
        return [any(wish) for wish in zip(*self.ranks.gather_numbers(*wishes), strict=True)]

    def _step(self, batch: Batch) -> BatchLosses | None:
        """Learn from a batch and trace its loss; None where too little of it could be read."""
        if not self.trainer.can_learn_from(batch):
            self.trainer.skip_step()
            self.journal.trace(self.trainer.step, None)
            return None
        started = time.monotonic()
        losses = self.trainer.train_step(batch)
        loss = float(losses.loss)
        self.durations.append(time.monotonic() - started)
        if not math.isfinite(loss):
            raise self._not_finite()
        self.journal.trace(self.trainer.step, loss)
        self.history.loss = loss
        self.history.images += sum(batch.sizes)
        return losses

    def _not_finite(self) -> NonFiniteLossError:
        earlier = checkpoints_in(self.checkpoints)
        return NonFiniteLossError(
            step=self.trainer.step,
            head=self.config.head,
            advice=events.advice(self.config),
            checkpoint=earlier[-1] if earlier else None,
        )

    def _do_what_is_due(self, *, save: bool) -> None:
        epoch_done = self.trainer.step % self.trainer.plan.steps_per_epoch == 0
        if epoch_done:
            self.history.unreadable_in_epoch = 0
            self._validate()
        if epoch_done or save:
            self.journal.flush()
            self._save()
            self.saved_at = time.monotonic()

    def _validate(self) -> None:
        trainer, wanted = self.trainer, self.config.validation
        last = trainer.step == trainer.total_steps
        if self.validator is None or wanted is None or (trainer.epoch % wanted.every_epochs != 0 and not last):
            return
        trainer.agree()
        figures = self.validator.measure(trainer.measured, self.config.preprocessing, trainer.device, self.ranks)
        self.history.validation.append({"epoch": trainer.epoch, "step": trainer.step, **figures})
        self.journal.validated(figures)

    def _count_pictures(self, batch: Batch) -> None:
        trainer, history = self.trainer, self.history
        self.decoded_on_cpu += batch.decoded_on_cpu
        if not batch.unreadable:
            return
        self.journal.left_out(trainer.step + 1, batch.unreadable, first=history.unreadable_in_epoch == 0)
        history.unreadable += len(batch.unreadable)
        history.unreadable_in_epoch += len(batch.unreadable)

    def _say_pictures(self) -> None:
        decoded_on_cpu = sum(count for (count,) in self.ranks.gather_numbers(self.decoded_on_cpu))
        if decoded_on_cpu:
            self.journal.warn(f"{decoded_on_cpu:,} pictures went to the CPU: nvJPEG does not take them")
        if count := self.history.unreadable:
            times = "once" if count == 1 else f"{count:,} times"
            named = self.config.output / "unreadable.txt"
            self.journal.warn(f"{times} a picture could not be read and was left out: {named}")

    def _save(self) -> Path:
        if self.durations:
            low, median, high = 1000 * np.percentile(self.durations, (25, 50, 75))
            self.history.step_ms = (float(low), float(median), float(high))
        peaks = self.ranks.gather(peak_memory_bytes(self.trainer.device))
        self.history.peak_memory_bytes = None if None in peaks else max(*peaks, self.earlier_peak)
        trainer = self.trainer
        trainer.agree()
        return save_checkpoint(
            self.checkpoints, trainer.step, trainer.state(), keep=self.config.keep_checkpoints, ranks=self.ranks
        )

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
