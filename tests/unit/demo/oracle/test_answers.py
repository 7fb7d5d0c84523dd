"""The oracle through the real explainers and scorers, on a feature of which everything is known."""

import asyncio

import pytest

from core.autointerp.explainers.default import DefaultExplainer, DefaultParameters
from core.autointerp.registry import EXPLAINERS
from core.autointerp.scorers.rows import Judgement
from core.demo.oracle import DemoOracle
from core.demo.oracle.concepts import meant_by
from tests.unit.autointerp.scripted import ScriptedModel

from .asking import explained, fires_on_animals, scored, value

JUDGED = ("detection", "fuzz", "fuzz-active", "simulation")


@pytest.mark.parametrize("explainer", sorted(set(EXPLAINERS) - {"output-centric", "best-of-k"}))
def test_every_explainer_is_told_that_the_feature_fires_on_animals(explainer: str) -> None:
    found = explained(fires_on_animals(), explainer)
    assert found.status == "ok"
    assert meant_by(found.text).name == "an animal"


@pytest.mark.parametrize("style", ["delphi", "neuronpedia"])
@pytest.mark.parametrize("shown", [True, False])
def test_whichever_way_examples_are_shown(style: str, shown: bool) -> None:
    found = explained(fires_on_animals(), "default", prompt_style=style, show_activations=shown)
    assert found.text == "an animal"


def test_an_output_centric_explanation_is_about_what_is_said_next() -> None:
    assert explained(fires_on_animals(), "output-centric").text == "about to name an animal"


def test_the_best_of_several_is_an_explanation_too() -> None:
    assert explained(fires_on_animals(), "best-of-k").text == "an animal"


@pytest.mark.parametrize("scorer", JUDGED)
def test_the_right_explanation_scores_one_and_a_wrong_one_chance_at_most(scorer: str) -> None:
    record = fires_on_animals()
    assert value(record, scorer, "an animal") == pytest.approx(1.0)
    wrong = scored(record, scorer, "a weekday").value
    assert wrong is None or wrong <= 0.5  # of a simulation that is 0 everywhere there is no correlation


@pytest.mark.parametrize("scorer", ["detection", "fuzz", "fuzz-active"])
def test_an_explanation_that_means_nothing_scores_a_half(scorer: str) -> None:
    assert value(fires_on_animals(), scorer, "?!") == pytest.approx(0.5)


@pytest.mark.parametrize("style", ["delphi", "neuronpedia"])
@pytest.mark.parametrize("scorer", ["detection", "fuzz", "intruder"])
def test_judges_are_understood_in_either_style(scorer: str, style: str) -> None:
    assert value(fires_on_animals(), scorer, "an animal", prompt_style=style) == pytest.approx(1.0)


def test_the_intruder_is_found() -> None:
    assert value(fires_on_animals(), "intruder", "") == pytest.approx(1.0)


def test_a_verdict_comes_with_how_sure_it_is() -> None:
    found = scored(fires_on_animals(), "detection", "an animal", log_probabilities=True)
    assert found.metrics["auc"] == pytest.approx(1.0)
    rows = [row for row in found.rows if isinstance(row, Judgement)]
    assert all(row.probability is not None and (row.probability > 0.5) == row.prediction for row in rows)


def test_the_same_question_has_the_same_answer() -> None:
    asked = ScriptedModel(lambda question: RuntimeError("remembered"))
    with pytest.raises(RuntimeError):
        asyncio.run(DefaultExplainer(asked, DefaultParameters()).explain(fires_on_animals()))

    async def answered() -> set[str]:
        return {(await DemoOracle().attempt(asked.asked[0], 1.0)).text for _ in range(3)}

    assert asyncio.run(answered()) == {"[EXPLANATION]: an animal"}


def test_an_answer_says_what_it_cost() -> None:
    found = explained(fires_on_animals(), "default")
    assert found.usage.calls == 1
    assert found.usage.cost_usd == 0
    assert found.usage.prompt_tokens > found.usage.completion_tokens > 0
