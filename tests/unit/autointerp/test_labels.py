"""Labels for graphs, explanations by logits, and the best of several."""

import asyncio
import json

import pytest

from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.explainers.best_of import BestOfExplainer
from core.autointerp.explainers.default import DefaultExplainer, DefaultParameters
from core.autointerp.explainers.max_activation import MaxActivationExplainer, MaxActivationParameters, read_label
from core.autointerp.explainers.output_centric import OutputCentricExplainer, OutputCentricParameters
from core.autointerp.language_model import Ask
from core.autointerp.scorers.classification import ClassificationParameters, ClassificationScorer
from core.errors import InvalidRequest, Unauthorized

from .scripted import ScriptedModel, active, cats_and_stones, in_turn, judging, shown_examples, silent

LABEL = "Method 1\nExplanation: cat."


def test_a_label_is_asked_by_strongest_tokens_and_texts_the_strongest_first() -> None:
    model = ScriptedModel(in_turn(LABEL))
    record = FeatureRecord(
        None, (active(" a", " dog", at=1, strength=1.0), active("\n", " the", " cat", " sat", at=2, strength=3.0))
    )
    found = asyncio.run(MaxActivationExplainer(model, MaxActivationParameters()).explain(record))
    assert (found.text, found.status) == ("cat", "ok")
    assert model.asked[0].messages[-1].content == (
        "<MAX_ACTIVATING_TOKENS>\ncat\ndog\n</MAX_ACTIVATING_TOKENS>\n\n"
        "<TOP_ACTIVATING_TEXTS>\nthe cat sat\na dog\n</TOP_ACTIVATING_TEXTS>"
    )
    system = model.asked[0].messages[0].content
    assert "Method 2" in system
    assert "Method 3" not in system
    assert "LOGITS" not in "".join(message.content for message in model.asked[0].messages)


def test_a_label_with_logits_also_shows_what_follows_and_what_is_raised() -> None:
    model = ScriptedModel(in_turn("Method 2\nExplanation: say meow"))
    explainer = MaxActivationExplainer(model, MaxActivationParameters(), with_logits=True)
    assert asyncio.run(explainer.explain(cats_and_stones())).text == "say meow"
    shown = model.asked[0].messages[-1].content
    assert "<TOP_POSITIVE_LOGITS>\nmeow\npurr\n</TOP_POSITIVE_LOGITS>" in shown
    assert "<TOKENS_AFTER_MAX_ACTIVATING_TOKEN>\nslept\n" in shown
    assert "Method 4" in model.asked[0].messages[0].content


def test_only_so_many_tokens_around_the_strongest_are_shown() -> None:
    model = ScriptedModel(in_turn(LABEL))
    record = FeatureRecord(None, (active(*[f" {i}" for i in range(9)], at=4),))
    asyncio.run(MaxActivationExplainer(model, MaxActivationParameters(reach=1)).explain(record))
    assert "<TOP_ACTIVATING_TEXTS>\n3 4 5\n<" in model.asked[0].messages[-1].content


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Method 1\nExplanation: cats.", "cats"),
        ("Explanation: no\nExplanation: say yes", "say yes"),
        ('Explanation: "cats"', "cats"),
        ("Explanation: method 2", None),
        ("cats", None),
        ("Explanation: ", None),
        ("Explanation: cats\nand more", None),
        ("Explanation: " + "word " * 13, None),
    ],
)
def test_a_label_is_a_few_words_and_no_method(answer: str, label: str | None) -> None:
    assert read_label(answer) == label


def test_an_explanation_by_logits_shows_them_and_reads_no_example() -> None:
    model = ScriptedModel(in_turn("[EXPLANATION]: cat sounds"))
    found = asyncio.run(OutputCentricExplainer(model, OutputCentricParameters()).explain(cats_and_stones()))
    assert found.text == "cat sounds"
    assert model.asked[0].messages[-1].content == "Raised: [' meow', ' purr']\nLowered: [' granite']"


def test_explanations_by_logits_need_logits() -> None:
    model = ScriptedModel(in_turn(LABEL))
    record = FeatureRecord(None, (active(" cat", at=0),))
    for explainer in (
        MaxActivationExplainer(model, MaxActivationParameters(), with_logits=True),
        OutputCentricExplainer(model, OutputCentricParameters()),
    ):
        with pytest.raises(InvalidRequest, match="logits"):
            asyncio.run(explainer.explain(record))
    assert model.asked == []


def best_of(model: ScriptedModel, count: int) -> BestOfExplainer:
    candidates = tuple(DefaultExplainer(model, DefaultParameters(seed=seed)) for seed in range(count))
    return BestOfExplainer(candidates, ClassificationScorer(model, "detection", ClassificationParameters()))


def oracle(*explanations: str):
    """Explains by its seed, and judges rightly when it is told of cats, wrongly of stones, at random of nothing."""

    def answer(question: Ask) -> str:
        heading = question.messages[-1].content.split("\n")[0]
        if not heading.startswith("Latent explanation"):
            return f"[EXPLANATION]: {explanations[question.seed or 0]}" if explanations[question.seed or 0] else "?"
        if "cats" in heading:
            return judging(lambda text: "cat" in text)(question)
        return judging(lambda text: "stones" in heading and "stone" in text)(question)

    return answer


def test_the_best_explanation_is_kept_and_the_others_are_ranked() -> None:
    model = ScriptedModel(oracle("stones", "anything", "cats", "cats"))
    found = asyncio.run(best_of(model, 4).explain(cats_and_stones()))
    assert (found.text, found.alternatives, found.status) == ("cats", ("anything", "stones"), "ok")
    assert found.usage.calls == len(model.asked) == 4 + 3  # equal explanations are scored once


def test_the_best_is_chosen_without_looking_at_the_test_examples() -> None:
    model = ScriptedModel(oracle("cats", "stones"))
    record = cats_and_stones()
    asyncio.run(best_of(model, 2).explain(record))
    asked = json.dumps([[message.content for message in ask.messages] for ask in model.asked])
    assert not any(json.dumps(example.text)[1:-1] in asked for example in record.test)
    judged = {text for ask in model.asked for text in shown_examples(ask) if "cat" in text}
    explained = model.asked[0].messages[-1].content
    assert judged
    assert not any(text in explained for text in judged)


def test_candidates_without_explanation_are_left_out() -> None:
    model = ScriptedModel(oracle("", "cats"))
    assert asyncio.run(best_of(model, 2).explain(cats_and_stones())).text == "cats"
    nothing = asyncio.run(best_of(ScriptedModel(oracle("", "")), 2).explain(cats_and_stones()))
    assert (nothing.text, nothing.status, nothing.usage.calls) == ("", "parse_failed", 4)


def test_a_refused_key_ends_all_candidates() -> None:
    model = ScriptedModel(in_turn(Unauthorized("the provider does not know the key")))
    with pytest.raises(Unauthorized):
        asyncio.run(best_of(model, 3).explain(cats_and_stones()))


def test_one_example_is_not_enough_to_choose_by() -> None:
    record = FeatureRecord(None, (Example((" cat",), (1.0,)),), silent=(silent(" stone"),))
    with pytest.raises(InvalidRequest, match="held out"):
        asyncio.run(best_of(ScriptedModel(oracle("a", "b")), 2).explain(record))
