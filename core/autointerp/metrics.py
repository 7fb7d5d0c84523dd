"""What a scorer's answers amount to: rates, their 95 % intervals, and whether there is a score at all.

All functions take plain columns: what is true of each example, what was answered (None: nothing usable), with which
probability. Failed rows count in `failure_rate` and nowhere else; a score that rests on too few answers, or on one
class only, is `invalid` with a reason, never a number.

    rate                             interval
    recall, specificity, precision   Wilson's
    balanced accuracy, AUC           percentile bootstrap within each class, with a seed of its own

Formulas: Wilson, "Probable inference, the law of succession, and statistical inference" (1927); AUC as the
Mann-Whitney statistic with ties counted half (Hanley and McNeil, 1982); the bootstrap of Efron (1979).

`peer_score` is the one exception to the rule of the degenerate classes: the compatible routes answer what the peer's
answer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from core.errors import InvalidRequest

Z_95: Final = 1.959963984540054
"""The normal quantile that leaves 2.5 % on each side."""
MAX_FAILURE_RATE: Final = 0.2
_RESAMPLES: Final = 2000
_TAILS: Final = (0.025, 0.975)
# A resample of the AUC touches every pair; beyond this the pairs would not fit.
_MAX_BOOTSTRAP_PAIRS: Final = 4_000_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of the answered rows. A rate whose denominator is 0 is None."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @property
    def positives(self) -> int:
        """Rows that are active."""
        return self.true_positives + self.false_negatives

    @property
    def negatives(self) -> int:
        """Rows that are silent."""
        return self.true_negatives + self.false_positives

    @property
    def recall(self) -> float | None:
        """Share of the active that were found."""
        return _ratio(self.true_positives, self.positives)

    @property
    def specificity(self) -> float | None:
        """Share of the silent that were left out."""
        return _ratio(self.true_negatives, self.negatives)

    @property
    def precision(self) -> float | None:
        """Share of the found that are active."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; 0 if nothing was found, None without an active row."""
        if self.positives == 0:
            return None
        return 2 * self.true_positives / (self.positives + self.true_positives + self.false_positives)

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of recall and specificity; None if a class is missing."""
        if self.recall is None or self.specificity is None:
            return None
        return (self.recall + self.specificity) / 2


@dataclass(frozen=True, slots=True)
class QuantileRate:
    """How many of a quantile's active examples were found.

    Attributes:
        quantile: Which, 1 the weakest.
        answered: Rows that rest on an answer.
        recall: Share found.
        interval: Wilson's.
    """

    quantile: int
    answered: int
    recall: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class ScoreMetrics:
    """All of a classification scorer's figures.

    Attributes:
        status: `ok`, or `invalid` with a `reason`; then `balanced_accuracy` is None whatever the counts.
        reason: Why there is no score.
        confusion: Counts of the answered rows.
        balanced_accuracy: The score.
        balanced_accuracy_interval: Its interval.
        auc: Area under the ROC curve of the probabilities; None unless every answered row has one.
        auc_interval: Its interval.
        failed: Rows without a usable answer.
        failure_rate: Their share.
        by_quantile: Recall by quantile, weakest first.
    """

    status: Literal["ok", "invalid"]
    reason: str | None
    confusion: Confusion
    balanced_accuracy: float | None
    balanced_accuracy_interval: Interval | None
    auc: float | None
    auc_interval: Interval | None
    failed: int
    failure_rate: float
    by_quantile: tuple[QuantileRate, ...]


def judge(
    truth: Sequence[bool],
    prediction: Sequence[bool | None],
    probability: Sequence[float | None],
    quantile: Sequence[int | None],
    *,
    seed: int,
    max_failure_rate: float = MAX_FAILURE_RATE,
) -> ScoreMetrics:
    """The figures of one scorer's rows.

    Args:
        truth: Whether the feature fires, `[rows]`.
        prediction: What was answered; None where nothing usable was.
        probability: Probability that it fires, where the scorer has one.
        quantile: The quantile of an active row, where known.
        seed: Of the bootstrap.
        max_failure_rate: Largest share of rows without an answer that still gives a score.

    Raises:
        InvalidRequest: The columns differ in length, there are no rows, or a probability is outside [0, 1].
    """
    n = len(truth)
    if n == 0 or {len(prediction), len(probability), len(quantile)} != {n}:
        raise InvalidRequest(
            "a score needs at least one row and as many answers, probabilities and quantiles as truths"
        )
    if any(value is not None and not 0.0 <= value <= 1.0 for value in probability):
        raise InvalidRequest("a probability lies in [0, 1]")
    answered = [row for row in range(n) if prediction[row] is not None]
    counts = confusion(truth, prediction)
    chances = [value for row in answered if (value := probability[row]) is not None]
    with_chances = chances if answered and len(chances) == len(answered) else None
    kept = [truth[row] for row in answered]
    rate = 1 - len(answered) / n
    reason = _refusal(counts, rate, max_failure_rate)
    area = auc(kept, with_chances) if with_chances is not None and reason is None else None
    return ScoreMetrics(
        status="ok" if reason is None else "invalid",
        reason=reason,
        confusion=counts,
        balanced_accuracy=counts.balanced_accuracy if reason is None else None,
        balanced_accuracy_interval=balanced_accuracy_interval(counts, seed) if reason is None else None,
        auc=area,
        auc_interval=auc_interval(kept, with_chances, seed) if with_chances is not None and area is not None else None,
        failed=n - len(answered),
        failure_rate=rate,
        by_quantile=_by_quantile(truth, prediction, quantile),
    )


def _refusal(counts: Confusion, failure_rate: float, limit: float) -> str | None:
    if failure_rate > limit:
        return f"{failure_rate:.0%} of the examples have no usable answer, {limit:.0%} may"
    if counts.positives == 0 or counts.negatives == 0:
        missing = "active" if counts.positives == 0 else "silent"
        return f"no {missing} example was answered, and a score needs both kinds"
    return None


def confusion(truth: Sequence[bool], prediction: Sequence[bool | None]) -> Confusion:
    """Counts of truths and answers `[rows]`; a row without an answer is not counted."""
    cells = [(told, found) for told, found in zip(truth, prediction, strict=True) if found is not None]
    return Confusion(
        true_positives=sum(told and found for told, found in cells),
        false_positives=sum(found and not told for told, found in cells),
        true_negatives=sum(not told and not found for told, found in cells),
        false_negatives=sum(told and not found for told, found in cells),
    )


def peer_score(truth: Sequence[bool], prediction: Sequence[bool | None]) -> float:
    """Balanced accuracy as the peer counts it: 0 if no silent row was answered, half the specificity if no active."""
    counts = confusion(truth, prediction)
    if counts.specificity is None:
        return 0.0
    return ((counts.recall or 0.0) + counts.specificity) / 2


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def auc(truth: Sequence[bool], values: Sequence[float]) -> float | None:
    """Probability that an active row's value exceeds a silent one's, ties counted half; None if a class is missing.

    Raises:
        InvalidRequest: A value is not finite.
    """
    active, silent = _classes(truth, values)
    if not len(active) or not len(silent):
        return None
    ordered = np.sort(silent)
    below = np.searchsorted(ordered, active, side="left")
    not_above = np.searchsorted(ordered, active, side="right")
    return float((below + not_above).sum() / (2 * len(active) * len(silent)))


def _classes(truth: Sequence[bool], values: Sequence[float]) -> tuple[Floats, Floats]:
    is_active, column = np.asarray(truth, dtype=bool), np.asarray(values, dtype=np.float64)
    if is_active.shape != column.shape:
        raise InvalidRequest(f"{len(truth)} truths came with {len(values)} values")
    if not np.isfinite(column).all():
        raise InvalidRequest("a value to rank by is not finite")
    return column[is_active], column[~is_active]


def wilson(successes: int, trials: int) -> Interval | None:
    """Wilson's 95 % interval of a rate; None without a trial."""
    if trials == 0:
        return None
    rate, z2 = successes / trials, Z_95 * Z_95
    centre = rate + z2 / (2 * trials)
    reach = Z_95 * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    scale = 1 + z2 / trials
    return Interval(max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale))


