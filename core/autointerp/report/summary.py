"""A scorer's scores in a few figures."""

from dataclasses import dataclass
from statistics import fmean, quantiles

from core.autointerp.report.rows import GROUPS, Group, Report


@dataclass(frozen=True, slots=True)
class Figures:
    """Where numbers lie.

    Attributes:
        mean: Their mean.
        lower: Lower quartile.
        median: Median.
        upper: Upper quartile.
    """

    mean: float
    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: list[float]) -> "Figures":
        """Those of at least one number; of a single one all are that number."""
        lower, median, upper = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return cls(fmean(values), lower, median, upper)


@dataclass(frozen=True, slots=True)
class Spread:
    """How the scores of a scorer in a group spread.

    Attributes:
        scorer: Whose.
        group: What was scored.
        metric: What they are figures of.
        count: How many are numbers.
        without: How many are none.
        figures: Where they lie; None without a number.
    """

    scorer: str
    group: Group
    metric: str
    count: int
    without: int
    figures: Figures | None

    @property
    def name(self) -> str:
        """How a table calls it."""
        return self.scorer if self.group == "features" else f"{self.scorer}, {self.group}"


def spreads(report: Report) -> list[Spread]:
    """One for each scorer and group that has scores."""
    found: list[Spread] = []
    for scorer in report.scorers:
        for group in GROUPS:
            scores, values = report.of(scorer, group), report.values(scorer, group)
            if scores:
                figures = Figures.of(values) if values else None
                without = len(scores) - len(values)
                found.append(Spread(scorer, group, report.metric(scorer), len(values), without, figures))
    return found
