"""What a report makes of a job's results."""

import pytest

from core.autointerp.report.summary import spreads

from .made import explanation, report, result, score


def test_a_table_has_a_row_for_each_explained_feature_and_the_best_is_first() -> None:
    made = report(explanation(3, "cats"), explanation(5, "dogs"), score(3, 0.6), score(5, 0.9))
    assert [(one.row.index, one.explanation) for one in made.table()] == [(5, "dogs"), (3, "cats")]
    best = made.table()[0].scores
    assert [None if one is None else one.value for one in best] == [0.9, None, None]


def test_a_feature_without_any_score_is_last_and_says_why_it_has_no_explanation() -> None:
    failed = result(1, "explain/default", None, reason="The provider refused.")
    rows = report(failed, explanation(2, "dogs"), score(2, 0.1)).table()
    assert [(one.row.index, one.reason) for one in rows] == [(2, ""), (1, "The provider refused.")]


def test_scores_of_baselines_are_in_groups_of_their_own_and_in_no_row_of_the_table() -> None:
    made = report(
        explanation(1, "cats"),
        score(1, 0.9),
        score(1, 0.5, "score/default/detection/random-explanation"),
        explanation(7, "noise", source="1-random-res-demo"),
        score(7, 0.55, source="1-random-res-demo"),
    )
    assert [made.values("detection", group) for group in ("features", "random explanations", "random SAE")] == [
        [0.9],
        [0.5],
        [0.55],
    ]
    assert [one.row.source for one in made.table()] == ["1-res-demo"]


def test_what_is_scored_without_an_explanation_stands_beside_the_features_explanation() -> None:
    made = report(score(1, 0.4, "score/-/intruder"), explanation(1, "cats"), score(1, 0.8))
    (row,) = made.table()
    assert row.explanation == "cats"
    assert [None if one is None else one.value for one in row.scores] == [0.8, None, 0.4]


def test_a_feature_that_nobody_explained_has_a_row_without_an_explanation() -> None:
    made = report(score(1, 0.4, "score/-/intruder"))
    assert [(one.row.explainer, one.explanation) for one in made.table()] == [("", "")]


def test_a_summary_counts_scores_that_are_none_and_leaves_them_out_of_the_figures() -> None:
    made = report(
        score(1, 0.5), score(2, 0.7), score(3, 0.9), score(4, None), result(5, "score/default/detection", None)
    )
    (spread,) = spreads(made)
    assert (spread.count, spread.without, spread.metric) == (3, 2, "balanced_accuracy")
    assert spread.figures is not None
    assert spread.figures.mean == pytest.approx(0.7)
    assert (spread.figures.lower, spread.figures.median, spread.figures.upper) == pytest.approx((0.6, 0.7, 0.8))


def test_a_summary_of_one_score_is_that_score_and_of_none_has_no_figures() -> None:
    one, nothing = spreads(report(score(1, 0.5), score(1, None, "score/default/fuzz")))
    assert one.figures is not None and one.figures.lower == one.figures.upper == 0.5
    assert nothing.figures is None


def test_a_report_says_what_the_results_cost() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 20, "cost_usd": 0.5, "calls": 2}
    paid = result(1, "explain/default", {"text": "cats", "usage": usage})
    facts = dict(report(paid, explanation(2, "dogs"), result(3, "explain/default", None)).facts)
    assert facts["asked"] == "2 calls, 1,000 tokens read, 20 written"
    assert facts["cost"] == "$0.5000"
    assert facts["results"] == "2 done, 1 failed"
    assert dict(report(explanation(2, "dogs")).facts)["cost"] == "not known"
