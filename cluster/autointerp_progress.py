"""What a terminal shows of a job: how far it is while it goes on, and what it came to.

    caching     ━━━━━━━━  390/390 windows      21,300 tokens/s        0:00:00
    explaining  ━━━━╸         6/10            2.1/s  1 failed         0:00:02
    scoring     ━━╸           9/20            4.0/s  $0.0131          0:00:03

It is told what a job tells (`core.autointerp.jobs`), be it in this process or on a cluster. Where there is no terminal
it prints a line now and then instead.
"""

from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from core.autointerp.report.rows import Line, Report, ReportedScore
from core.autointerp.report.summary import spreads
from core.clock import SYSTEM_CLOCK, Clock

_BETWEEN_LINES_S: Final = 5.0
_SHOWN_FEATURES: Final = 20
_STAGES: Final = {"explain": "explaining", "score": "scoring"}


class JobProgress:
    """Shows a job; a context manager.

    Args:
        console: Where.
        shares: Which share of a job's units explains and which scores, by kind.
        clock: Measures time between lines.
    """

    def __init__(self, console: Console, shares: Mapping[str, float], clock: Clock = SYSTEM_CLOCK) -> None:
        self._console = console
        self._shares = shares
        self._clock = clock
        self._states = {kind: Counter[str]() for kind in _STAGES}
        self._tasks: dict[str, TaskID] = {}
        self._told_s = clock.monotonic()
        self._said: dict[str, str] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def result(self, line: Line) -> None:
        """A unit has ended."""
        self._states[line["kind"]][line["state"]] += 1

    def status(self, told: Mapping[str, Any]) -> None:
        """How the job stands.

        Args:
            told: `total`, `units_per_s`, `spent_usd` and `caching`, as far as they are known.
        """
        caching = told.get("caching")
        if caching:
            self._caching(caching)
        total = told.get("total") or 0
        for kind in _STAGES:
            of = round(total * self._shares.get(kind, 0.0))
            if of:
                self._stage(kind, of, told)
        self._line()

    def _caching(self, told: Mapping[str, Any]) -> None:
        rate = told.get("tokens_per_s")
        recording = told["stage"] == "recording"
        said = "windows" if recording else "features"
        if rate:
            said = f"{said}, {rate:,.0f} tokens/s"
        self._show("caching" if recording else "distilling", told["done"], told["of"], said)

    def _stage(self, kind: str, of: int, told: Mapping[str, Any]) -> None:
        states = self._states[kind]
        done = sum(states.values())
        rate = told.get("units_per_s")
        said = [f"{rate:.1f} units/s"] if rate and done < of else []
        said += [f"{states[state]} {state}" for state in ("failed", "skipped") if states[state]]
        spent = told.get("spent_usd")
        if spent and kind == "score":
            said.append(f"${spent:.4f}")
        self._show(_STAGES[kind], done, of, ", ".join(said))

    def _show(self, name: str, done: int, of: int, said: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=of, said=said)
        seen = self._bars.tasks[self._tasks[name]]
        is_new = (seen.completed, seen.total) != (done, of) or not done
        self._bars.update(self._tasks[name], completed=done, total=of, said=said)
        if is_new and not self._console.is_terminal:
            self._said[name] = f"{name} {done}/{of} {said}".strip()

    def _line(self) -> None:
        """Without a terminal: what has changed, unless something was said a moment ago."""
        if not self._said or self._clock.monotonic() - self._told_s < _BETWEEN_LINES_S:
            return
        self._console.print("; ".join(self._said.values()), markup=False, highlight=False, soft_wrap=True)
        self._told_s, self._said = self._clock.monotonic(), {}


def print_report(console: Console, report: Report) -> None:
    """Prints a report: the best features, and how scores spread."""
    _print_features(console, report)
    table = Table("scorer", "figure", title="scores")
    for head in ("scores", "without", "mean", "lower quartile", "median", "upper quartile"):
        table.add_column(head, justify="right")
    for spread in spreads(report):
        figures = spread.figures
        numbers = () if figures is None else (figures.mean, figures.lower, figures.median, figures.upper)
        table.add_row(
            escape(spread.name),
            spread.metric.replace("_", " "),
            str(spread.count),
            str(spread.without),
            *(f"{number:.3f}" for number in numbers),
        )
    console.print(table)
    for name, value in report.facts:
        console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)


def _print_features(console: Console, report: Report) -> None:
    rows = report.table()
    if not rows:
        return
    left_out = f" (the best {_SHOWN_FEATURES} of {len(rows)})" if len(rows) > _SHOWN_FEATURES else ""
    table = Table("feature", "explanation", title=f"features{left_out}")
    for scorer in report.scorers:
        table.add_column(escape(scorer), justify="right")
    for row in rows[:_SHOWN_FEATURES]:
        table.add_row(
            f"{row.row.source} {row.row.index}",
            escape(row.explanation or row.reason),
            *map(_figure, row.scores),
        )
    console.print(table)


def _figure(score: ReportedScore | None) -> str:
    if score is None:
        return ""
    return "none" if score.value is None else f"{score.value:.3f}"
