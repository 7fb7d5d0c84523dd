"""The picture of an attribution graph, for a page or a slide: tokens below, layers upward, outputs on top.

A link is blue where its source raises its target and red where it lowers it, and the wider the more of what makes the
outputs flows over it. To explore a graph, open its document in a viewer. What is shown and where is `layout`'s to say;
here it is drawn. This is the one module that needs matplotlib, so import it only where pictures are made.
"""

import io
import textwrap
from collections.abc import Sequence
from typing import Final, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path
from matplotlib.text import Text

from core.graph.document import ERROR, LOGIT, TOKEN, GraphDocument
from core.graph.layout import Box, Layout, Point, lay_out

# In points, as layouts are; 72 make an inch.
_MARGIN: Final = 24.0
_ROW_NAMES: Final = 48.0
_HEAD: Final = 52.0
_DOTS_PER_INCH: Final = 160
_LINE_LETTERS: Final = 20

_INK: Final = "#22262b"
_FAINT: Final = "#7b838c"
_RAISES: Final = "#2a6fbb"
_LOWERS: Final = "#c8402f"
# Fill and border of boxes; features are white.
_FILLS: Final = {
    TOKEN: ("#fdf3dc", "#c9a54c"),
    LOGIT: ("#e3f3e6", "#4f9a60"),
    ERROR: ("#f3f3f3", "#a5a9ae"),
}
_FEATURE_FILL: Final = ("#ffffff", "#5d6a78")


def picture(
    document: GraphDocument, kind: Literal["png", "svg"] = "png", max_nodes: int = 30, max_links: int = 90
) -> bytes:
    """Draws a graph.

    Args:
        document: The graph.
        kind: The file format.
        max_nodes: Features and errors to show at most, the most influential.
        max_links: Links to show at most, those over which most flows.
    """
    figure = _draw(document, lay_out(document, max_nodes, max_links))
    content = io.BytesIO()
    if kind == "png":
        FigureCanvasAgg(figure).print_png(content)
    else:
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rayscope"}):  # text stays text; equal bytes
            FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None})
    return content.getvalue()


def _draw(document: GraphDocument, layout: Layout) -> Figure:
    left, right = -_ROW_NAMES - _MARGIN, layout.width + 2.5 * _MARGIN  # curves may bulge to the right
    bottom, top = -_MARGIN, layout.height + _HEAD + _MARGIN
    figure = Figure(figsize=((right - left) / 72, (top - bottom) / 72), dpi=_DOTS_PER_INCH, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    for name, middle in layout.rows:
        axes.axhline(middle, color="#eef0f2", lw=0.8, zorder=0)
        _write(axes, left + _MARGIN, middle, name, size=8, colour=_FAINT).set_bbox({"fc": "white", "ec": "none"})
    widest = max((abs(curve.flow) for curve in layout.curves), default=0.0)
    for curve in layout.curves:
        _link(axes, curve.points, curve.flow / widest if widest else 0.0)
    for box in layout.boxes:
        _node(axes, box)
    _head(axes, document, layout, left + _MARGIN, top - _MARGIN)
    return figure


def _head(axes: Axes, document: GraphDocument, layout: Layout, left: float, top: float) -> None:
    """What graph this is, how much of it is shown, and what the colours say."""
    title = textwrap.shorten(str(document.metadata.get("prompt", "")), max(20, int(layout.width / 7)), placeholder=" …")
    _write(axes, left, top - 8, title, size=12)
    n_boxes, n_curves = len(layout.boxes), len(layout.curves)
    shown = f"{n_boxes} of {len(document.nodes)} nodes, {n_curves} of {len(document.weights)} links"
    _write(axes, left, top - 27, shown, size=8, colour=_FAINT)
    _write(axes, left, top - 40, "raises", size=8, colour=_RAISES)
    _write(axes, left + 30, top - 40, "lowers", size=8, colour=_LOWERS)


def _node(axes: Axes, box: Box) -> None:
    fill, border = _FILLS.get(box.kind, _FEATURE_FILL)
    axes.add_patch(
        FancyBboxPatch(
            (box.x, box.y),
            box.width,
            box.height,
            boxstyle="round,pad=0,rounding_size=5",
            facecolor=fill,
            edgecolor=border,
            linewidth=0.9,
            linestyle="--" if box.kind == ERROR else "-",
            zorder=3,
        )
    )
    is_end = box.kind in {TOKEN, LOGIT}
    letters = int(_LINE_LETTERS * box.width / 104 * (0.8 if is_end else 1))
    lines = textwrap.wrap(box.text, letters, max_lines=1 if is_end else 2, placeholder="…")
    middle = (box.x + box.width / 2, box.y + box.height / 2)
    text = _write(
        axes, *middle, "\n".join(lines), size=9 if is_end else 7.5, colour=_FAINT if box.kind == ERROR else _INK
    )
    text.set(ha="center", linespacing=1.1)


def _link(axes: Axes, points: Sequence[Point], flow: float) -> None:
    axes.add_patch(
        PathPatch(
            Path(list(points), [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]),
            facecolor="none",
            edgecolor=_RAISES if flow > 0 else _LOWERS,
            linewidth=0.5 + 6 * abs(flow),
            alpha=0.25 + 0.55 * abs(flow) ** 0.5,
            zorder=1,
        )
    )


def _write(axes: Axes, x: float, y: float, text: str, *, size: float, colour: str = _INK) -> Text:
    """Text from (x, y) on, taken as it is: a dollar sign starts no formula."""
    return axes.text(x, y, text, fontsize=size, color=colour, va="center", parse_math=False, zorder=4)
