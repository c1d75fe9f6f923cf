"""Pictures of an evaluation: ROC over a logarithmic FMR axis, and histograms of the similarities. PNG or SVG."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray

from facemargin.metrics import Roc, eer, roc, tar_at_far
from training.evaluation_report import short_rate
from training.whole_file import write_whole

_SUFFIXES = (".png", ".svg")
_SIZE_INCHES = (7.2, 4.6)
_DPI = 150
_COLOURS = ("#1f5fa8", "#c8501e", "#2a8c5a", "#8a4fa3", "#b8860b", "#3c9fb4", "#a83250", "#5b6770")
_STYLES = ("-", "--", "-.", ":")
_GREY = "#8a8f98"
_FEWEST_FMR = 1e-7
_POINTS = 2000
_BINS = 60
_LEGEND_INSIDE = 4  # more curves than this have their legend below the picture


class Scores(NamedTuple):
    """Similarities of one model."""

    genuine: ArrayLike
    impostor: ArrayLike


def plot_roc(curves: Mapping[str, Scores], output: Path, *, title: str = "", quoted_far: float = 1e-2) -> Path:
    """Draw TAR over FMR (logarithmic) of one or several models, with the figures in the legend.

    Below one impostor error nothing is drawn; the part of each curve with fewer than 30 errors is pale.

    Args:
        curves: similarities by name.
        output: a ``.png`` or ``.svg`` file.
        title: over the picture.
        quoted_far: FMR whose TAR stands in the legend.

    Returns:
        The file.

    Raises:
        ValueError: no curve, another suffix, or similarities that are empty or not finite.
    """
    if not curves:
        raise ValueError("curves must hold at least one model, got none")
    figure, axes = _canvas(output, title)
    lowest = max(_FEWEST_FMR, min(1 / np.size(scores.impostor) for scores in curves.values()))
    fmr = np.geomspace(lowest, 1.0, 400)
    axes.plot(fmr, 1 - fmr, color=_GREY, linewidth=0.9, linestyle=(0, (4, 3)), label="equal error line", zorder=1)
    axes.plot(fmr, fmr, color=_GREY, linewidth=0.9, linestyle=(0, (1, 2)), label="chance", zorder=1)
    for number, (name, scores) in enumerate(curves.items()):
        _draw_curve(axes, number, name, scores, quoted_far)
    axes.set_xscale("log")
    axes.set_xlim(lowest, 1.0)
    axes.set_ylim(0.0, 1.005)
    axes.set_xlabel("false match rate (FMR)")
    axes.set_ylabel("true accept rate (TAR)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.plot([], [], color=_GREY, alpha=0.5, linewidth=1.4, label="pale: fewer than 30 impostor errors")
    if len(curves) > _LEGEND_INSIDE:
        _finish(axes, "below")
    else:
        _finish(axes, "lower right" if _leaves_room(curves.values()) else "upper left")
    return _save(figure, output)


def plot_scores(
    genuine: ArrayLike, impostor: ArrayLike, output: Path, *, threshold: float | None = None, title: str = ""
) -> Path:
    """Draw the distributions of genuine and impostor similarities, each with area 1.

    Args:
        genuine: (G,) similarities of pairs of one person.
        impostor: (I,) similarities of pairs of two people.
        output: a ``.png`` or ``.svg`` file.
        threshold: a similarity to mark, with the two error rates there.
        title: over the picture.

    Returns:
        The file.

    Raises:
        ValueError: another suffix, or similarities that are empty or not finite.
    """
    curve = roc(genuine, impostor)
    g, i = np.asarray(genuine), np.asarray(impostor)
    figure, axes = _canvas(output, title)
    edges = np.linspace(curve.thresholds[0], curve.thresholds[-1], _BINS + 1).tolist()
    for values, colour, name in ((i, _COLOURS[1], "two people"), (g, _COLOURS[0], "one person")):
        label = f"{name} ({values.size:,} pairs)"
        shares, _ = np.histogram(values, bins=edges, density=True)
        axes.stairs(shares, edges, fill=True, facecolor=(colour, 0.35), edgecolor=colour, linewidth=1.3, label=label)
    if threshold is not None:
        rates = f"FMR {np.mean(i >= threshold):.2%}, FNMR {np.mean(g < threshold):.2%}"
        axes.axvline(threshold, color="#222222", linewidth=1.0, linestyle="--", label=f"{threshold:.3f}: {rates}")
    axes.set_xlim(edges[0], edges[-1])
    axes.margins(y=0.08)
    axes.set_xlabel("cosine similarity")
    axes.set_ylabel("density")
    _finish(axes, "best")
    return _save(figure, output)


def _draw_curve(axes: Axes, number: int, name: str, scores: Scores, quoted_far: float) -> None:
    """One model: its curve, pale where fewer than 30 errors stand behind it, and a dot at the equal error rate."""
    curve = roc(scores.genuine, scores.impostor)
    error, quoted = eer(scores.genuine, scores.impostor), tar_at_far(scores.genuine, scores.impostor, quoted_far)
    colour, style = _COLOURS[number % len(_COLOURS)], _STYLES[number // len(_COLOURS) % len(_STYLES)]
    fmr, tar = _thinned(curve, quoted.impostors)
    solid = fmr * quoted.impostors >= 30
    label = f"{name}: EER {error:.2%}, TAR {quoted.tar:.1%} at FMR {short_rate(quoted_far)}"
    axes.step(fmr, tar, where="post", color=colour, linewidth=1.4, linestyle=style, alpha=0.35)
    axes.step(fmr[solid], tar[solid], where="post", color=colour, linewidth=1.8, linestyle=style, label=label)
    axes.plot([error], [1 - error], "o", color=colour, markersize=4.5, markeredgecolor="white", zorder=5)


def _thinned(curve: Roc, impostors: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """FMR ascending and the best TAR there, without FMR 0, at most some thousand points."""
    fmr, tar = curve.fmr[::-1], curve.tar[::-1]
    last = np.append(np.flatnonzero(np.diff(fmr) > 0), fmr.size - 1)
    fmr, tar = fmr[last], tar[last]
    fmr, tar = fmr[fmr > 0.5 / impostors], tar[fmr > 0.5 / impostors]
    if fmr.size <= _POINTS:
        return fmr, tar
    kept = np.unique(np.searchsorted(fmr, np.geomspace(fmr[0], fmr[-1], _POINTS)))
    return fmr[kept], tar[kept]


def _leaves_room(curves: Any) -> bool:
    """Whether the lower right of the picture is free: the worst model still accepts most at FMR 1e-1."""
    worst: Sequence[float] = [tar_at_far(scores.genuine, scores.impostor, 0.1).tar for scores in curves]
    return min(worst) > 0.6


def _canvas(output: Path, title: str) -> tuple[Figure, Axes]:
    if output.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"output must end in {' or '.join(_SUFFIXES)}, got '{output.name}'")
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if title:
        axes.set_title(title, fontsize=11, loc="left", pad=10)
    return figure, axes


def _finish(axes: Axes, legend: Literal["lower right", "upper left", "best", "below"]) -> None:
    axes.grid(visible=True, which="major", color="#e3e6ea", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if legend != "below":
        axes.legend(loc=legend, fontsize=8.5, frameon=True, framealpha=0.92, edgecolor="#d5d9de")
        return
    entries = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=8, frameon=False)
    figure = entries.get_figure(root=True)
    if figure is not None:
        figure.set_figheight(_SIZE_INCHES[1] + 0.2 * math.ceil(len(entries.get_texts()) / 2))


def _save(figure: Figure, output: Path) -> Path:
    """Write the picture, whole; without a date or random names, so that equal figures give equal files."""
    output.parent.mkdir(parents=True, exist_ok=True)
    kind, content = output.suffix.lower().removeprefix("."), io.BytesIO()
    undated = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "facemargin"}):
        figure.savefig(content, format=kind, facecolor="white", metadata=undated)
    return write_whole(output, content.getvalue())
