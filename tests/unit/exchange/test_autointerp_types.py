"""Typed requests become tasks that have all they need, and results say whether they are any."""

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from core.autointerp.description import AutointerpDescription
from core.autointerp.examples import Example, FeatureName, FeatureRecord
from core.autointerp.language_model import Usage
from core.autointerp.metrics import Interval
from core.autointerp.registry import EXPLAINERS, SCORERS
from core.autointerp.results import Explanation, Score
from core.autointerp.scorers.rows import Judgement, Simulated
from core.errors import InvalidRequest, NotFound
from core.exchange.autointerp_tasks import explain_default, score_embedding, score_fuzz_detection
from core.exchange.autointerp_types import (
    SourcedRecord,
    choice_of,
    explain_reply,
    explain_task,
    score_reply,
    score_task,
    types_reply,
    wanted_record,
)
from core.wire.autointerp import ExplainDefaultRequest, ScoreEmbeddingRequest, ScoreFuzzDetectionRequest
from core.wire.autointerp_types import ExplainTypedRequest, ScoreTypedRequest

FAINT = {"tokens": ["Un", " chat"], "values": [0.5, 0]}
LOUD = {"tokens": ["Le", " chat"], "values": [0, 4.5]}
QUIET = {"tokens": ["The", " dog"], "values": [0, 0]}
NOTHING = AutointerpDescription()
EVERYTHING = AutointerpDescription(own_keys=(NOTHING.base_url,), embedding_model="mini")
SOURCE = {"modelId": "m", "saeId": "3-res", "index": 7}


def explain(*activations: Any, **more: Any) -> ExplainTypedRequest:
    body = {"activations": list(activations) or None, "openrouterKey": "k", "model": "a/model"}
    return ExplainTypedRequest.model_validate(body | more)


def score(*activations: Any, **more: Any) -> ScoreTypedRequest:
    body = {"activations": list(activations) or None, "openrouterKey": "k", "model": "a/model", "explanation": "x"}
    return ScoreTypedRequest.model_validate(body | more)


def task_of(request: Any, type_name: str) -> Any:
    record = wanted_record(request, type_name)
    assert isinstance(record, FeatureRecord)
    make = score_task if isinstance(request, ScoreTypedRequest) else explain_task
    return make(request, type_name, record, choice_of(request, None, NOTHING))


def test_active_texts_explain_the_strongest_first_and_the_others_contrast() -> None:
    task = task_of(explain(FAINT, QUIET, LOUD, topLogits=[" meow"]), "ContrastiveExplainer")
    assert task.type == "contrastive"
    assert [one.text for one in task.record.train] == ["Le chat", "Un chat"]
    assert [one.text for one in task.record.silent] == ["The dog"]
    assert task.record.test == ()
    assert task.record.top_logits == (" meow",)


def test_texts_are_judged_on_with_their_quantiles() -> None:
    task = task_of(score({**FAINT, "quantile": 1}, QUIET, {**LOUD, "quantile": 2, "isActivating": True}), "recall")
    assert (task.type, task.explanation) == ("detection", "x")
    assert [(one.text, one.quantile) for one in task.record.test] == [("Le chat", 2), ("Un chat", 1)]
    assert task.record.train == ()


def test_candidates_are_judged_on_texts_that_they_were_not_made_from() -> None:
    texts = [{"tokens": [f"{n}"], "values": [n]} for n in range(1, 7)]
    record = task_of(explain(*texts, QUIET), "best-of-k").record
    train, test = {one.text for one in record.train}, {one.text for one in record.test}
    assert len(train) == len(test) == 3
    assert not train & test


def test_parameters_go_by_either_casing() -> None:
    params = {"examplesPerPrompt": 4, "prompt_style": "delphi", "scorerParameters": {"maxTokens": 5}}
    task = task_of(score(FAINT, QUIET, params=params), "detection")
    assert task.parameters == {
        "examples_per_prompt": 4,
        "prompt_style": "delphi",
        "scorer_parameters": {"max_tokens": 5},
    }


