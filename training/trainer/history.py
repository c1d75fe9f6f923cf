"""What a run has measured of itself, and how a call of `train` ended."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class History:
    """What a run measured so far; saved with every checkpoint.

    Attributes:
        seconds: time spent in the loop, over all resumptions, without validation.
        images: images trained on.
        loss: of the last step; None before the first.
        validation: one record an evaluation: epoch, step and figures.
        step_ms: lower quartile, median and upper quartile of the time of a step, in ms, without waiting for its batch,
            over the last 1,000 steps of one call; None before the first.
        peak_memory_bytes: high-water mark of the GPU's memory where the run uses one, else of the process's resident
            memory, over all resumptions; None where the system does not tell.
        unreadable: times that a picture could not be read and was left out of its batch.
        unreadable_in_epoch: those of the epoch that the run is in.
    """

    seconds: float = 0.0
    images: int = 0
    loss: float | None = None
    validation: list[dict[str, float]] = field(default_factory=list)
    step_ms: tuple[float, float, float] | None = None
    peak_memory_bytes: int | None = None
    unreadable: int = 0
    unreadable_in_epoch: int = 0

    @classmethod
    def restored(cls, record: dict[str, Any]) -> "History":
        """As saved in a checkpoint; figures that are newer than the checkpoint have their defaults."""
        quartiles = record.get("step_ms")
        return cls(**{**record, "step_ms": None if quartiles is None else tuple(quartiles)})


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
