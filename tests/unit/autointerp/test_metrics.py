"""Figures agree with scikit-learn and scipy; what has no figure has none."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from core.autointerp.metrics import (
    auc,
    auc_interval,
    balanced_accuracy_interval,
    confusion,
    judge,
    peer_score,
    wilson,
)
from core.errors import InvalidRequest

TRUTH_AND_ANSWER = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
# Few different values, so that ties are common.
TRUTH_AND_VALUE = st.lists(st.tuples(st.booleans(), st.integers(0, 6).map(lambda n: n / 6)), min_size=2, max_size=60)


@given(TRUTH_AND_ANSWER)
@settings(deadline=None)
def test_rates_are_scikit_learns(rows: list[tuple[bool, bool]]) -> None:
    truth, answer = zip(*rows, strict=True)
    ours = confusion(truth, answer)
    if any(truth):
        assert ours.recall == pytest.approx(recall_score(truth, answer))
        assert ours.f1 == pytest.approx(f1_score(truth, answer, zero_division=0))
    else:
        assert (ours.recall, ours.f1) == (None, None)
    if any(answer):
        assert ours.precision == pytest.approx(precision_score(truth, answer))
    else:
        assert ours.precision is None
    if any(truth) and not all(truth):
        assert ours.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, answer))
    else:
        assert ours.balanced_accuracy is None


@given(TRUTH_AND_VALUE)
@settings(deadline=None)
def test_auc_is_scikit_learns_ties_included(rows: list[tuple[bool, float]]) -> None:
    truth, values = zip(*rows, strict=True)
    assume(any(truth) and not all(truth))
    assert auc(truth, values) == pytest.approx(roc_auc_score(truth, values))


def test_one_class_has_no_auc() -> None:
    assert auc([True, True], [0.1, 0.2]) is None
    assert auc_interval([True, True], [0.1, 0.2], seed=1) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InvalidRequest, match="not finite"):
        auc([True, False], [value, 0.0])


@given(trials=st.integers(1, 500), share=st.floats(0, 1))
@settings(deadline=None)
def test_wilsons_interval_is_scipys(trials: int, share: float) -> None:
    successes = round(share * trials)
    theirs = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    ours = wilson(successes, trials)
    assert ours is not None
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=1e-12), pytest.approx(theirs.high, abs=1e-12))


def test_no_trial_has_no_interval() -> None:
    assert wilson(0, 0) is None


def test_the_bootstrap_of_balanced_accuracy_is_that_of_resampled_rows() -> None:
    truth = np.array([True] * 40 + [False] * 30)
    answer = np.array([True] * 30 + [False] * 10 + [True] * 6 + [False] * 24)
    stream = np.random.default_rng(0)
    scores = []
    for _ in range(4000):
        rows = np.concatenate([stream.choice(40, 40), 40 + stream.choice(30, 30)])
        scores.append(balanced_accuracy_score(truth[rows], answer[rows]))
    ours = balanced_accuracy_interval(confusion(truth.tolist(), answer.tolist()), seed=3)
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), abs=0.015)


def test_the_bootstrap_of_the_auc_is_that_of_resampled_rows() -> None:
    stream = np.random.default_rng(0)
    truth = np.array([True] * 25 + [False] * 35)
    values = np.round(np.where(truth, stream.normal(0.6, 0.2, 60), stream.normal(0.4, 0.2, 60)), 1)
    scores = []
    for _ in range(3000):
        rows = np.concatenate([stream.choice(25, 25), 25 + stream.choice(35, 35)])
        scores.append(roc_auc_score(truth[rows], values[rows]))
    ours = auc_interval(truth.tolist(), values.tolist(), seed=3)
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), abs=0.02)


def test_the_seed_decides_the_interval_and_global_randomness_nothing() -> None:
    counts = confusion([True] * 20 + [False] * 20, [True] * 13 + [False] * 7 + [True] * 4 + [False] * 16)
    np.random.seed(0)
    first = balanced_accuracy_interval(counts, seed=1)
    np.random.seed(1)
    assert balanced_accuracy_interval(counts, seed=1) == first
    assert balanced_accuracy_interval(counts, seed=2) != first


def figures(truth, prediction, probability=None, quantile=None, **kwargs):
    blank = [None] * len(truth)
    return judge(truth, prediction, probability or blank, quantile or blank, seed=1, **kwargs)


def test_failed_rows_count_only_as_failed() -> None:
    score = figures([True] * 5 + [False] * 5, [True, True, True, False, None, *[False] * 4, None])
    assert (score.status, score.failed, score.failure_rate) == ("ok", 2, pytest.approx(0.2))
    assert score.balanced_accuracy == pytest.approx((3 / 4 + 1) / 2)
    assert score.balanced_accuracy_interval is not None
    assert score.balanced_accuracy_interval.low <= 0.875 <= score.balanced_accuracy_interval.high
    assert score.auc is None


def test_too_many_failures_are_no_score() -> None:
    score = figures([True, True, False, False], [True, None, False, False])
    assert (score.status, score.balanced_accuracy, score.balanced_accuracy_interval) == ("invalid", None, None)
    assert score.reason == "25% of the examples have no usable answer, 20% may"
    assert figures([True, True, False, False], [True, None, False, False], max_failure_rate=0.25).status == "ok"


@pytest.mark.parametrize(
    ("truth", "prediction", "missing"),
    [
        ([True] * 4, [True] * 4, "silent"),
        ([False] * 4, [True] * 4, "active"),
        ([True, *[False] * 9], [None] + [False] * 9, "active"),
    ],
)
def test_one_class_only_is_no_score(truth: list[bool], prediction: list[bool | None], missing: str) -> None:
    score = figures(truth, prediction)
    assert (score.status, score.balanced_accuracy) == ("invalid", None)
    assert score.reason is not None
    assert f"no {missing} example" in score.reason


def test_nothing_answered_is_no_score() -> None:
    score = figures([True, False], [None, None], [None, None])
    assert (score.status, score.failure_rate, score.auc) == ("invalid", 1.0, None)


def test_probabilities_give_an_auc_if_every_answered_row_has_one() -> None:
    truth, prediction = [True, True, False, False, True], [True, False, False, True, None]
    full = figures(truth, prediction, [0.9, 0.4, 0.1, 0.6, None])
    assert full.auc == pytest.approx(roc_auc_score(truth[:4], [0.9, 0.4, 0.1, 0.6]))
    assert full.auc_interval is not None
    assert figures(truth, prediction, [0.9, None, 0.1, 0.6, None]).auc is None


def test_recall_is_told_by_quantile() -> None:
    truth = [True] * 6 + [False]
    prediction = [True, False, True, True, None, False, False]
    by_quantile = figures(truth, prediction, quantile=[1, 1, 2, 2, 2, None, 1]).by_quantile
    assert [(one.quantile, one.answered, one.recall) for one in by_quantile] == [(1, 2, 0.5), (2, 2, 1.0)]
    assert by_quantile[0].interval == wilson(1, 2)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_a_probability_out_of_range_is_refused(probability: float) -> None:
    with pytest.raises(InvalidRequest, match="probability"):
        figures([True, False], [True, False], [probability, 0.5])


def test_columns_of_different_lengths_and_no_rows_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        judge([True], [True], [None], [], seed=1)
    with pytest.raises(InvalidRequest):
        figures([], [])


@pytest.mark.parametrize(
    ("truth", "prediction", "score"),
    [
        ([True, False], [True, True], 0.5),
        ([True, False], [True, False], 1.0),
        ([True, False], [False, True], 0.0),
        ([False, False], [False, True], 0.25),
        ([True, True], [True, True], 0.0),
        ([True, False, False], [None, False, None], 0.5),
    ],
)
def test_the_peers_score_counts_a_missing_class_as_nothing(
    truth: list[bool], prediction: list[bool | None], score: float
) -> None:
    assert peer_score(truth, prediction) == score
