"""A report as plain values: explanations and scores of features, and the scores that those are to be compared with.

    lines of a job's results --report_of--> Report -> summary, histograms, page

The lines are those that a job hands out (`core.autointerp.jobs.results.as_line`), so a run in this process and one on a
cluster are reported alike.

Deliberately not here: how a report looks.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

Group = Literal["features", "random explanations", "random SAE"]
GROUPS: Final[tuple[Group, ...]] = ("features", "random explanations", "random SAE")
"""What was scored: what was asked for, the same features under others' explanations, features that mean nothing."""
_GROUP_OF: Final[dict[str | None, Group]] = {"random-explanation": GROUPS[1], "random-sae": GROUPS[2]}
_REASONS: Final = 3

Line = Mapping[str, Any]
"""A result: one line of a job's results."""


@dataclass(frozen=True, slots=True)
class Row:
    """A feature under one explainer.

    Attributes:
        source: Source id.
        index: Index in the source.
        explainer: The explainer's label; empty for what is scored without an explanation.
    """

    source: str
    index: int
    explainer: str


@dataclass(frozen=True, slots=True)
class ReportedExplanation:
    """An explanation, or why there is none."""

    row: Row
    text: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReportedScore:
    """A score.

    Attributes:
        row: Of what.
        scorer: The scorer's label.
        group: What was scored.
        value: The figure; None if there is none.
        metric: What it is a figure of; empty if that is not known, as there is none.
        reason: Why there is none.
    """

    row: Row
    scorer: str
    group: Group
    value: float | None
    metric: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TableRow:
    """What a table says of a feature: its explanation and its scores in the order of the scorers."""

    row: Row
    explanation: str
    reason: str
    scores: tuple[ReportedScore | None, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What is reported.

    Attributes:
        title: What was run.
        facts: Name and value of whatever is worth knowing of the run, in order.
        explanations: All of them, those of a random SAE left out.
        scores: All of them.
        scorers: Labels of the scorers, in order.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    explanations: tuple[ReportedExplanation, ...]
    scores: tuple[ReportedScore, ...]
    scorers: tuple[str, ...]

    def of(self, scorer: str, group: Group) -> list[ReportedScore]:
        """The scores of a scorer in a group."""
        return [score for score in self.scores if score.scorer == scorer and score.group == group]

    def values(self, scorer: str, group: Group) -> list[float]:
        """Those that are numbers."""
        return [score.value for score in self.of(scorer, group) if score.value is not None]

    def metric(self, scorer: str) -> str:
        """What a scorer's figures are; empty if it has given none."""
        return next((score.metric for score in self.scores if score.scorer == scorer and score.metric), "")

    def table(self) -> list[TableRow]:
        """The features that were asked for, the best first.

        What is scored without an explanation stands in the rows of the feature's explanations, if it has any.
        """
        words = {one.row: one for one in self.explanations}
        scores = {(one.row, one.scorer): one for one in self.scores if one.group == "features"}
        explained = {(row.source, row.index) for row in words}
        alone = (row for row, _ in scores if row.explainer or (row.source, row.index) not in explained)
        found: list[TableRow] = []
        for row in dict.fromkeys([*words, *alone]):
            itself = replace(row, explainer="")
            own = tuple(scores.get((row, scorer), scores.get((itself, scorer))) for scorer in self.scorers)
            said = words.get(row, ReportedExplanation(row, ""))
            found.append(TableRow(row, said.text, said.reason, own))
        return sorted(found, key=lambda one: (-_mean(one), one.row.source, one.row.index, one.row.explainer))


def report_of(title: str, facts: Iterable[tuple[str, str]], scorers: Iterable[str], lines: Sequence[Line]) -> Report:
    """The report of a job's results.

    Args:
        title: What was run.
        facts: What is worth knowing of the run; what the results cost is added.
        scorers: Labels of the scorers that were asked for.
        lines: The results.
    """
    explanations: list[ReportedExplanation] = []
    scores: list[ReportedScore] = []
    for line in lines:
        row = Row(line["source"], line["index"], line["explainer"] or "")
        group = _GROUP_OF.get(line["baseline"], GROUPS[0])
        reason = line["reason"] or ""
        if line["kind"] == "score":
            scores.append(ReportedScore(row, line["scorer"], group, line["value"], line["metric"] or "", reason))
        elif group == "features":
            explanations.append(ReportedExplanation(row, line["explanation"] or "", reason))
    return Report(title, (*facts, *_costs(lines)), tuple(explanations), tuple(scores), tuple(scorers))


def _costs(lines: Sequence[Line]) -> Iterable[tuple[str, str]]:
    states = Counter(line["state"] for line in lines)
    yield "results", ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    reasons = Counter(line["reason"] for line in lines if line["reason"])
    for reason, count in reasons.most_common(_REASONS):
        yield f"{count} without, as", reason
    calls, read, written = (
        sum(line[name] or 0 for line in lines) for name in ("calls", "prompt_tokens", "completion_tokens")
    )
    yield "asked", f"{calls:,} calls, {read:,} tokens read, {written:,} written"
    costs = [line["cost_usd"] for line in lines if line["cost_usd"] is not None]
    yield "cost", f"${sum(costs):.4f}" if costs else "not known"


def _mean(row: TableRow) -> float:
    values = [score.value for score in row.scores if score is not None and score.value is not None]
    return sum(values) / len(values) if values else float("-inf")
