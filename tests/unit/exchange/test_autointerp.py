"""The peer's routes: bodies become records as the peer reads them, results become the peer's figures."""

from typing import Any

import pytest
from pydantic import SecretStr

from core.autointerp.description import AutointerpDescription
from core.autointerp.examples import Example
from core.autointerp.language_model import Usage
from core.autointerp.providers.endpoint import OPENROUTER
from core.autointerp.results import Explanation, Score
from core.autointerp.scorers.rows import Judgement, Row, Similarity
from core.errors import InvalidRequest, RayscopeError
from core.exchange.autointerp import (
    UNJUDGED,
    UNPARSED,
    asking_of,
    embedding_response,
    explain_response,
    fuzz_detection_response,
    record_to_explain,
    record_to_score,
)
from core.wire.autointerp import ExplainDefaultRequest, ScoreEmbeddingRequest, ScoreFuzzDetectionRequest

LOUD = {"tokens": ["Le", " chat"], "values": [0, 4.5]}
FAINT = {"tokens": ["Un", " chat"], "values": [0.5, 0]}
QUIET = {"tokens": ["The", " dog"], "values": [0, 0]}
MIXED = {"tokens": ["A", " cow"], "values": [1, -2]}
NO_KEY = AutointerpDescription()
OUR_KEY = AutointerpDescription(own_keys=(OPENROUTER,))
USAGE = Usage(prompt_tokens=10, completion_tokens=3, cost_usd=0.5, calls=2, retries=1, cached=0)


def explain(*activations: Any, **more: Any) -> ExplainDefaultRequest:
    body = {"activations": list(activations), "openrouterKey": "body-key", "model": "m"} | more
    return ExplainDefaultRequest.model_validate(body)


def score(*activations: Any, **more: Any) -> ScoreFuzzDetectionRequest:
    body = {"activations": list(activations), "openrouterKey": "k", "model": "m", "explanation": "x", "type": "FUZZ"}
    return ScoreFuzzDetectionRequest.model_validate(body | more)


def embedding(*activations: Any) -> ScoreEmbeddingRequest:
    return ScoreEmbeddingRequest.model_validate({"activations": list(activations), "explanation": "x"})


def test_all_texts_explain_in_the_order_sent() -> None:
    record = record_to_explain(explain(FAINT, LOUD, QUIET, FAINT))
    assert [one.text for one in record.train] == ["Un chat", "Le chat", "The dog", "Un chat"]
    assert record.train[1].activations == (0.0, 4.5)
    assert (record.test, record.silent, record.name) == ((), (), None)


@pytest.mark.parametrize("request_of", [score, embedding])
def test_a_text_is_active_if_its_values_add_up_to_more_than_nothing(request_of: Any) -> None:
    record = record_to_score(request_of(FAINT, QUIET, LOUD, MIXED))
    assert [one.text for one in record.test] == ["Un chat", "Le chat"]
    assert [one.text for one in record.silent] == ["The dog", "A cow"]
    assert [one.quantile for one in record.test] == [1, 1]
    assert record.train == ()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "There are no activations."),
        ([LOUD, {"tokens": [], "values": []}], r"activations\[1\] has no tokens."),
        ([LOUD, {"tokens": ["a", "b"], "values": [1]}], r"activations\[1\] has 2 tokens and 1 values."),
    ],
)
def test_a_malformed_text_is_refused_with_its_place(wrong: list[Any], message: str) -> None:
    for translate in (
        lambda: record_to_explain(explain(*wrong)),
        lambda: record_to_score(score(*wrong)),
        lambda: record_to_score(embedding(*wrong)),
    ):
        with pytest.raises(InvalidRequest, match=message):
            translate()


def test_what_a_score_can_not_do_without_is_asked_for() -> None:
    with pytest.raises(InvalidRequest, match="FUZZ score needs"):
        record_to_score(score(QUIET))
    assert len(record_to_score(score(QUIET, type="DETECTION")).silent) == 1
    assert len(record_to_score(score(LOUD)).test) == 1
    for one_kind in (LOUD, QUIET):
        with pytest.raises(InvalidRequest, match="needs both"):
            record_to_score(embedding(one_kind))


def test_what_is_left_out_is_asked_as_the_peer_asks() -> None:
    asking = asking_of(explain(LOUD), None, NO_KEY)
    assert (asking.model, asking.provider, asking.base_url) == ("m", "openrouter", None)
    assert (asking.temperature, asking.max_tokens, asking.seed) == (1.0, 500, None)
    assert (asking.prompt_style, asking.show_activations) == ("neuronpedia", False)


def test_what_is_sent_is_asked_with() -> None:
    sent = {"temperature": 0, "maxTokens": 9, "seed": 0, "promptStyle": "delphi", "showActivations": True}
    asking = asking_of(explain(LOUD, **sent, baseUrl="https://a.example/v1"), None, NO_KEY)
    assert (asking.temperature, asking.max_tokens, asking.seed) == (0.0, 9, 0)
    assert (asking.prompt_style, asking.show_activations, asking.base_url) == ("delphi", True, "https://a.example/v1")
    assert not asking_of(score(LOUD, showActivations=True), None, NO_KEY).show_activations


