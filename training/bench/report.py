"""The page and the pictures of the benchmark of heads and partitions, from the stored figures alone."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.bench.steps import DRAWS

SHOWN = "am-softmax"
"""The head of the pictures and of the table by partition."""

_COLOURS = {
    "dense": "#1f5fa8",
    "streaming": "#c8501e",
    "sharded": "#8fb4dc",
    "sampled": "#2a8c5a",
    "class-based": "#8a4fa3",
    "hierarchical": "#b8860b",
    "adaptive": "#3c9fb4",
    "nce": "#a83250",
    "peer": "#5b6770",
}
_PEER = "pytorch-metric-learning"


class Figures:
    """Costs by partition, head and number of classes."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.settings, self.machine = found["settings"], found["machine"]
        rows = [row for rows in found["costs"].values() for row in rows]
        self._rows = {(row["partition"], row["head"], row["classes"]): row for row in rows}
        self.partitions = list(dict.fromkeys(row["partition"] for row in rows))
        self.classes = sorted({row["classes"] for row in rows})

    def get(self, partition: str, head: str, classes: int) -> dict[str, Any] | None:
        """One record, or None."""
        return self._rows.get((partition, head, classes))

    def number(self, partition: str, head: str, classes: int, key: str) -> float | None:
        """One figure, the median where it was repeated."""
        value = (self.get(partition, head, classes) or {}).get(key)
        return statistics.median(value) if isinstance(value, list) else value


def write_report(found: dict[str, Any], output: Path) -> None:
    """Write ``heads.md``, ``heads-time.png`` and ``heads-memory.png`` into a folder."""
    figures = Figures(found)
    draw_growth(figures, "loss_ms", "forward and backward, ms", output / "heads-time.png")
    draw_growth(figures, "extra_mb", "memory beyond rows and gradient, MB", output / "heads-memory.png")
    parts = [_head(figures), _by_partition(figures), _bias(figures), *(_by_head(figures, c) for c in figures.classes)]
    parts += [_streaming(output / "streaming.json"), _sampled(output / "sampled.json")]
    (output / "heads.md").write_text("\n".join(part for part in parts if part), encoding="utf-8")


