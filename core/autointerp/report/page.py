"""A report as one HTML file: it needs no network, runs no script, and shows every text of a model as text.

Explanations are what a language model wrote about texts from anywhere, so nothing of them may become markup. Besides
escaping them the page forbids the browser everything but its own styles and its picture.
"""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from core.autointerp.report.rows import Report, ReportedScore, TableRow
from core.autointerp.report.summary import Spread, spreads

_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLES: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22262b; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #c8cdd3; } td { border-bottom: 1px solid #e6e9ec; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.none { color: #7b838c; } img { max-width: 100%; }
"""
_SPREAD_HEADS: Final = (
    "scorer",
    "figure",
    "scores",
    "without",
    "mean",
    "lower quartile",
    "median",
    "upper quartile",
)


@dataclass(frozen=True, slots=True)
class _Cell:
    """Text of a table's cell, not yet escaped.

    Attributes:
        text: The text.
        style: Class of the cell, if any.
        title: What a pointer that rests on it is told.
    """

    text: str
    style: str = ""
    title: str = ""


def html_page(report: Report, histograms: bytes) -> str:
    """The page.

    Args:
        report: What it says.
        histograms: The picture of the scores, a PNG.
    """
    title = escape(report.title)
    features = _table(("feature", "explainer", "explanation", *report.scorers), map(_feature, report.table()))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{_STYLES}</style>
</head>
<body>
<h1>{title}</h1>
{_table((), ([_Cell(name), _Cell(value)] for name, value in report.facts))}
<h2>Scores</h2>
{_table(_SPREAD_HEADS, map(_spread, spreads(report)))}
<p><img alt="Histograms of scores by scorer" src="data:image/png;base64,{b64encode(histograms).decode()}"></p>
<h2>Features</h2>
{features}
</body>
</html>
"""


def _feature(row: TableRow) -> list[_Cell]:
    return [
        _Cell(f"{row.row.source} {row.row.index}"),
        _Cell(row.row.explainer),
        _Cell(row.explanation) if row.explanation else _Cell(row.reason, "none"),
        *map(_score, row.scores),
    ]


def _score(score: ReportedScore | None) -> _Cell:
    if score is None:
        return _Cell("")
    return _number(score.value) if score.value is not None else _Cell("none", "none", score.reason)


def _spread(spread: Spread) -> list[_Cell]:
    figures = spread.figures
    values = () if figures is None else (figures.mean, figures.lower, figures.median, figures.upper)
    counts = (_Cell(str(spread.count), "number"), _Cell(str(spread.without), "number"))
    return [_Cell(spread.name), _Cell(spread.metric.replace("_", " ")), *counts, *map(_number, values)]


def _number(value: float) -> _Cell:
    return _Cell(f"{value:.3f}", "number")


def _table(heads: Sequence[str], rows: Iterable[Sequence[_Cell]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "\n".join(f"<tr>{''.join(map(_html, row))}</tr>" for row in rows)
    return f"<table>\n{f'<thead><tr>{head}</tr></thead>' if head else ''}\n<tbody>\n{body}\n</tbody>\n</table>"


def _html(cell: _Cell) -> str:
    attributes = {"class": cell.style, "title": cell.title}
    said = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items() if value)
    return f"<td{said}>{escape(cell.text)}</td>"
