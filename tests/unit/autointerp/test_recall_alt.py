"""Recall of Neuronpedia's kind: one question per text, and what is no JSON is a failed row, never a no."""

import asyncio
import json
from collections.abc import Callable

import pytest

from core.autointerp.examples import FeatureRecord
from core.autointerp.language_model import Ask
from core.autointerp.scorers.recall_alt import RecallAltParameters, RecallAltScorer, read_match
from core.autointerp.scorers.rows import Judgement
from core.errors import InvalidRequest, ProviderCredits

from .scripted import Answer, ScriptedModel, cats_and_stones, in_turn


def scorer(model: ScriptedModel, **parameters: object) -> RecallAltScorer:
    return RecallAltScorer(model, RecallAltParameters.model_validate(parameters))


def matching(fits: Callable[[str], bool]) -> Callable[[Ask], str]:
    def answer(question: Ask) -> str:
        text = question.messages[-1].content.partition("\n\nText: ")[2]
        return "```json\n" + json.dumps({"match": fits(text), "reason": "so it seems"}) + "\n```"

    return answer


def test_every_text_is_asked_about_by_itself_with_a_form_for_the_answer() -> None:
    model = ScriptedModel(matching(lambda text: "cat" in text))
    score = asyncio.run(scorer(model).score(cats_and_stones(20, 5), "cats"))
    assert (score.value, score.metric, score.status, len(score.rows)) == (1.0, "accuracy", "ok", 30)
    assert (len(model.asked), model.peak) == (30, 30)
    assert {(ask.temperature, ask.max_tokens) for ask in model.asked} == {(0.0, 5000)}
    assert all(ask.schema is not None and ask.schema["required"] == ["match", "reason"] for ask in model.asked)
    assert score.by_quantile == {1: 1.0, 2: 1.0, 3: 1.0}


def test_the_score_is_the_share_of_right_answers_and_the_balanced_one_is_beside_it() -> None:
    yes = asyncio.run(scorer(ScriptedModel(matching(lambda text: True))).score(cats_and_stones(20, 5), "cats"))
    assert yes.value == pytest.approx(20 / 30)
    assert yes.metrics["balanced_accuracy"] == 0.5
    assert yes.metrics["accuracy"] == yes.value
    few = asyncio.run(
        scorer(ScriptedModel(matching(lambda text: True)), decoys=0).score(cats_and_stones(20, 5), "cats")
    )
    assert few.value == pytest.approx(20 / 25)


@pytest.mark.parametrize(
    "text", ["no", "", '{"match": "true"}', '{"match": 1}', '{"reason": "x"}', '["match"]', '{"match": true', "{}"]
)
def test_what_does_not_say_true_or_false_is_no_answer(text: str) -> None:
    assert read_match(text) is None


def test_answers_that_can_not_be_read_are_left_out_and_too_many_give_no_score() -> None:
    right = matching(lambda text: "cat" in text)
    few = iter(["no idea"])
    model = ScriptedModel(lambda question: next(few, None) or right(question))
    score = asyncio.run(scorer(model).score(cats_and_stones(18, 7), "cats"))
    assert (score.value, score.status) == (1.0, "partial")
    assert score.metrics["failure_rate"] == pytest.approx(1 / 30)
    assert [row.prediction for row in score.rows if isinstance(row, Judgement)].count(None) == 1
    broken = asyncio.run(scorer(ScriptedModel(in_turn("no idea"))).score(cats_and_stones(), "cats"))
    assert (broken.value, broken.status) == (None, "invalid")


def test_an_empty_account_is_an_error_and_no_answers() -> None:
    answer: Answer = ProviderCredits("nobody pays")
    with pytest.raises(ProviderCredits):
        asyncio.run(scorer(ScriptedModel(in_turn(answer))).score(cats_and_stones(), "cats"))


def test_decoys_stand_in_for_silent_texts_and_without_them_some_are_needed() -> None:
    record = FeatureRecord(None, (), cats_and_stones().test)
    model = ScriptedModel(matching(lambda text: "cat" in text))
    assert asyncio.run(scorer(model).score(record, "cats")).value == 1.0
    with pytest.raises(InvalidRequest):
        asyncio.run(scorer(model, decoys=0).score(record, "cats"))
