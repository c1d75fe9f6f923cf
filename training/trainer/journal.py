"""What a run leaves behind while it goes on, beside checkpoints: loss trace, unreadable pictures, events, console.

The first rank writes it; the others have an `Unwritten` one.
"""

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from facemargin.heads import BatchLosses
from training.progress import TrainingProgress
from training.trainer import events
from training.trainer.trace import UnreadablePictures, open_trace
from training.trainer.trainer import Trainer


class Journal(Protocol):
    """What the loop tells, in the order of steps."""

    def __enter__(self) -> Self:
        """Open the files."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""

    def say(self, text: str) -> None:
        """A line on the console."""

    def warn(self, problem: str) -> None:
        """A warning on the console."""

    def left_out(self, step: int, pictures: tuple[str, ...], *, first: bool) -> None:
        """Pictures that a step could not read; `first` in its epoch."""

    def trace(self, step: int, loss: float | None) -> None:
        """A step's loss; None where it did not learn."""

    def show(self, losses: BatchLosses, rate_img_s: float) -> None:
        """A step that learned."""

    def validated(self, figures: dict[str, float]) -> None:
        """A validation's figures."""

    def flush(self) -> None:
        """Put the trace on disk."""


class Written:
    """A run's journal in its output folder and on a console, going on after the trainer's step."""

    def __init__(self, trainer: Trainer, console: Console) -> None:
        self.trainer, self.console, self.output = trainer, console, trainer.config.output

    def __enter__(self) -> Self:
        """Open the files, cut back to the step where they go on."""
        step = self.trainer.step
        self.unreadable = UnreadablePictures(self.output / "unreadable.txt", step)
        self.losses = open_trace(self.output / "loss.csv", step)
        self.writer = SummaryWriter(str(self.output / "tensorboard"), purge_step=step)
        self.progress = TrainingProgress(self.console, self.trainer.total_steps, step)
        self.progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""
        self.progress.__exit__(kind, error, trace)
        self.writer.close()
        self.losses.close()

    def say(self, text: str) -> None:
        """See `Journal.say`."""
        self.console.print(text, highlight=False)

    def warn(self, problem: str) -> None:
        """See `Journal.warn`."""
        events.warn(self.console, problem)

    def left_out(self, step: int, pictures: tuple[str, ...], *, first: bool) -> None:
        """See `Journal.left_out`."""
        if first:
            self.warn(f"left out, because it cannot be read: {pictures[0]}")
        self.unreadable.add(self.trainer.epoch + 1, step, pictures)

    def trace(self, step: int, loss: float | None) -> None:
        """See `Journal.trace`."""
        self.losses.write(f"{step},{'' if loss is None else repr(loss)}\n")

    def show(self, losses: BatchLosses, rate_img_s: float) -> None:
        """See `Journal.show`."""
        self.progress.update(self.trainer.step, float(losses.loss), rate_img_s, self.trainer.plan)
        if self.trainer.step % events.LOG_EVERY_STEPS == 0:
            events.log_step(self.writer, self.trainer, losses, rate_img_s)

    def validated(self, figures: dict[str, float]) -> None:
        """See `Journal.validated`."""
        events.log_validation(self.writer, self.trainer, figures, self.console)

    def flush(self) -> None:
        """See `Journal.flush`."""
        self.losses.flush()


class Unwritten:
    """The journal of a rank that is not the first: nothing."""

    def __enter__(self) -> Self:
        """See `Journal`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `Journal`."""

    def say(self, text: str) -> None:
        """See `Journal.say`."""

    def warn(self, problem: str) -> None:
        """See `Journal.warn`."""

    def left_out(self, step: int, pictures: tuple[str, ...], *, first: bool) -> None:
        """See `Journal.left_out`."""

    def trace(self, step: int, loss: float | None) -> None:
        """See `Journal.trace`."""

    def show(self, losses: BatchLosses, rate_img_s: float) -> None:
        """See `Journal.show`."""

    def validated(self, figures: dict[str, float]) -> None:
        """See `Journal.validated`."""

    def flush(self) -> None:
        """See `Journal.flush`."""
