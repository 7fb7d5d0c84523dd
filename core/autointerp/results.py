"""What explainers and scorers give back.

A result says for itself whether it may be used: an explanation that could not be read is `parse_failed` and has no
text, a score too much of which could not be read is `invalid` and has no value. Neither is ever a number or a sentence
that looks like an answer. What a provider refuses (a bad key, no credit) is no result at all but an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from core.autointerp.language_model import Usage
from core.autointerp.metrics import Interval
from core.autointerp.scorers.rows import Row


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a feature stands for.

    Attributes:
        text: In words; empty if it could not be read.
        status: `ok`, or `parse_failed` if no answer had the form asked for.
        alternatives: Other explanations that were considered, best first.
        prompt_hash: sha256 of the messages asked, to tell results of different prompts apart.
        usage: What all answers cost, unread ones too.
    """

    text: str
    status: Literal["ok", "parse_failed"]
    prompt_hash: str
    usage: Usage
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """How good an explanation, or a feature, is.

    Attributes:
        value: The figure; None if `invalid`.
        metric: What it is a figure of: `balanced_accuracy`, `auc`, `accuracy`, `correlation`.
        status: `ok` if every row was judged, `partial` if some failed, `invalid` if too many did or what is left tells
            nothing.
        reason: Why it is invalid.
        interval: The value's 95 % interval, where it has one.
        metrics: All figures that the rows have, by name.
        by_quantile: The figure on each part of the feature's range, where the examples say theirs; of a balanced
            accuracy, the recall.
        rows: What was judged, in the order asked.
        usage: What all answers cost, unread ones too.
    """

    value: float | None
    metric: str
    status: Literal["ok", "partial", "invalid"]
    rows: tuple[Row, ...]
    usage: Usage
    reason: str | None = None
    interval: Interval | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    by_quantile: Mapping[int, float] = field(default_factory=dict[int, float])
