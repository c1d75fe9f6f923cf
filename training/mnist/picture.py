"""The papers' picture: embeddings in a plane, a panel a head, with the directions of the class rows.

Once as a ``.png`` of all panels, and once as an inline SVG a panel for a page.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from training.report.palette import INK, SURFACE
from training.report.svg import canvas, inline_svg

COLOURS = (
    "#1f5fa8", "#c8501e", "#2a8c5a", "#8a4fa3", "#d4a017", "#35b0c4", "#a83250", "#5b6770", "#e377c2", "#7a5230",
)  # fmt: skip
"""One a digit."""

_PANEL_INCHES = 2.9
_COLUMNS = 4
_DPI = 110
_POINTS = 4000
_REACH = 0.995  # this share of the points lies inside the panel


class Plane(NamedTuple):
    """Embeddings of one head.

    Attributes:
        embeddings: (N, 2).
        labels: (N,) digits.
        rows: (10, 2) class rows; only their directions are drawn.
        note: under the head's name.
    """

    embeddings: NDArray[np.float32]
    labels: NDArray[np.uint8]
    rows: NDArray[np.float32]
    note: str


def plot_planes(planes: Mapping[str, Plane], output: Path, *, title: str = "") -> Path:
    """Draw a panel a head: points by digit, a line from the origin along each class row, equal axes.

    Args:
        planes: by head.
        output: a ``.png`` file.
        title: over the picture.

    Returns:
        The file.

    Raises:
        ValueError: no head, embeddings that are not in a plane or not finite, or another suffix.
    """
    if not planes:
        raise ValueError("planes must hold at least one head, got none")
    if output.suffix.lower() != ".png":
        raise ValueError(f"output must end in .png, got '{output.name}'")
    for name, plane in planes.items():
        if plane.embeddings.ndim != 2 or plane.embeddings.shape[1] != 2 or not np.isfinite(plane.embeddings).all():
            raise ValueError(f"planes[{name!r}] must hold finite embeddings (N, 2), got {plane.embeddings.shape}")
    columns = min(_COLUMNS, len(planes))
    lines = math.ceil(len(planes) / columns)
    size = (_PANEL_INCHES * columns, (_PANEL_INCHES + 0.3) * lines + 0.6)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, plane) in enumerate(planes.items(), start=1):
        _draw(figure.add_subplot(lines, columns, number), name, plane)
    if title:
        figure.suptitle(title, fontsize=11)
    digits = [Line2D([], [], marker="o", linestyle="", color=c, label=str(d)) for d, c in enumerate(COLOURS)]
    figure.legend(handles=digits, loc="outside lower center", ncols=10, fontsize=9, frameon=False, handletextpad=0.1)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, facecolor="white", metadata={"Software": None})
    return output


def plane_svg(plane: Plane, prefix: str) -> str:
    """One head as an inline SVG, the points as a picture inside it.

    Args:
        plane: finite embeddings (N, 2).
        prefix: put before every id.
    """
    figure, axes = canvas(_PANEL_INCHES, _PANEL_INCHES)
    _draw_plane(axes, plane, ground=SURFACE.light, names=(INK.light,) * len(COLOURS))
    axes.set_xlabel("first coordinate")
    axes.set_ylabel("second coordinate")
    return inline_svg(figure, prefix)


def _draw_plane(axes: Axes, plane: Plane, *, ground: str, names: Sequence[str]) -> None:
    """Points, and the directions of the rows; ``names`` are the colours of the digits at their ends."""
    x, labels = plane.embeddings[:_POINTS], plane.labels[:_POINTS]
    reach = 1.12 * float(np.quantile(np.linalg.norm(plane.embeddings, axis=1), _REACH)) or 1.0
    colours = np.array(COLOURS)[labels]
    axes.scatter(x[:, 0], x[:, 1], s=2.5, c=colours, linewidths=0, alpha=0.6, zorder=2, rasterized=True)
    for digit, (right, up) in enumerate(plane.rows):
        length = math.hypot(right, up) or 1.0
        end = (0.9 * reach * right / length, 0.9 * reach * up / length)
        axes.plot([0, end[0]], [0, end[1]], color=ground, linewidth=2.2, zorder=3)
        axes.plot([0, end[0]], [0, end[1]], color=COLOURS[digit], linewidth=1.0, zorder=4)
        axes.text(
            end[0] / 0.9, end[1] / 0.9, str(digit), color=names[digit], fontsize=8, weight="bold", ha="center",
            va="center", zorder=5,
        )  # fmt: skip
    axes.set_xlim(-1.1 * reach, 1.1 * reach)
    axes.set_ylim(-1.1 * reach, 1.1 * reach)
    axes.set_aspect("equal")
    axes.locator_params(nbins=5)


def _draw(axes: Axes, name: str, plane: Plane) -> None:
    _draw_plane(axes, plane, ground="white", names=COLOURS)
    axes.axhline(0, color="#e3e6ea", linewidth=0.7, zorder=1)
    axes.axvline(0, color="#e3e6ea", linewidth=0.7, zorder=1)
    axes.tick_params(labelsize=7, colors="#5b6770", length=2)
    for spine in axes.spines.values():
        spine.set_color("#d5d9de")
    axes.set_title(f"{name}\n{plane.note}", fontsize=9)
