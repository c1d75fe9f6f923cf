"""matplotlib figures as SVG inside an HTML page: text stays text, and colours follow the page's light or dark form."""

import io
import re

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from training.report.palette import GRID, INK, MUTED, VARIABLES

_RASTER_DPI = 200  # of what is drawn as a picture inside the SVG
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in inches with one pair of axes in the report's colours."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, dressed(figure.add_subplot())


def dressed(axes: Axes) -> Axes:
    """Axes in the report's colours, with a grid and without a frame."""
    axes.patch.set_visible(False)
    axes.grid(visible=True, which="major", color=GRID.light, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED.light)
    axes.tick_params(which="both", colors=MUTED.light, labelsize=9)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set(color=INK.light, fontsize=10)
    return axes


def inline_svg(figure: Figure, prefix: str) -> str:
    """The figure as an ``<svg>`` element.

    Args:
        figure: drawn in the light colours of `training.report.palette`.
        prefix: put before every id, so that several figures can stand in one page; letters, digits and hyphens.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "facemargin"}):
        figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA, dpi=_RASTER_DPI)
    return _in_page(text.getvalue(), prefix)


def _in_page(svg: str, prefix: str) -> str:
    """Only the element, without namespaces, fixed size, own fonts and fixed colours."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', svg)
    svg = re.sub(r"<svg[^>]*>", f'<svg {box[0] if box else ""} focusable="false" aria-hidden="true">', svg, count=1)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r'xlink:href="data:', 'href="data:', svg)
    svg = re.sub(r"font: ([^;\"]*?)([\d.]+px)[^;\"]*", r"font: \1\2 var(--sans)", svg)
    for name, tone in VARIABLES.items():
        svg = re.sub(re.escape(tone.light), f"var(--{name})", svg, flags=re.IGNORECASE)
    return svg