def balanced_accuracy_interval(counts: Confusion, seed: int) -> Interval | None:
    """Bootstrap interval of the balanced accuracy; None if a class is missing.

    Resampling rows within a class draws its number of right answers from a binomial distribution, so that is drawn. A
    score of exactly 0 or 1 has an interval of no width, as every bootstrap's.
    """
    if counts.recall is None or counts.specificity is None:
        return None
    stream = np.random.default_rng(seed)
    recall = stream.binomial(counts.positives, counts.recall, _RESAMPLES) / counts.positives
    specificity = stream.binomial(counts.negatives, counts.specificity, _RESAMPLES) / counts.negatives
    return _percentiles((recall + specificity) / 2)


def auc_interval(truth: Sequence[bool], values: Sequence[float], seed: int) -> Interval | None:
    """Bootstrap interval of the AUC; None if a class is missing or there are more than four million pairs."""
    active, silent = _classes(truth, values)
    if not len(active) or not len(silent) or len(active) * len(silent) > _MAX_BOOTSTRAP_PAIRS:
        return None
    stream = np.random.default_rng(seed)
    wins = (active[:, None] > silent) + 0.5 * (active[:, None] == silent)
    weights_active = stream.multinomial(len(active), np.full(len(active), 1 / len(active)), _RESAMPLES) / len(active)
    weights_silent = stream.multinomial(len(silent), np.full(len(silent), 1 / len(silent)), _RESAMPLES) / len(silent)
    return _percentiles(((weights_active @ wins) * weights_silent).sum(axis=1))


def _percentiles(resampled: Floats) -> Interval:
    low, high = np.quantile(resampled, _TAILS)
    return Interval(float(low), float(high))


def _by_quantile(
    truth: Sequence[bool], prediction: Sequence[bool | None], quantile: Sequence[int | None]
) -> tuple[QuantileRate, ...]:
    found: dict[int, list[bool]] = {}
    for told, answer, part in zip(truth, prediction, quantile, strict=True):
        if told and answer is not None and part is not None:
            found.setdefault(part, []).append(answer)
    rates: list[QuantileRate] = []
    for part, answers in sorted(found.items()):
        interval = wilson(sum(answers), len(answers))
        if interval is not None:
            rates.append(QuantileRate(part, len(answers), sum(answers) / len(answers), interval))
    return tuple(rates)
