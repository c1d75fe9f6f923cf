"""Live progress of a rank: a bar on a terminal, a line every half minute elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.bulk.run import Run

LINE_EVERY_SECONDS = 30.0


class BulkProgress:
    """Shows pictures, faces, rate and the time left."""

    def __init__(self, console: Console, pictures: int) -> None:
        """Prepare a display of a rank's pictures."""
        self.console, self.pictures = console, pictures
        self.bar = Progress(
            TextColumn("embedding"),
            BarColumn(bar_width=None),  # what the figures leave
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f}/s, {task.fields[failed]:,} failed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=pictures, rate=0.0, failed=0)
        self.started = self.last_line = time.monotonic()

    def __enter__(self) -> Self:
        """Start the display."""
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the display."""
        self.bar.stop()

    def show(self, run: Run) -> None:
        """Show what is done so far."""
        now = time.monotonic()
        rate = run.pictures / max(now - self.started, 1e-3)
        done, failed = run.before + run.pictures, run.failed.total()
        self.bar.update(self.task, completed=done, rate=rate, failed=failed)
        if not self.console.is_terminal and now - self.last_line > LINE_EVERY_SECONDS:
            self.last_line = now
            left = (self.pictures - done) / rate if rate else float("inf")
            self.console.print(
                f"{done:,} of {self.pictures:,} pictures, {rate:,.0f} a second, {left / 60:,.1f} minutes left, "
                f"{failed:,} without an embedding",
                highlight=False,
                soft_wrap=True,
            )