def draw_growth(figures: Figures, key: str, label: str, output: Path) -> Path:
    """A curve a partition over the number of classes, both axes logarithmic."""
    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for partition in figures.partitions:
        values = [figures.number(partition, SHOWN, count, key) for count in figures.classes]
        points = [
            (count, max(value, 1.0)) for count, value in zip(figures.classes, values, strict=True) if value is not None
        ]
        style = "--" if partition in ("peer", "sharded") else "-"
        name = _PEER if partition == "peer" else partition
        axes.plot(
            *zip(*points, strict=True), style, marker="o", markersize=4, color=_COLOURS.get(partition), label=name
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("classes")
    axes.set_ylabel(label)
    axes.grid(visible=True, which="major", color="#e3e6ea", linewidth=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, frameon=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, facecolor="white", metadata={"Software": None})
    return output


def _head(figures: Figures) -> str:
    s, m = figures.settings, figures.machine
    return f"""# What heads and partitions cost

Written by `make bench-heads` (`training/bench/`); the figures are in [heads.json](heads.json).
{m["hardware"]}, {m["threads"]} threads, torch {m["torch"]}, float32, D = {s["dim"]}, {s["batch"]} samples a batch,
random embeddings, heads with their defaults and λ = 0. Times are medians of {s["repeats"]} repetitions, ranges from the
fastest to the slowest. Each partition at each number of classes ran in a process of its own, one after the other.
`peer` is the loss of pytorch-metric-learning for that head: `CosFaceLoss`, `ArcFaceLoss`, `SphereFaceLoss`,
`LargeMarginSoftmaxLoss`, `NormalizedSoftmaxLoss`. `sharded` ran as one process, where it is `dense`.

![Time of forward and backward over the number of classes](heads-time.png)

![Memory over the number of classes](heads-memory.png)
"""


def _by_partition(figures: Figures) -> str:
    def cell(partition: str, count: int) -> str:
        row = figures.get(partition, SHOWN, count)
        if row is None:
            return "-"
        times = row["loss_ms"]
        text = f"{_ms(statistics.median(times))} ({_ms(min(times))}–{_ms(max(times))})"
        step = "" if row["step_ms"] is None else f"; {_ms(statistics.median(row['step_ms']))}"
        memory = "" if row["extra_mb"] is None else f"; {row['extra_mb']:,.0f} MB"
        return text + step + memory

    table = _table(["partition", *(f"C = {count:,}" for count in figures.classes)], figures.partitions, cell, figures)
    return f"""## By partition, {SHOWN}

Forward and backward in ms (range); then with a step of SGD with momentum, ms; then the peak memory beyond the class
rows and their gradient, resident pages beyond those before: 0 where memory that the process had freed earlier was
enough, as for buffers of a few MB (the picture shows 0 as 1 MB).

{table}
With the step of the optimizer, dense gradients cost time in proportion to C even where forward and backward do not;
`sampled` and `nce` use `RowwiseSGD` and touch only their rows.
"""


def _bias(figures: Figures) -> str:
    lines = []
    for head in sorted(figures.settings["heads"], key=lambda name: name != SHOWN):
        for partition in figures.partitions:
            for count in figures.classes:
                row = figures.get(partition, head, count)
                if row is not None and row["bias"] is not None:
                    cells = [head, partition, f"{count:,}", f"{row['bias']:.2g}", f"{row['cosine']:.4f}"]
                    lines.append(f"| {' | '.join(cells)} | {row['noise']:.2g} |")
    if not lines:
        return ""
    return f"""## Bias against the exact gradient

g is the gradient of the embeddings at random rows, g* the exact one; E over {DRAWS} draws (one where it is exact).
Bias is ‖E[g] − g*‖ / ‖g*‖, cosine that of E[g] and g*, noise the mean of ‖g − E[g]‖ / ‖g*‖ for a single draw; with
{DRAWS} draws a bias under about an eighth of the noise is not told from 0. The factorised partitions are other models
and have no g*. `nce` minimises another loss, whose gradient has another length; what matters there is the cosine.
`sampled` and `nce` draw by their defaults. Every head was measured at the smallest number of classes, {SHOWN} at all.
Where features are free, these random embeddings of length about √D let a few classes dominate Z, and a sample that
misses them is far off: the largest biases are theirs.

| head | partition | classes | bias | cosine | noise |
|---|---|---:|---:|---:|---:|
{chr(10).join(lines)}
"""


def _by_head(figures: Figures, count: int) -> str:
    def cell(head: str, partition: str) -> str:
        value = figures.number(partition, head, count, "loss_ms")
        return "-" if value is None else _ms(value)

    heads = figures.settings["heads"]
    lines = [f"| head | {' | '.join(figures.partitions)} |", "|---|" + "---:|" * len(figures.partitions)]
    lines += [f"| {head} | " + " | ".join(cell(head, way) for way in figures.partitions) + " |" for head in heads]
    return f"## Every head, C = {count:,}\n\nForward and backward, ms.\n\n" + "\n".join(lines) + "\n"


def _streaming(path: Path) -> str:
    if not path.exists():
        return ""
    found = json.loads(path.read_text(encoding="utf-8"))
    s, median = found["settings"], {name: statistics.median(times) for name, times in found["seconds"].items()}
    bare, streaming, peer = median["three bare products"], median["streaming"], median.get(_PEER)
    rows = "\n".join(
        f"| {name} | {median[name]:.2f} | {min(times):.2f}–{max(times):.2f} | {median[name] / bare:.2f} |"
        for name, times in found["seconds"].items()
    )
    against = "" if peer is None else f"{peer / streaming:.2f} times as fast as pytorch-metric-learning, "
    reduced = (
        ""
        if found["has_bfloat16"]
        else ' This CPU has no products of bfloat16 operands, so `products="bfloat16"` was not timed.'
    )
    return f"""## Streaming at {s["classes"]:,} classes

`python -m training.bench.streaming`: {s["hardware"]}, {s["threads"]} threads, D = {s["dim"]}, {s["batch"]} samples,
float32, am-softmax; all in one process in turn, median of {s["repeats"]}.

| | seconds | range | ratio to the bare products |
|---|---:|---:|---:|
{rows}

Streaming takes {streaming / bare:.2f} times what the three bare matrix products take (recomputation makes four, so 1.33
is the floor), is {against}and needs {found["extra_memory_mb"]:.0f} MB beyond the rows and their gradient.{reduced}
"""


def _sampled(path: Path) -> str:
    if not path.exists():
        return ""
    found = json.loads(path.read_text(encoding="utf-8"))
    s, later = found["settings"], found["seconds"][1:]
    return f"""## Training with {s["classes"]:,} classes

`python -m training.bench.sampled`: {s["hardware"]}, {s["threads"]} threads, am-softmax, `sampled` with {s["samples"]:,}
negatives a step ({s["proposal"]}), D = {s["dim"]}, {s["batch"]} samples, `RowwiseSGD` with momentum; one batch,
{len(found["seconds"])} steps.

| | |
|---|---|
| step, median after the first | {statistics.median(later):.2f} s ({min(later):.2f}–{max(later):.2f}) |
| first step | {found["seconds"][0]:.2f} s |
| weight and momentum | {found["weight_gb"]:.2f} GB |
| peak memory of the process | {found["peak_gb"]:.2f} GB |
| loss | {found["losses"][0]:.2f} to {found["losses"][-1]:.2f} |
"""


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _table(header: Sequence[str], partitions: Sequence[str], cell: Callable[[str, int], str], figures: Figures) -> str:
    lines = [f"| {' | '.join(header)} |", "|---|" + "---|" * (len(header) - 1)]
    for partition in partitions:
        lines.append(f"| `{partition}` | " + " | ".join(cell(partition, count) for count in figures.classes) + " |")
    return "\n".join(lines) + "\n"
