"""Estimates: as many questions, of the same lengths, as the job then asks."""

import asyncio
from typing import Any

import pytest

from core.autointerp.jobs.choices import Step
from core.autointerp.jobs.estimate import Terms, estimate
from core.autointerp.language_model import Ask
from core.autointerp.providers.pricing import Price, prompt_tokens
from core.autointerp.providers.rate import RateLimits
from core.autointerp.registry import explainer_type, scorer_type
from core.autointerp.types import Means
from core.deadline import Deadline
from tests.unit.autointerp.jobs.scripted_jobs import ScriptedFeatures, job_spec
from tests.unit.autointerp.scripted import ScriptedModel, cats_and_stones

PRICE = Price(1.0, 2.0)


def estimated(spec: Any, features: ScriptedFeatures | None = None, terms: Terms | None = None) -> Any:
    found = terms or Terms(PRICE, RateLimits(in_flight=4))
    return asyncio.run(estimate(spec, features, lambda source: 1000, lambda stage: found))


def test_what_is_counted_is_what_is_asked() -> None:
    asked: list[Ask] = []

    async def run() -> None:
        model = ScriptedModel(lambda question: "[EXPLANATION]: cats")
        means = Means(Deadline.after(60), model)
        await explainer_type("default").build({}, means).explain(cats_and_stones())
        await scorer_type("detection").build({}, means).score(cats_and_stones(), "words that stand for something")
        asked.extend(model.asked)

    asyncio.run(run())
    found = estimated(job_spec(10, scorers=(Step("detection"),)), ScriptedFeatures())
    assert (found.latents, found.units, found.calls) == (10, 20, 10 * len(asked))
    read = 10 * sum(prompt_tokens(question) for question in asked)
    assert found.prompt_tokens == pytest.approx(read, rel=0.01)  # which texts are shown together depends on the name
    assert found.most_completion_tokens == 10 * sum(question.max_tokens for question in asked)
    assert found.usd == pytest.approx(PRICE.cost_usd(found.prompt_tokens, found.completion_tokens))
    assert found.minutes == pytest.approx(found.calls * 2.0 / 4 / 60)
    assert found.sampled == 5
    assert found.left_out == {}


def test_limits_make_it_take_longer() -> None:
    spec = job_spec(10, scorers=())
    assert estimated(spec, ScriptedFeatures(), Terms(None, RateLimits(requests_per_minute=2))).minutes == 5


def test_nobody_knows_what_a_model_without_a_price_costs() -> None:
    found = estimated(job_spec(), ScriptedFeatures(), Terms())
    assert found.usd is None
    assert found.most_usd is None


def test_without_a_cache_texts_of_that_length_stand_in() -> None:
    found = estimated(job_spec(100))
    assert (found.sampled, found.latents) == (0, 100)
    assert found.prompt_tokens > 100 * 1000


def test_what_can_not_be_asked_is_left_out_with_the_reason() -> None:
    spec = job_spec(4, scorers=(Step("detection", {"n_examples_shown": -1}),))
    found = estimated(spec, ScriptedFeatures())
    assert list(found.left_out) == ["score/default/detection"]
    assert found.calls == 4
