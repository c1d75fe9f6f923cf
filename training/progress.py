"""Live progress of a run: a bar on a terminal, a line every half minute elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from training.data.loader import BatchPlan

LINE_EVERY_SECONDS = 30.0
_SMOOTHING = 0.98


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class TrainingProgress:
    """Shows epoch, step, smoothed loss, images per second and the time left."""

    def __init__(self, console: Console, total_steps: int, first_step: int) -> None:
        """Prepare a display that starts at `first_step` of `total_steps`."""
        self.console, self.total_steps = console, total_steps
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]} img/s  left {task.fields[left]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(
            "", total=total_steps, completed=first_step, epoch="-", loss="-", rate="-", left="-"
        )
        self.loss: float | None = None
        self.last_line = time.monotonic()

    def __enter__(self) -> Self:
        """Start the display."""
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the display."""
        self.bar.stop()

    def update(self, step: int, loss: float, rate_img_s: float, plan: BatchPlan) -> None:
        """Show the state after a step."""
        self.loss = loss if self.loss is None else _SMOOTHING * self.loss + (1 - _SMOOTHING) * loss
        epoch = f"{step / plan.steps_per_epoch:.1f}"
        left = _clock((self.total_steps - step) * plan.batch_size / rate_img_s)
        shown_loss, shown_rate = f"{self.loss:.3f}", f"{rate_img_s:.0f}"
        self.bar.update(self.task, completed=step, epoch=epoch, loss=shown_loss, rate=shown_rate, left=left)
        if not self.console.is_terminal and time.monotonic() - self.last_line > LINE_EVERY_SECONDS:
            self.last_line = time.monotonic()
            self.console.print(
                f"epoch {epoch}  step {step}/{self.total_steps}  loss {shown_loss}  {shown_rate} img/s  left {left}",
                highlight=False,
            )