def test_a_source_is_a_record_that_the_server_has() -> None:
    wanted = wanted_record(explain(source=SOURCE, sampling={"nTrain": 3, "seed": 5}), "default")
    assert isinstance(wanted, SourcedRecord)
    assert wanted.name == FeatureName("m", "3-res", 7)
    assert (wanted.settings.n_train, wanted.settings.n_test, wanted.settings.seed) == (3, 50, 5)


@pytest.mark.parametrize(
    ("request_", "type_name", "said"),
    [
        (explain(), "default", "either activations or a source"),
        (explain(LOUD, source=SOURCE), "default", "either activations or a source"),
        (explain(LOUD, sampling={}), "default", "sampling"),
        (explain({"tokens": [], "values": []}), "default", r"activations\[0\] has no tokens"),
        (explain(LOUD, {"tokens": ["a"], "values": []}), "default", r"activations\[1\] has 1 tokens and 0 values"),
        (explain({**LOUD, "isActivating": False}), "default", "isActivating"),
        (explain({**QUIET, "isActivating": True}), "default", "isActivating"),
        (explain(LOUD, model=None), "default", "language model"),
        (explain(LOUD), "contrastive", "does not fire"),
        (explain(LOUD), "output-centric", "logits"),
        (score(LOUD), "detection", "does not fire"),
        (score(LOUD, QUIET, explanation=" "), "fuzz", "scores an explanation"),
        (score(LOUD, QUIET, model=None), "intruder", "language model"),
    ],
)
def test_what_is_lacking_is_said(request_: Any, type_name: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        task_of(request_, type_name)


def test_scorers_without_a_judge_or_an_explanation_do_without() -> None:
    task = task_of(score(LOUD, FAINT, QUIET, QUIET, model=None, explanation=None), "example-embedding")
    assert (task.choice, task.explanation) == (None, "")


def test_unknown_types_are_not_found() -> None:
    for request in (explain(LOUD), score(LOUD, QUIET)):
        with pytest.raises(NotFound, match="guessing"):
            task_of(request, "guessing")


def test_activations_can_not_be_an_empty_list() -> None:
    with pytest.raises(InvalidRequest, match="no activations"):
        task_of(explain(LOUD, activations=[]), "default")


@pytest.mark.parametrize("values", [[float("nan")], ["1"], [True]])
def test_values_are_finite_numbers(values: Any) -> None:
    with pytest.raises(ValidationError):
        explain({"tokens": ["a"], "values": values})


def test_the_key_is_the_bodys_or_the_headers_or_the_clusters() -> None:
    def key(request: Any, header: SecretStr | None, described: AutointerpDescription) -> str | None:
        choice = choice_of(request, header, described)
        assert choice is not None
        return choice.key and choice.key.value

    keyless = explain(LOUD, openrouterKey=None)
    assert key(explain(LOUD), SecretStr("h"), EVERYTHING) == "k"
    assert key(keyless, SecretStr("h"), EVERYTHING) == "h"
    assert key(keyless, None, EVERYTHING) is None
    assert key(explain(LOUD, provider="local"), None, NOTHING) is None
    with pytest.raises(InvalidRequest, match="no key"):
        choice_of(keyless, None, NOTHING)


# The peer's routes


def peer(**more: Any) -> dict[str, Any]:
    return {"activations": [LOUD, QUIET], "openrouterKey": "k", "model": "a/model"} | more


def test_the_peers_explanation_is_asked_as_the_peer_asks() -> None:
    task = explain_default(ExplainDefaultRequest.model_validate(peer(seed=3)), None, NOTHING)
    explainer = EXPLAINERS[task.type].parameters.model_validate(task.parameters)
    assert explainer.model_dump() == {
        "prompt_style": "neuronpedia",
        "threshold": 0.6,
        "show_activations": False,
        "temperature": 1.0,
        "max_tokens": 500,
        "seed": 3,
    }
    assert [one.text for one in task.record.train] == ["Le chat", "The dog"]


@pytest.mark.parametrize(("kind", "type_name"), [("FUZZ", "fuzz"), ("DETECTION", "detection")])
def test_the_peers_score_is_asked_as_the_peer_asks(kind: str, type_name: str) -> None:
    body = ScoreFuzzDetectionRequest.model_validate(peer(type=kind, explanation="x"))
    task = score_fuzz_detection(body, None, NOTHING)
    assert task.type == type_name
    parameters = SCORERS[type_name].parameters.model_validate(task.parameters)
    assert (parameters.prompt_style, parameters.examples_per_prompt) == ("neuronpedia", 5)  # pyright: ignore[reportAttributeAccessIssue]
    assert parameters.max_failure_rate == 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_only_the_embedding_model_that_is_served_is_found() -> None:
    body = {"activations": [LOUD, QUIET], "explanation": "x"}
    for named in ({}, {"embeddingModel": "mini"}):
        assert score_embedding(ScoreEmbeddingRequest.model_validate(body | named), "mini").choice is None
    for served in ("mini", None):
        with pytest.raises(NotFound, match="maxi"):
            score_embedding(ScoreEmbeddingRequest.model_validate(body | {"embeddingModel": "maxi"}), served)


# Replies


def test_an_explanation_that_is_none_is_null() -> None:
    reply = explain_reply(Explanation("", "parse_failed", "0" * 64, Usage(calls=2), ("a",)), "id")
    assert (reply.explanation, reply.status, reply.alternatives) == (None, "parse_failed", ["a"])
    assert reply.usage.calls == 2


def judged(prediction: bool | None) -> Judgement:
    return Judgement(Example(("a",), (1.0,), 2), True, prediction, None, "<<a>>", True)


def scored(**more: Any) -> Score:
    given: dict[str, Any] = {
        "value": 0.75,
        "metric": "balanced_accuracy",
        "status": "partial",
        "rows": (judged(True), judged(None)),
        "usage": Usage(calls=1),
        "interval": Interval(0.5, 0.9),
        "metrics": {"balanced_accuracy": 0.75},
        "by_quantile": {2: 0.5, 1: 1.0},
    }
    return Score(**(given | more))


def test_a_score_is_told_with_its_rows_in_the_casing_of_the_request() -> None:
    reply = score_reply(scored(), "id")
    assert (reply.score, reply.status, reply.n_failed, reply.ci95) == (0.75, "partial", 1, (0.5, 0.9))
    assert [(part.quantile, part.score) for part in reply.by_quantile] == [(1, 1.0), (2, 0.5)]
    assert reply.breakdown[0] == {
        "kind": "judgement",
        "example": {"tokens": ["a"], "activations": [1.0], "quantile": 2, "distance": None},
        "truth": True,
        "prediction": True,
        "probability": None,
        "text": "<<a>>",
        "highlighted": True,
    }
    assert reply.metrics == {"balancedAccuracy": 0.75}
    assert score_reply(scored(), "id", snake_case=True).metrics == {"balanced_accuracy": 0.75}


def test_a_score_that_is_none_is_null_with_a_reason() -> None:
    reply = score_reply(scored(status="invalid", reason="too many failed", interval=None), "id")
    assert (reply.score, reply.reason, reply.ci95) == (None, "too many failed", None)


def test_rows_of_every_kind_are_told() -> None:
    row = Simulated(Example(("a",), (1.0,)), None)
    reply = score_reply(scored(rows=(row,), metric="correlation"), "id")
    assert (reply.breakdown[0]["kind"], reply.n_failed) == ("simulated", 1)


def test_every_type_is_listed_once_and_says_whether_it_can_be_had() -> None:
    bare, full = types_reply(NOTHING), types_reply(EVERYTHING)
    assert [one.type for one in bare.explainers] == list(EXPLAINERS)
    assert [one.type for one in bare.scorers] == list(SCORERS)
    assert {one.type for one in bare.scorers if not one.available} == {"embedding", "example-embedding"}
    assert all(one.available for one in (*full.scorers, *full.explainers))
    assert full.own_keys == [NOTHING.base_url]