def test_the_bodys_key_comes_first_then_the_headers_then_the_clusters() -> None:
    header = SecretStr("header-key")

    def key(request: Any, header_key: SecretStr | None, described: AutointerpDescription = OUR_KEY) -> str | None:
        chosen = asking_of(request, header_key, described).key
        return chosen and chosen.get_secret_value()

    assert key(explain(LOUD), header) == "body-key"
    assert key(explain(LOUD, openrouterKey=None), header) == "header-key"
    assert key(explain(LOUD, openrouterKey=""), None) is None
    assert key(explain(LOUD, provider="local"), header) is None
    with pytest.raises(InvalidRequest, match="no key"):
        key(explain(LOUD, openrouterKey=None), None, NO_KEY)


def test_the_clusters_key_goes_to_no_address_that_it_was_not_configured_for() -> None:
    elsewhere = explain(LOUD, openrouterKey=None, baseUrl="https://a.example/v1/")
    with pytest.raises(InvalidRequest, match="no key"):
        asking_of(elsewhere, None, OUR_KEY)
    assert asking_of(elsewhere, SecretStr("header-key"), OUR_KEY).key == SecretStr("header-key")
    assert asking_of(elsewhere, None, AutointerpDescription(own_keys=("https://a.example/v1",))).key is None


def test_an_address_together_with_local_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="provider is local"):
        asking_of(explain(LOUD, provider="local", baseUrl="https://a.example/v1"), None, NO_KEY)


def test_a_key_does_not_show_in_what_is_asked_with() -> None:
    assert "body-key" not in repr(asking_of(explain(LOUD), None, NO_KEY))


def test_an_explanation_that_could_not_be_read_is_the_peers_sentence() -> None:
    good = explain_response(Explanation("Cats", "ok", "hash", USAGE), "r")
    assert (good.explanation, good.request_id) == ("Cats", "r")
    assert good.usage is not None
    assert good.usage.model_dump(by_alias=True) == {
        "promptTokens": 10,
        "completionTokens": 3,
        "costUsd": 0.5,
        "calls": 2,
        "retries": 1,
        "cached": 0,
    }
    assert explain_response(Explanation("", "parse_failed", "hash", USAGE), "r").explanation == UNPARSED


def judged(*answers: tuple[bool, bool | None], probability: float | None = None) -> Score:
    rows: list[Row] = [
        Judgement(
            Example(("a", " b"), (0.0, 1.5 if truth else 0.0)), truth, said, probability, "a << b>>", highlighted=True
        )
        for truth, said in answers
    ]
    return Score(None, "balanced_accuracy", "invalid", tuple(rows), USAGE)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([(True, True), (False, True)], 0.5),
        ([(True, True), (False, False)], 1.0),
        ([(True, False), (False, True)], 0.0),
        ([(False, False), (False, True)], 0.25),
        ([(True, True)], 0.0),
        ([(True, True), (True, None), (False, False), (False, None)], 1.0),
    ],
)
def test_a_judges_score_is_the_peers(answers: list[tuple[bool, bool | None]], expected: float) -> None:
    assert fuzz_detection_response(judged(*answers), "r").score == expected


def test_every_text_is_in_the_breakdown_as_the_peer_shows_it() -> None:
    response = fuzz_detection_response(judged((True, True), (False, None), probability=None), "r")
    first, failed = (item.model_dump(by_alias=True) for item in response.breakdown)
    assert first == {
        "strTokens": ["a", " b"],
        "activations": [0.0, 1.5],
        "distance": 1,
        "groundTruth": True,
        "prediction": True,
        "highlighted": True,
        "probability": 0.0,
        "correct": True,
    }
    assert (failed["distance"], failed["prediction"], failed["correct"]) == (-1, False, False)
    assert response.n_failed == 1
    assert response.usage is not None
    assert fuzz_detection_response(judged((True, True), probability=0.75), "r").breakdown[0].probability == 0.75


def test_a_score_without_a_usable_answer_is_the_peers_refusal() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        fuzz_detection_response(judged((True, None), (False, None)), "r")
    assert refusal.value.text == UNJUDGED


def similar(*rows: tuple[bool, float]) -> Score:
    made = tuple(Similarity(Example((f"text {n}",), (1.0,)), truth, value) for n, (truth, value) in enumerate(rows))
    return Score(None, "auc", "ok", made, USAGE)


def test_an_embedding_score_is_the_area_under_the_curve() -> None:
    response = embedding_response(similar((True, 0.9), (False, 0.5), (True, 0.5), (False, -0.1)), "r")
    assert response.score == 3.5 / 4
    assert [(one.text, one.distance, one.similarity) for one in response.breakdown][:2] == [
        ("text 0", 1, 0.9),
        ("text 1", -1, 0.5),
    ]


def test_similarities_of_one_kind_are_no_score() -> None:
    with pytest.raises(InvalidRequest, match="needs both"):
        embedding_response(similar((True, 0.9)), "r")


def test_rows_of_another_scorer_are_our_mistake() -> None:
    with pytest.raises(RayscopeError, match="rows of another kind"):
        fuzz_detection_response(similar((True, 0.9)), "r")
    with pytest.raises(RayscopeError, match="rows of another kind"):
        embedding_response(judged((True, True)), "r")
