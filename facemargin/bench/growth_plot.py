"""Pictures of how cost grows: logarithmic axes, a curve for each way, its name at its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

_GAP = 0.062  # between names, as a share of a panel's height
_GREY = "#5b6770"


@dataclass(frozen=True)
class Curve:
    """One way in one panel.

    Attributes:
        name: written at its end; empty for a curve that needs none.
        colour: of line, marks and name.
        points: (x, y), x ascending, both above 0.
        tops: where a thin line from each point ends, as from p50 to p99; empty for none.
        dashed: with hollow marks, for another dimension.
    """

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    tops: Sequence[float] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: what is up, with its unit.
        x: what goes to the right.
        curves: what is drawn.
        linear: whether y is a share, on a linear axis that ends at 1.
        note: a line below the title.
    """

    title: str
    x: str
    curves: Sequence[Curve]
    linear: bool = False
    note: str = ""


def draw(panels: Sequence[Panel], output: Path) -> Path:
    """Write a PNG with two panels a row; those without a point are left out."""
    shown = [panel for panel in panels if any(curve.points for curve in panel.curves)]
    rows = max(1, -(-len(shown) // 2))
    figure = Figure(figsize=(10.4, 3.9 * rows), dpi=130, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    FigureCanvasAgg(figure)
    for place, panel in enumerate(shown, 1):
        _draw_panel(figure.add_subplot(rows, min(2, len(shown)), place), panel)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, facecolor="white", metadata={"Software": None})
    return output


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_xscale("log")
    if not panel.linear:
        axes.set_yscale("log")
    curves = [curve for curve in panel.curves if curve.points]
    for curve in curves:
        xs, ys = zip(*curve.points, strict=True)
        axes.plot(
            xs,
            ys,
            "--" if curve.dashed else "-",
            marker="o",
            markersize=4.5,
            linewidth=1.6,
            markerfacecolor="white" if curve.dashed else curve.colour,
            color=curve.colour,
        )
        if curve.tops:
            axes.vlines(xs, ys, list(curve.tops), color=curve.colour, linewidth=0.9, alpha=0.75)
    axes.set_title(panel.title, loc="left", fontsize=10.5, pad=20 if panel.note else 8)
    if panel.note:
        axes.text(0, 1.02, panel.note, transform=axes.transAxes, fontsize=8, color=_GREY, va="bottom")
    axes.set_xlabel(panel.x, fontsize=9)
    _mark(axes, curves, panel.linear)
    axes.tick_params(labelsize=8.5)
    axes.grid(visible=True, which="major", color="#e8ebee", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _widen(axes, panel.linear)
    _name(axes, curves)


def _mark(axes: Axes, curves: Sequence[Curve], linear: bool) -> None:
    """Numbers as people write them: every measured size; powers of ten upwards, and 2 and 5 where those are few."""
    sizes = sorted({x for curve in curves for x, _ in curve.points})
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    if not linear:
        ys = [y for curve in curves for y in (*(y for _, y in curve.points), *curve.tops)]
        few = max(ys) / min(ys) < 50
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())


def short(value: float) -> str:
    """A number in few signs.

    >>> short(10_000), short(2_000_000), short(0.05), short(500)
    ('10k', '2M', '0.05', '500')
    """
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e4 else f"{value:,.6g}"


def _widen(axes: Axes, linear: bool) -> None:
    """Some room where there is a single number, so that an axis has more than one mark."""
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.3, high * 1.3)
    low, high = axes.get_ylim()
    if linear:
        axes.set_ylim(min(low, 0.95), 1.002)  # no share is above 1
    else:
        axes.set_ylim(low / 1.2, high * 1.2)


def _name(axes: Axes, curves: Sequence[Curve]) -> None:
    """Names at the ends of their curves, moved apart where they would touch, with a thin line to where they belong."""
    named = [curve for curve in curves if curve.name]
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = sorted(((*to_axes.transform(curve.points[-1]), curve) for curve in named), key=lambda end: float(end[1]))
    heights = spread([float(y) for _, y, _ in ends], _GAP)
    for (x, y, curve), height in zip(ends, heights, strict=True):
        axes.annotate(
            curve.name,
            xy=(x, y),
            xytext=(1.03, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            fontsize=8.5,
            color=curve.colour,
            va="center",
            arrowprops={"arrowstyle": "-", "color": curve.colour, "linewidth": 0.5, "alpha": 0.5, "shrinkB": 4},
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights, moved as little as a simple rule does so that neighbours are ``gap`` apart.

    Those that touch are moved to both sides of their mean, group by group; none is moved above 1.

    >>> spread([0.25, 0.25, 1.0], 0.5)
    [0.0, 0.5, 1.0]
    >>> spread([1.0, 1.0], 0.5)
    [0.5, 1.0]
    """
    groups: list[list[float]] = []  # each: its heights as wanted
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _low(groups[-1], gap) - _high(groups[-2], gap) < gap:
            last = groups.pop()
            groups[-1] += last
    moved = [_low(group, gap) + gap * place for group in groups for place in range(len(group))]
    return [min(height, 1 - gap * above) for height, above in zip(moved, reversed(range(len(moved))), strict=True)]


def _low(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _high(group: Sequence[float], gap: float) -> float:
    return _low(group, gap) + gap * (len(group) - 1)
