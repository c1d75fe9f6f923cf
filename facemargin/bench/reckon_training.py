"""Memory and time of a head with class counts that were not measured. Nothing here measures."""

import math
from dataclasses import dataclass

from facemargin.bench.prices import Prices


@dataclass(frozen=True)
class Training:
    """A run with very many classes. Assumptions, but for what is measured.

    Attributes:
        classes: C.
        dim: D.
        batch: M, samples of a step on all GPUs together.
        images_each: images of a class.
        gpu_memory_gb: of one GPU, 10^9 bytes.
        gpu_memory_share: of it that class rows and what belongs to them may take.
        gpu_flops: floating-point operations a second that one GPU does in these products, not its data sheet's.
        backbone_flops: of the network for one image, forward and backward; the default is three times the 24e9 of one
            forward pass of IResNet-100 at 112 × 112.
    """

    classes: float
    dim: int = 512
    batch: int = 8192
    images_each: float = 20.0
    gpu_memory_gb: float = 80.0
    gpu_memory_share: float = 0.7
    gpu_flops: float = 1e14
    backbone_flops: float = 7.2e10


@dataclass(frozen=True)
class HeadWay:
    """What a partition does in a step.

    Attributes:
        name: as in the table of measured points.
        share: of the classes that are in play in a step, the batch's among them.
        fixed: classes in play beside the batch's, where no share is.
        operations: of the products, in units of M·(classes in play)·D.
        copies: of all rows at rest, in units of 4·C·D bytes: rows and momentum; and the gradient where it is dense.
        copies_in_play: of the rows in play, likewise: those that are gathered, and their gradient.
    """

    name: str
    share: float
    fixed: float
    operations: float
    copies: float
    copies_in_play: float

    def in_play(self, classes: float, batch: int) -> float:
        """Classes of a step: share·C and at least M, or fixed + M; never more than there are."""
        return min(classes, max(self.share * classes, self.fixed + batch))

    def held_bytes(self, classes: float, dim: int, batch: int) -> float:
        """4·D·(copies·C + copies_in_play·classes in play), in float32; of scores, samples·classes, nothing."""
        return 4 * dim * (self.copies * classes + self.copies_in_play * self.in_play(classes, batch))


HEAD_WAYS = (
    HeadWay("streaming", 1.0, 0, 8, 3, 0),
    HeadWay("sampled, a tenth", 0.1, 0, 6, 2, 2),
    HeadWay("sampled, 10,000", 0.0, 10_000, 6, 2, 2),
)
"""Split over GPUs as `sharded` does. `dense` is left out: its scores alone are 4·M·C bytes, three times."""


@dataclass(frozen=True)
class TrainingCost:
    """What the head of a run needs.

    Attributes:
        gigabytes: rows, momentum and gradients in float32.
        gpus: that hold them.
        step_s: products of one step on these GPUs.
        epoch_hours: images / M steps.
        epoch_usd: of these GPUs.
        backbone_hours: of the network's own work in an epoch on the same GPUs.
        cpu_core_hours: of an epoch of the head on cores like the measuring machine's; None where nothing was measured.
    """

    gigabytes: float
    gpus: int
    step_s: float
    epoch_hours: float
    epoch_usd: float
    backbone_hours: float
    cpu_core_hours: float | None


def training_cost(way: HeadWay, run: Training, prices: Prices, core_s: float | None) -> TrainingCost:
    """Cost of a head.

    - GPUs = ⌈bytes / (memory·share)⌉, the bytes as in `HeadWay.held_bytes`
    - operations of a step = operations·M·(classes in play)·D, the products alone
    - CPU: core seconds of a sample, a class and a dimension (measured) · images · C · D

    Args:
        way: the partition.
        run: the run.
        prices: of GPUs.
        core_s: measured processor seconds of one step, divided by M·C·D; None where they do not grow with C.
    """
    held = way.held_bytes(run.classes, run.dim, run.batch)
    gpus = max(1, math.ceil(held / (run.gpu_memory_gb * 1e9 * run.gpu_memory_share)))
    rows = way.in_play(run.classes, run.batch)
    step = way.operations * run.batch * rows * run.dim / (gpus * run.gpu_flops)
    images = run.classes * run.images_each
    hours = images / run.batch * step / 3600
    core_hours = None if core_s is None else core_s * images * run.classes * run.dim / 3600
    backbone = images * run.backbone_flops / (gpus * run.gpu_flops) / 3600
    return TrainingCost(held / 1e9, gpus, step, hours, hours * gpus * prices.gpu_hour, backbone, core_hours)
