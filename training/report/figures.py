"""The pictures of a comparison, from results alone: ROC, scores, loss, angles, λ. Each is an inline SVG.

Rows have one colour and one line style in every picture.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from facemargin.heads import Annealing
from facemargin.metrics import roc
from training.report.palette import INK, MUTED, SERIES, dashes, series
from training.report.results import HeadResult
from training.report.svg import canvas, inline_svg

_WIDE = (7.6, 4.3)
_PANEL = (3.7, 2.35)
_GRID_POINTS = 300
_BINS = 48
_PANEL_TICKS = 5
_SMOOTHING = 5  # points of the thinned loss trace
_SUPPORTED_ERRORS = 30
_LONG_NAME = 16

Rows = Mapping[str, Sequence[HeadResult]]


def roc_figure(rows: Rows, prefix: str) -> str:
    """TAR over FMR (logarithmic): the mean of a row's seeds, and each seed thin where there are several.

    Left of the marked line fewer than 30 impostor errors stand behind a point.
    """
    impostors = min(run.test.impostor_pairs for runs in rows.values() for run in runs)
    fmr = np.geomspace(1 / impostors, 1.0, _GRID_POINTS)
    figure, axes = canvas(*_WIDE)
    supported = min(1.0, _SUPPORTED_ERRORS / impostors)
    axes.axvspan(fmr[0], supported, facecolor=MUTED.light, alpha=0.10, linewidth=0)
    axes.plot(fmr, fmr, color=MUTED.light, linewidth=0.9, linestyle=(0, (1, 2)))
    for number, (name, runs) in enumerate(rows.items()):
        curves = [_tar_at(run, fmr) for run in runs]
        for curve in curves if len(curves) > 1 else []:
            axes.plot(fmr, curve, color=series(number), linewidth=0.7, alpha=0.35)
        mean = np.mean(curves, axis=0)
        axes.plot(fmr, mean, color=series(number), linewidth=1.8, linestyle=dashes(number), label=name)
    axes.set_xscale("log")
    axes.set_xlim(fmr[0], 1.0)
    axes.set_ylim(0.0, 1.005)
    axes.set_xlabel("false match rate (FMR)")
    axes.set_ylabel("true accept rate (TAR)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    note = axes.annotate("fewer than 30 impostor errors", (fmr[0], 1.0), (4, -4), textcoords="offset points", va="top")
    note.set(color=MUTED.light, fontsize=8.5)
    _legend(axes)
    return inline_svg(figure, prefix)


def scores_figure(runs: Sequence[HeadResult], prefix: str) -> str:
    """Distributions of the test pairs' cosines, the seeds together, each with area 1."""
    genuine = np.concatenate([run.test.genuine for run in runs])
    impostor = np.concatenate([run.test.impostor for run in runs])
    return _two_histograms(
        {"two people": impostor, "one person": genuine}, np.linspace(-1.0, 1.0, _BINS + 1), "cosine similarity", prefix
    )


def angles_figure(runs: Sequence[HeadResult], prefix: str) -> str:
    """Angles of training embeddings to their own class centre and to the nearest other one, the seeds together."""
    measured = [run.angles for run in runs if run.angles is not None]
    own = np.degrees(np.concatenate([angles.own for angles in measured]))
    other = np.degrees(np.concatenate([angles.nearest_other for angles in measured]))
    sides = {"nearest other centre": other, "own centre": own}
    return _two_histograms(sides, np.linspace(0, 120, _BINS + 1), "angle, degrees", prefix)


def loss_figure(rows: Rows, prefix: str) -> str:
    """Smoothed loss of each row over the steps (logarithmic), the mean of its seeds."""
    figure, axes = canvas(*_WIDE)
    for number, (name, runs) in enumerate(rows.items()):
        curves = [run.curve for run in runs if run.curve is not None]
        if not curves:
            continue
        points = min(len(curve.loss) for curve in curves)
        mean = np.mean([curve.loss[:points] for curve in curves], axis=0)
        axes.plot(
            curves[0].step[:points], _smoothed(mean), color=series(number), linewidth=1.7, linestyle=dashes(number),
            label=name,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats")
    axes.set_xlim(left=0)
    _legend(axes)
    return inline_svg(figure, prefix)


def annealing_figure(rows: Rows, prefix: str) -> str:
    """λ of the heads that have one, over the steps (logarithmic)."""
    figure, axes = canvas(*_WIDE)
    for number, (name, runs) in enumerate(rows.items()):
        first = runs[0]
        if first.annealing is None:
            continue
        schedule, steps = Annealing(**first.annealing), np.unique(np.linspace(0, first.steps, _GRID_POINTS).astype(int))
        values = [schedule.at(int(step)) for step in steps]
        axes.plot(steps, values, color=series(number), linewidth=1.8, linestyle=dashes(number), label=name)
    axes.set_yscale("symlog", linthresh=1.0)  # λ may be 0
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("λ (0 is the whole margin)")
    axes.set_xlim(left=0)
    _legend(axes)
    return inline_svg(figure, prefix)


def _two_histograms(sides: Mapping[str, ArrayLike], edges: NDArray[np.float64], label: str, prefix: str) -> str:
    """Two distributions in one panel; what lies outside the edges counts in the outermost bins."""
    figure, axes = canvas(*_PANEL)
    for number, (name, values) in zip((1, 0), sides.items(), strict=True):
        shares, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges.tolist(), density=True)
        colour = SERIES[number].light
        axes.stairs(shares, edges.tolist(), fill=True, facecolor=colour, alpha=0.28, linewidth=0)
        axes.stairs(shares, edges.tolist(), color=colour, linewidth=1.5, linestyle=dashes(1 - number), label=name)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xticks(np.linspace(edges[0], edges[-1], _PANEL_TICKS).tolist())
    axes.margins(y=0.04)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(label)
    return inline_svg(figure, prefix)


def _tar_at(run: HeadResult, fmr: NDArray[np.float64]) -> NDArray[np.float64]:
    """TAR at the largest measured FMR at or below each wanted one; 0 below the first."""
    curve = roc(run.test.genuine, run.test.impostor)
    reached, tar = curve.fmr[::-1], curve.tar[::-1]
    last = np.searchsorted(reached, fmr * (1 + 1e-9), side="right") - 1
    values: NDArray[np.float64] = np.where(last >= 0, tar[np.maximum(last, 0)], 0.0)
    return values


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the neighbours, fewer of them at the ends."""
    window = np.ones(min(_SMOOTHING, values.size))
    smooth: NDArray[np.float64] = np.convolve(values, window, "same") / np.convolve(
        np.ones(values.size), window, "same"
    )
    return smooth


def _legend(axes: Axes) -> None:
    """Below the axes, so that it covers no line."""
    names = axes.get_legend_handles_labels()[1]
    columns = 2 if max(map(len, names)) > _LONG_NAME else 4
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=columns, fontsize=9, frameon=False,
        labelcolor=INK.light, handlelength=2.6,
    )  # fmt: skip
