"""Every listed type can be built by its defaults and does what it says; everything else is refused by name."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from core.autointerp.language_model import Ask, Reply
from core.autointerp.registry import (
    EXPLAINER_ALIASES,
    EXPLAINERS,
    SCORER_ALIASES,
    SCORERS,
    explainer_type,
    scorer_type,
)
from core.autointerp.types import Means, Type
from core.deadline import Deadline
from core.errors import InvalidRequest, NotFound, Unavailable

from .scripted import ScriptedModel, cats_and_stones, judging, shown_examples
from .test_intervention import Meowing, judge
from .test_other_scorers import Bag, pointing, simulating, stone
from .test_recall_alt import matching
from .test_surprisal import knowing


def soon() -> Deadline:
    return Deadline.after(600)


def knows_cats(question: Ask) -> str | Reply:
    """An oracle of the one feature there is; told that it is about stones, it looks for them."""
    if question.prompt_logprobs:
        return knowing("cat", ["cats"])(question)
    system, last = question.messages[0].content, question.messages[-1].content
    word = "stone" if "xplanation: stones" in last or '"to_find": "stones"' in last else "cat"
    if "continuation" in system.lower():
        return judge(question)
    if last.startswith("Explanation: "):
        return matching(lambda text: word in text)(question)
    if "intruder" in system:
        return pointing(stone)(question)
    if last.startswith("{"):
        return simulating(lambda token: 9 if token == f" {word}" else 0)(question)
    if shown_examples(question) and "explanation:" in last:
        return judging(lambda text: f"<< {word}" in text if "<<" in last else word in text)(question)
    return "Method 1\n[EXPLANATION]: cats" if "[EXPLANATION]" in system else "Method 1\nExplanation: cats"


@pytest.mark.parametrize("name", EXPLAINERS)
def test_every_explainer_explains(name: str) -> None:
    means = Means(soon(), ScriptedModel(knows_cats))
    found = asyncio.run(explainer_type(name).build({}, means).explain(cats_and_stones()))
    assert (found.text, found.status) == ("cats", "ok")


@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_finds_a_right_explanation_right(name: str) -> None:
    means = Means(soon(), ScriptedModel(knows_cats), Bag(), Meowing())
    score = asyncio.run(scorer_type(name).build({}, means).score(cats_and_stones(), "cats"))
    assert score.status == "ok"
    assert score.value is not None
    assert score.value > 0.8
    json.dumps([dict(score.metrics), dict(score.by_quantile)], allow_nan=False)


@pytest.mark.parametrize("name", [name for name, one in SCORERS.items() if "explanation" in one.needs])
def test_every_scorer_of_explanations_finds_a_wrong_one_wrong(name: str) -> None:
    means = Means(soon(), ScriptedModel(knows_cats), Bag(), Meowing())
    score = asyncio.run(scorer_type(name).build({}, means).score(cats_and_stones(n_silent=30), "stones"))
    assert score.status == "ok"
    assert score.value is not None
    assert score.value <= (0.7 if name == "intervention" else 0.5)  # it guesses, and is right by chance


@pytest.mark.parametrize("one", [*EXPLAINERS.values(), *SCORERS.values()], ids=lambda one: one.name)
def test_every_type_describes_its_parameters(one: Type[Any]) -> None:
    schema = one.json_schema
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    for field in schema.get("properties", {}).values():
        assert field["description"]
        assert "default" in field or field["type"] == "object"
    assert one.summary.endswith((".", "?"))


def test_names_that_people_know_are_aliases() -> None:
    assert scorer_type("RecallScorer") is scorer_type("DetectionScorer") is SCORERS["detection"]
    assert scorer_type("recall_alt") is SCORERS["recall-alt"]
    assert scorer_type("SurprisalScorer") is SCORERS["surprisal"]
    assert explainer_type("np_max-act-logits") is EXPLAINERS["np-max-act-logits"]
    assert set(EXPLAINER_ALIASES.values()) <= set(EXPLAINERS)
    assert set(SCORER_ALIASES.values()) <= set(SCORERS)
    assert not set(EXPLAINER_ALIASES) & set(EXPLAINERS)
    assert not set(SCORER_ALIASES) & set(SCORERS)


def test_a_type_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(NotFound, match="astrology") as refused:
        scorer_type("astrology")
    assert refused.value.hint is not None
    assert "detection" in refused.value.hint


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"threshhold": 0.3}, "threshhold"),
        ({"examples_per_prompt": 0}, "examples_per_prompt"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_a_wrong_parameter_is_named(parameters: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        scorer_type("fuzz").build(parameters, Means(soon(), ScriptedModel(knows_cats)))


NEEDS = {
    "language_model": "model",
    "logprobs": "model",
    "embeddings": "embedder",
    "subject": "subject",
}


@pytest.mark.parametrize("one", [*EXPLAINERS.values(), *SCORERS.values()], ids=lambda one: one.name)
def test_a_type_lists_the_means_that_it_can_not_be_built_without(one: Type[Any]) -> None:
    means = Means(soon(), ScriptedModel(knows_cats), Bag(), Meowing())
    listed = {NEEDS[need] for need in one.needs if need in NEEDS}
    for name in ("model", "embedder", "subject"):
        fewer = replace(means, **{name: None})
        if name in listed:
            with pytest.raises(Unavailable):
                one.build({}, fewer)
        else:
            one.build({}, fewer)
    assert ("logprobs" in one.needs) == (one.name == "surprisal")


def test_what_is_needed_and_not_at_hand_is_named_before_anything_is_asked() -> None:
    with pytest.raises(Unavailable, match="language model"):
        explainer_type("default").build({}, Means(soon()))
    with pytest.raises(Unavailable, match="embedding"):
        scorer_type("embedding").build({}, Means(soon(), ScriptedModel(knows_cats)))
    with pytest.raises(Unavailable, match="steered"):
        scorer_type("intervention").build({}, Means(soon(), ScriptedModel(knows_cats)))


@pytest.mark.parametrize("parameters", [{"explainer": "best-of-k"}, {"scorer": "intruder"}, {"k": 1}])
def test_the_best_of_several_can_not_be_chosen_by_itself_or_by_what_reads_no_explanation(
    parameters: dict[str, object],
) -> None:
    with pytest.raises(InvalidRequest):
        explainer_type("best-of-k").build(parameters, Means(soon(), ScriptedModel(knows_cats)))
