"""Time and memory of the streaming partition's forward and backward on a CPU: ``python -m training.bench.streaming``.

Beside it: the three matrix products that no exact loss can do without (x·Wᵀ, G·W, Gᵀ·x, each in one call over all
classes into memory that is already there; recomputation makes streaming's own floor four), and ``CosFaceLoss`` of
pytorch-metric-learning, where that is installed. All take their turns in one process, so that a busy machine slows all
of them. The head is am-softmax with s = 30, m = 0.35.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from facemargin.heads import Head, make_head
from facemargin.partitions.streaming import Streaming
from facemargin.partitions.streaming_products import hardware_has_bfloat16
from training.bench.memory import peak_extra_bytes
from training.hardware import describe_hardware

SCALE, MARGIN = 30.0, 0.35
_FEW = 1000
STREAMING, BARE, PEER = "streaming", "three bare products", "pytorch-metric-learning"
REDUCED, BARE_REDUCED = "streaming, bfloat16 products", "three bare bfloat16 products"


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        settings: classes, dim, batch, threads, repeats, torch's version and the hardware.
        seconds: one list a contestant, in the order of the repetitions.
        extra_memory_mb: peak resident memory of a streaming step beyond the weight, its gradient and what was there
            before; None where the system does not tell.
        has_bfloat16: whether this CPU has products of bfloat16 operands with float32 sums.
    """

    settings: dict[str, Any]
    seconds: dict[str, list[float]]
    extra_memory_mb: float | None
    has_bfloat16: bool


class Batch:
    """One batch of embeddings and labels, the same for all."""

    def __init__(self, classes: int, dim: int, batch: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.embeddings = torch.randn(batch, dim, generator=generator)
        self.labels = torch.randint(classes, (batch,), generator=generator)


def streaming_step(head: Head, batch: Batch) -> None:
    """One forward and backward, the last step's gradients dropped first, as an optimizer does."""
    head.zero_grad(set_to_none=True)
    head(batch.embeddings.clone().requires_grad_(), batch.labels).backward()


def bare_products(batch: Batch, weight: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """The three products in ``dtype``, their outputs allocated and touched."""
    x, w = batch.embeddings.to(dtype), weight.to(dtype)
    scores, grad_x, grad_w = x.new_zeros(len(x), len(w)), torch.zeros_like(x), torch.zeros_like(w)

    def run() -> None:
        torch.mm(x, w.T, out=scores)
        torch.mm(scores, w, out=grad_x)
        torch.mm(scores.T, x, out=grad_w)

    return run


def peer_step(batch: Batch, classes: int) -> Callable[[], None]:
    """Forward and backward of pytorch-metric-learning's CosFaceLoss."""
    from pytorch_metric_learning.losses import CosFaceLoss

    loss = CosFaceLoss(classes, batch.embeddings.shape[1], margin=MARGIN, scale=SCALE)

    def run() -> None:
        loss.zero_grad(set_to_none=True)
        loss(batch.embeddings.clone().requires_grad_(), batch.labels).backward()

    return run


def measure(classes: int, dim: int, batch_size: int, repeats: int) -> Result:
    """Memory first, while nothing else was allocated; then times, one repetition of each in turn."""
    batch = Batch(classes, dim, batch_size)
    head = _head(classes, dim, "float32")
    extra = _extra_memory_mb(head, batch)
    contestants: dict[str, Callable[[], None]] = {
        BARE: bare_products(batch, head.weight.detach(), torch.float32),
        STREAMING: partial(streaming_step, head, batch),
    }
    if find_spec("pytorch_metric_learning"):
        contestants[PEER] = peer_step(batch, classes)
    if hardware_has_bfloat16():
        contestants[BARE_REDUCED] = bare_products(batch, head.weight.detach(), torch.bfloat16)
        contestants[REDUCED] = partial(streaming_step, _head(classes, dim, "bfloat16"), batch)
    settings = {
        **{"classes": classes, "dim": dim, "batch": batch_size, "threads": torch.get_num_threads()},
        **{"repeats": repeats, "torch": torch.__version__, "hardware": describe_hardware(torch.device("cpu"))},
    }
    return Result(settings, in_turn(contestants, repeats), extra, hardware_has_bfloat16())


def in_turn(contestants: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, after one run of each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(-1, repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def table_of(result: Result) -> Table:
    """Median, spread, and the ratios that the partition is judged by."""
    s = result.settings
    table = Table(
        title=f"forward and backward, C = {s['classes']:,}, D = {s['dim']}, N = {s['batch']}, {s['threads']} threads",
        caption=f"{s['hardware']}, torch {s['torch']}; median of {s['repeats']} in turn, fastest to slowest",
    )
    for title in ("", "seconds", "spread", "to bare products", "to float32", "extra memory"):
        table.add_column(title, justify="right" if title else "left")
    median = {name: statistics.median(seconds) for name, seconds in result.seconds.items()}
    for name, seconds in result.seconds.items():
        bare = BARE_REDUCED if name in (REDUCED, BARE_REDUCED) else BARE
        memory = f"{result.extra_memory_mb:.0f} MB" if name == STREAMING and result.extra_memory_mb is not None else ""
        table.add_row(
            name,
            f"{median[name]:.3f}",
            f"{min(seconds):.3f} to {max(seconds):.3f}",
            f"{median[name] / median[bare]:.2f}",
            f"{median[name] / median[STREAMING]:.2f}",
            memory,
        )
    return table


def _head(classes: int, dim: int, products: str) -> Head:
    partition = Streaming(products=products)
    return make_head(
        "am-softmax", embedding_dim=dim, num_classes=classes, scale=SCALE, margin=MARGIN, partition=partition
    )


def _extra_memory_mb(head: Head, batch: Batch) -> float | None:
    """Peak resident memory of the head's first step beyond the weight's gradient, from Linux's own high-water mark."""
    small = Batch(_FEW, head.embedding_dim, len(batch.labels))
    streaming_step(_head(_FEW, head.embedding_dim, "float32"), small)  # brings code and threads into memory
    extra = peak_extra_bytes(partial(streaming_step, head, batch))
    gradient = head.weight.numel() * head.weight.element_size()
    return None if extra is None else (extra - gradient) / 2**20


def main(
    classes: Annotated[int, typer.Option(min=1, help="C, the number of classes.")] = 500_000,
    dim: Annotated[int, typer.Option(min=1, help="D, the size of an embedding.")] = 512,
    batch: Annotated[int, typer.Option(min=1, help="N, the number of samples.")] = 128,
    threads: Annotated[int, typer.Option(min=0, help="Threads of PyTorch; 0 is all cores.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of each.")] = 7,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write every measured time here.")] = None,
) -> None:
    """Time the streaming partition on this CPU beside bare matrix products and pytorch-metric-learning."""
    if threads:
        torch.set_num_threads(threads)
    result = measure(classes, dim, batch, repeats)
    console = Console()
    console.print(table_of(result))
    if PEER not in result.seconds:
        console.print("pytorch-metric-learning is not installed, so it was not timed")
    if not result.has_bfloat16:
        console.print(
            "this CPU has neither AMX nor AVX512-BF16: bfloat16 products would be imitated, and were not timed"
        )
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
