"""Training on very many classes in the memory of one machine: ``python -m training.bench.sampled``.

An am-softmax head with the sampled partition and row-wise SGD with Nesterov momentum learns two batches of random
embeddings in turn. Only the head is trained: what a backbone costs does not depend on the number of classes. Weight and
momentum take 8·C·D bytes; the rest is what the sum over classes costs.
"""

import json
import resource
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from facemargin.heads import Head, make_head
from facemargin.partitions.sampled import Sampled
from facemargin.rowwise import RowwiseSGD, clip_gradients
from training.hardware import describe_hardware

LEARNING_RATE = 10.0
"""Of the head alone, for a loss that is a mean over the batch: a row is named by one or two of its samples."""


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        settings: classes, dim, batch, samples, proposal, threads, torch's version and the hardware.
        build_seconds: making the head, most of it drawing C·D random numbers.
        seconds: of each step by the clock; the first allocates the momentum.
        cpu_seconds: of each step, used by this process: the figure to trust where others use the machine too.
        losses: of each step, before it.
        active_rows: classes in play in the last step.
        weight_gb: of the weight and its momentum together, in 10^9 bytes.
        peak_gb: largest resident memory of the process, in 10^9 bytes.
    """

    settings: dict[str, Any]
    build_seconds: float
    seconds: list[float]
    cpu_seconds: list[float]
    losses: list[float]
    active_rows: int
    weight_gb: float
    peak_gb: float


def measure(*, classes: int, dim: int, batch: int, samples: int, steps: int, proposal: str) -> Result:
    """Build, train for ``steps`` steps, and say what it took."""
    torch.manual_seed(0)
    start = time.perf_counter()
    partition = Sampled(samples=samples, proposal=proposal)
    head = make_head("am-softmax", embedding_dim=dim, num_classes=classes, partition=partition)
    build_seconds = time.perf_counter() - start
    optimizer = RowwiseSGD(head.parameter_groups(0.0), lr=LEARNING_RATE, momentum=0.9, nesterov=True)
    batches = [(torch.randn(batch, dim), torch.randint(classes, (batch,))) for _ in range(2)]
    seconds, cpu_seconds, losses = [], [], []
    for step in range(steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        losses.append(train_step(head, optimizer, *batches[step % 2]))
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    settings = {
        **{"classes": classes, "dim": dim, "batch": batch, "samples": samples, "proposal": proposal},
        **{"threads": torch.get_num_threads(), "torch": torch.__version__},
        **{"hardware": describe_hardware(torch.device("cpu"))},
    }
    rows = 0 if partition.active_rows is None else len(partition.active_rows)
    return Result(settings, build_seconds, seconds, cpu_seconds, losses, rows, 8 * classes * dim / 1e9, peak_gb())


def train_step(head: Head, optimizer: RowwiseSGD, embeddings: Tensor, labels: Tensor) -> float:
    """Forward, backward, norm of the gradient and step; returns the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss: Tensor = head(embeddings, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    clip_gradients(head.parameters(), float("inf"))
    optimizer.step()
    head.advance()
    return loss.item()


def peak_gb() -> float:
    """Largest resident memory of this process so far, in 10^9 bytes; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def table_of(result: Result) -> Table:
    """The figures that decide whether this many classes can be trained."""
    s = result.settings
    table = Table(
        title=f"{s['classes']:,} classes, D = {s['dim']}, N = {s['batch']}, K = {s['samples']:,} ({s['proposal']})",
        caption=f"{s['hardware']}, {s['threads']} threads, torch {s['torch']}",
        show_header=False,
    )
    table.add_row("head built", f"{result.build_seconds:.1f} s")
    table.add_row("first step", f"{result.seconds[0]:.2f} s")
    table.add_row("later steps", _spread(result.seconds[1:] or result.seconds))
    table.add_row("their CPU time", _spread(result.cpu_seconds[1:] or result.cpu_seconds))
    table.add_row("classes in play", f"{result.active_rows:,}")
    table.add_row("weight and momentum", f"{result.weight_gb:.2f} GB")
    table.add_row("peak memory", f"{result.peak_gb:.2f} GB")
    table.add_row("loss", f"{result.losses[0]:.2f} to {result.losses[-1]:.2f}")
    return table


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} s, {min(seconds):.3f} to {max(seconds):.3f}"


def main(
    classes: Annotated[int, typer.Option(min=1, help="C, the number of classes.")] = 10_000_000,
    dim: Annotated[int, typer.Option(min=1, help="D, the size of an embedding.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="N, the number of samples.")] = 128,
    samples: Annotated[int, typer.Option(min=1, help="K, negatives a step.")] = 100_000,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 20,
    proposal: Annotated[str, typer.Option(help="uniform, frequency or frequency-power.")] = "uniform",
    threads: Annotated[int, typer.Option(min=0, help="Threads of PyTorch; 0 is all cores.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write every figure here.")] = None,
) -> None:
    """Train a head on very many classes on this CPU, and report time and memory."""
    if threads:
        torch.set_num_threads(threads)
    result = measure(classes=classes, dim=dim, batch=batch, samples=samples, steps=steps, proposal=proposal)
    Console().print(table_of(result))
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
