"""Jobs on the wire: a body as a specification, with the key beside it, and events in the casing of the reply."""

from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from core.autointerp.caching.corpus import DatasetTexts, DemoTexts, FileTexts
from core.autointerp.examples import FeatureName
from core.autointerp.jobs.specification import Stage
from core.autointerp.jobs.units import Event, UnitResult
from core.errors import InvalidRequest
from core.exchange.autointerp_jobs import asked_for, event_data, job_spec, result_line
from core.wire.autointerp_jobs import JobRequest

BODY: dict[str, Any] = JobRequest.model_config["json_schema_extra"]["examples"][0]  # pyright: ignore
OUTSIDE = BODY | {"provider": "openrouter", "model": "openai/gpt-4o-mini"}
KEY = "sk-or-v1-a1b2c3d4e5f60718"
RESULT = UnitResult(
    4, FeatureName("m", "3-res", 7), Stage.read("score/default/fuzz"), "done", 1, None, None,
    {"value": 0.5, "metrics": {"balanced_accuracy": 0.5}, "usage": {"prompt_tokens": 3}}, 1.5,
)  # fmt: skip


def test_the_example_is_a_job() -> None:
    spec, key = job_spec(JobRequest.model_validate(BODY), None)
    assert key is None
    assert [str(stage) for stage in spec.stages()] == [
        "explain/default",
        "score/default/detection",
        "score/default/fuzz",
    ]
    assert spec.asked is not None and spec.asked.provider == "local"


def test_a_key_is_beside_the_job_and_never_in_it() -> None:
    spec, key = job_spec(JobRequest.model_validate(OUTSIDE), SecretStr(KEY))
    assert key is not None and key.value == KEY
    assert spec.asked is not None and spec.asked.key == f"caller:{key.fingerprint}"
    assert KEY.encode() not in spec.dumped()
    own, nothing = job_spec(JobRequest.model_validate(OUTSIDE), None)
    assert own.asked is not None
    assert (own.asked.key, nothing) == ("configured", None)


def test_either_casing_is_the_same_job() -> None:
    snake = {"model_id": "m", "sae_ids": ["1-a"], "cache": {"name": "c"}, "model": "x", "max_tokens_total": 5}
    camel = {"modelId": "m", "saeIds": ["1-a"], "cache": {"name": "c"}, "model": "x", "maxTokensTotal": 5}
    steps = [{"type": "default", "params": {"max_tokens": 7}}], [{"type": "default", "params": {"maxTokens": 7}}]
    one, other = (
        job_spec(JobRequest.model_validate(body | {"explainers": step, "provider": "local"}), None)[0]
        for body, step in zip((snake, camel), steps, strict=True)
    )
    assert one == other
    assert asked_for(one, "k") == asked_for(other, "k")
    assert one.budget.tokens == 5


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"demoDocuments": 5, "textSeed": 2}, DemoTexts(5, 2)),
        ({"files": ["a.txt"]}, FileTexts(("a.txt",))),
        ({"dataset": {"repo": "a/b", "name": "c"}}, DatasetTexts("a/b", name="c")),
    ],
)
def test_a_cache_is_made_over_one_kind_of_texts(texts: dict[str, Any], expected: Any) -> None:
    def made(texts: dict[str, Any]) -> Any:
        cache = {"name": "c", "make": {"nTokens": 1024} | texts}
        make = job_spec(JobRequest.model_validate(BODY | {"cache": cache}), None)[0].cache.make
        return None if make is None else make.texts

    assert made(texts) == expected
    for wrong in ({}, {"demoDocuments": 5, "files": ["a.txt"]}):
        with pytest.raises(InvalidRequest):
            made(wrong)


def test_an_event_says_what_the_result_says_in_the_casing_of_the_reply() -> None:
    event = Event(9, "score", 2.0, {"source": "3-res"}, RESULT)
    camel, snake = (orjson.loads(event_data(event, snake_case=case)) for case in (False, True))
    assert (camel["value"], camel["metrics"], camel["promptTokens"]) == (0.5, {"balancedAccuracy": 0.5}, 3)
    assert (snake["metrics"], snake["prompt_tokens"]) == ({"balanced_accuracy": 0.5}, 3)
    assert camel == orjson.loads(result_line(RESULT, snake_case=False).model_dump_json(by_alias=True))
    told = orjson.loads(
        event_data(Event(1, "progress", 2.0, {"eta_s": 3, "caching": {"tokens_per_s": 1}}), snake_case=False)
    )
    assert told == {"atS": 2.0, "etaS": 3, "caching": {"tokensPerS": 1}}
