"""Histograms of scores, a panel for each scorer: what explanations get, and what baselines get beside them.

This is the one module of autointerp that needs matplotlib, so import it only where pictures are made.
"""

import io
import math
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from core.autointerp.report.rows import GROUPS, Report

_BINS: Final = 20
_ACROSS: Final = 3
_PANEL_INCHES: Final = (4.2, 3.0)
_DOTS_PER_INCH: Final = 150
_CHANCE: Final = {"balanced_accuracy": 0.5, "auc": 0.5}
_SIGNED: Final = frozenset(("correlation",))
_INK: Final = "#22262b"
_BARS: Final = "#2a6fbb"
_BASELINES: Final = {"random explanations": "#c9a54c", "random SAE": "#c8402f"}
_STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def histograms_png(report: Report) -> bytes:
    """The histograms of all scorers that gave a number, as a PNG."""
    scorers = [scorer for scorer in report.scorers if any(report.values(scorer, group) for group in GROUPS)]
    across = min(_ACROSS, max(1, len(scorers)))
    down = max(1, math.ceil(len(scorers) / across))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_PANEL_INCHES[0] * across, _PANEL_INCHES[1] * down + 0.4), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(report.title, fontsize=11)
        panels = figure.subplots(down, across, squeeze=False).flatten()
        for panel in panels[len(scorers) :]:
            panel.axis("off")
        if not scorers:
            panels[0].text(0.5, 0.5, "no scores", ha="center", va="center")
        for panel, scorer in zip(panels, scorers, strict=False):
            _draw(panel, report, scorer)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=_DOTS_PER_INCH)
    return content.getvalue()


def _draw(panel: Axes, report: Report, scorer: str) -> None:
    metric, values = report.metric(scorer), report.values(scorer, "features")
    lowest = -1.0 if metric in _SIGNED else 0.0
    edges = [lowest + (1.0 - lowest) * i / _BINS for i in range(_BINS + 1)]
    panel.hist(values, edges, color=_BARS, edgecolor="white", label=f"features ({len(values)})")
    for group in GROUPS[1:]:
        others = report.values(scorer, group)
        if others:
            label = f"{group} ({len(others)})"
            panel.hist(others, edges, histtype="step", color=_BASELINES[group], linewidth=1.8, label=label)
    if metric in _CHANCE:
        panel.axvline(_CHANCE[metric], color=_INK, linestyle=":", linewidth=1.0, label="chance")
    panel.set_title(scorer, fontsize=10)
    panel.set_xlabel(metric.replace("_", " "))
    panel.set_ylabel("features")
    panel.set_xlim(lowest, 1.0)
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    # Below, since bars may be anywhere.
    panel.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(GROUPS) + 1)
