"""Explainers ask what delphi or the peer asks, and never pass a failure off as an explanation."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from core.autointerp.delphi_import import delphi_module
from core.autointerp.delphi_records import delphi_client, latent_record
from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.explainers.default import (
    NEURONPEDIA,
    ContrastiveExplainer,
    ContrastiveParameters,
    DefaultExplainer,
    DefaultParameters,
    SingleTokenExplainer,
    SingleTokenParameters,
)
from core.autointerp.explainers.explainer import Explainer, read_marked_answer, stronger_half
from core.autointerp.explainers.max_activation import MaxActivationExplainer, MaxActivationParameters
from core.errors import InvalidRequest, PromptTooLong, Unauthorized

from .scripted import ScriptedModel, cats_and_stones, in_turn

GOOD = "thinking\n[EXPLANATION]: domestic cats\n"


def asked(model: ScriptedModel) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in model.asked[-1].messages]


@pytest.mark.parametrize("activations", [True, False])
@pytest.mark.parametrize("reasoning", [True, False])
def test_in_delphis_style_the_question_is_what_delphi_itself_asks(activations: bool, reasoning: bool) -> None:
    record, ours, theirs = cats_and_stones(), ScriptedModel(in_turn(GOOD)), ScriptedModel(in_turn(GOOD))
    parameters = DefaultParameters(show_activations=activations)
    found = asyncio.run(DefaultExplainer(ours, parameters, reasoning).explain(record))
    original = delphi_module("explainers").DefaultExplainer(
        delphi_client(theirs), activations=activations, cot=reasoning, threshold=0.3
    )
    result = asyncio.run(original(latent_record(record)))
    assert asked(ours) == asked(theirs)
    assert ours.asked[0].temperature == theirs.asked[0].temperature == 0.0
    assert found.text == result.explanation == "domestic cats"


def test_in_the_peers_style_examples_are_numbered_and_features_are_features() -> None:
    model = ScriptedModel(in_turn(GOOD))
    record = FeatureRecord(None, (Example((" a", " latent", " b", " c"), (0.0, 5.0, 3.0, 3.1)),))
    asyncio.run(DefaultExplainer(model, NEURONPEDIA).explain(record))
    *fixed, last = asked(model)
    assert last == ("user", "\nExample 1:  a<< latent>> b<< c>>\n")
    assert "text features that are common" in fixed[0][1]
    assert not any("latent" in text.lower() for _, text in fixed)
    assert (model.asked[0].temperature, model.asked[0].max_tokens) == (1.0, 500)


def test_a_contrastive_question_is_delphis_and_shows_where_the_feature_is_silent() -> None:
    record, ours, theirs = cats_and_stones(), ScriptedModel(in_turn(GOOD)), ScriptedModel(in_turn(GOOD))
    asyncio.run(ContrastiveExplainer(ours, ContrastiveParameters()).explain(record))
    latent = latent_record(record)
    for example in latent.not_active:  # what delphi forgets
        example.normalized_activations = example.activations
    asyncio.run(delphi_module("explainers").ContrastiveExplainer(delphi_client(theirs))(latent))
    assert asked(ours) == asked(theirs)
    assert asked(ours)[-1][1].count("stone") == 5


def test_a_contrastive_explanation_needs_a_silent_example() -> None:
    explainer = ContrastiveExplainer(ScriptedModel(in_turn(GOOD)), ContrastiveParameters())
    with pytest.raises(InvalidRequest, match="silent"):
        asyncio.run(explainer.explain(cats_and_stones(n_silent=0)))


def test_a_single_token_question_lists_words_and_no_template() -> None:
    model = ScriptedModel(in_turn(GOOD))
    asyncio.run(SingleTokenExplainer(model, SingleTokenParameters()).explain(cats_and_stones()))
    assert asked(model)[-1] == ("user", "WORDS: " + str([" cat"] * 5))
    assert "{prompt}" not in asked(model)[0][1]


def test_an_answer_without_explanation_is_asked_for_once_more_and_warmer() -> None:
    model = ScriptedModel(in_turn("I can not tell.", GOOD))
    found = asyncio.run(DefaultExplainer(model, DefaultParameters()).explain(cats_and_stones()))
    assert (found.text, found.status) == ("domestic cats", "ok")
    assert [ask.temperature for ask in model.asked] == [0.0, 0.7]
    assert found.usage.calls == 2
    assert found.usage.cost_usd == pytest.approx(0.002)


def test_two_answers_without_explanation_are_a_failure_and_no_text() -> None:
    model = ScriptedModel(in_turn("I can not tell.", "[EXPLANATION]:   "))
    found = asyncio.run(DefaultExplainer(model, DefaultParameters()).explain(cats_and_stones()))
    assert (found.text, found.status, len(model.asked)) == ("", "parse_failed", 2)


def test_a_refused_key_is_raised() -> None:
    model = ScriptedModel(in_turn(Unauthorized("the provider does not know the key")))
    with pytest.raises(Unauthorized):
        asyncio.run(DefaultExplainer(model, DefaultParameters()).explain(cats_and_stones()))


@pytest.mark.parametrize("train", [(), (Example((" a",), (0.0,)),)])
def test_there_must_be_examples_where_the_feature_fires(train: tuple[Example, ...]) -> None:
    explainer = DefaultExplainer(ScriptedModel(in_turn(GOOD)), DefaultParameters())
    with pytest.raises(InvalidRequest):
        asyncio.run(explainer.explain(FeatureRecord(None, train)))


def test_questions_that_differ_have_different_hashes() -> None:
    explainer = DefaultExplainer(ScriptedModel(in_turn(GOOD)), DefaultParameters())
    other = DefaultExplainer(ScriptedModel(in_turn(GOOD)), NEURONPEDIA)
    first, again, different = (asyncio.run(one.explain(cats_and_stones())) for one in (explainer, explainer, other))
    assert first.prompt_hash == again.prompt_hash != different.prompt_hash
    assert len(first.prompt_hash) == 64


def test_the_first_mark_begins_the_explanation() -> None:
    assert read_marked_answer("a [EXPLANATION]: b\nc [EXPLANATION]: d ") == "b\nc [EXPLANATION]: d"
    assert read_marked_answer("nothing") is None


TOO_LONG = PromptTooLong("the prompt is too long")
RECORD = cats_and_stones()


@pytest.mark.parametrize(
    "explainer",
    [
        lambda model: DefaultExplainer(model, DefaultParameters()),
        lambda model: ContrastiveExplainer(model, ContrastiveParameters()),
        lambda model: MaxActivationExplainer(model, MaxActivationParameters()),
    ],
)
def test_a_prompt_that_is_too_long_is_asked_once_more_with_the_stronger_half(
    explainer: Callable[[ScriptedModel], Explainer],
) -> None:
    model = ScriptedModel(in_turn(TOO_LONG, "[EXPLANATION]: cats\nExplanation: cats"))
    found = asyncio.run(explainer(model).explain(RECORD))
    assert found.status == "ok"
    all_of_them, half = (ask.messages[-1].content for ask in model.asked)
    for number in range(5):  # the first are the strongest
        assert f"slept {number}" in all_of_them
        assert (f"slept {number}" in half) == (number < 3)


def test_single_tokens_that_are_too_many_are_halved_as_well() -> None:
    model = ScriptedModel(in_turn(TOO_LONG, GOOD))
    asyncio.run(SingleTokenExplainer(model, SingleTokenParameters()).explain(RECORD))
    assert [ask.messages[-1].content.count(" cat") for ask in model.asked] == [5, 3]


def test_the_stronger_half_keeps_the_order_it_came_in() -> None:
    examples = [Example(("a",), (strength,)) for strength in (1.0, 3.0, 2.0, 5.0, 4.0)]
    assert [one.maximum for one in stronger_half(examples)] == [3.0, 5.0, 4.0]


@pytest.mark.parametrize(("n_train", "asked_times"), [(5, 2), (1, 1)])
def test_a_half_that_is_too_long_or_a_single_example_is_an_error(n_train: int, asked_times: int) -> None:
    model = ScriptedModel(in_turn(TOO_LONG))
    with pytest.raises(PromptTooLong):
        asyncio.run(DefaultExplainer(model, DefaultParameters()).explain(replace(RECORD, train=RECORD.train[:n_train])))
    assert len(model.asked) == asked_times
