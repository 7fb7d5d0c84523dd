"""OpenAI's own Python client drives the OpenAI-compatible routes, through the locked door."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from ray._common.test_utils import wait_for_condition

from core.demo import ARTEFACTS
from core.demo.steering import language_of
from tests.serve.conftest import DEMO, GPT2, SECRET, RunningCluster
from tests.truth import folder_sae

FRENCH = "Le chat dort sur"
SPANISH = {"features": [{"source": "1-res-demo", "index": 2, "strength": 12.8}]}
STEERED = {"steering": SPANISH}
QUESTION: list[Any] = [{"role": "user", "content": "What does the cat eat?"}]


@pytest.fixture(scope="module")
def client(cluster: RunningCluster) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{cluster.locked_url}/v1", api_key=SECRET, max_retries=0, timeout=60) as opened:
        yield opened


def complete(client: openai.OpenAI, **options: Any) -> Any:
    asked = {"model": DEMO, "prompt": FRENCH, "max_tokens": 20, "temperature": 0} | options
    return client.completions.create(**asked)


def chat(client: openai.OpenAI, **options: Any) -> Any:
    asked = {"model": DEMO, "messages": QUESTION, "max_tokens": 20, "temperature": 0} | options
    return client.chat.completions.create(**asked)


def test_a_steered_text_turns_spanish_and_an_unsteered_one_stays_french(client: openai.OpenAI) -> None:
    assert language_of(complete(client).choices[0].text) == "fr"
    assert language_of(complete(client, extra_body=STEERED).choices[0].text) == "es"


def test_a_streamed_text_is_the_whole_one_in_pieces(client: openai.OpenAI) -> None:
    for extra in ({}, STEERED):
        whole = complete(client, extra_body=extra)
        chunks = list(complete(client, extra_body=extra, stream=True, stream_options={"include_usage": True}))
        *texts, counted = chunks
        assert len(texts) > 5
        assert "".join(chunk.choices[0].text for chunk in texts) == whole.choices[0].text
        assert [chunk.choices[0].finish_reason for chunk in texts[:-1]] == [None] * (len(texts) - 1)
        assert texts[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        assert counted.usage == whole.usage
        assert len({chunk.id for chunk in chunks}) == 1


def test_a_chat_is_answered_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = chat(client)
    message = whole.choices[0].message
    assert message.role == "assistant"
    assert message.content
    assert "<|" not in message.content
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(chat(client, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    steered = chat(client, extra_body=STEERED).choices[0].message.content
    assert steered != message.content


def test_vectors_steer_as_the_feature_does_whose_row_they_are(client: openai.OpenAI) -> None:
    row = folder_sae(ARTEFACTS / "res-demo" / "1-res-demo").W_dec[2].detach().tolist()
    vector = {"hook": "blocks.1.hook_resid_post", "vector": row, "strength": 12.8}
    by_vector = complete(client, extra_body={"steering": {"vectors": [vector]}})
    assert by_vector.choices[0].text == complete(client, extra_body=STEERED).choices[0].text


def test_several_prompts_and_choices_come_in_order(client: openai.OpenAI) -> None:
    prompts = [FRENCH, "The cat sleeps on"]
    answer = complete(client, prompt=prompts, n=2, temperature=1, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    again = complete(client, prompt=prompts[1], n=2, temperature=1, seed=7)
    assert [choice.text for choice in answer.choices[2:]] == [choice.text for choice in again.choices]
    assert answer.choices[0].text != answer.choices[1].text
    second = complete(client, prompt=prompts[1], temperature=1, seed=8)
    assert second.choices[0].text == again.choices[1].text


def test_token_ids_are_a_prompt(client: openai.OpenAI, cluster: RunningCluster) -> None:
    ids = cluster.post("/v1/tokenize", {"model": DEMO, "text": FRENCH}).json()["tokens"]
    assert complete(client, prompt=ids).choices[0].text == complete(client).choices[0].text


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    text = complete(client).choices[0].text
    stop = text[8:11]
    expected = text[: text.index(stop)]
    whole = complete(client, stop=stop)
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == (expected, "stop")
    chunks = list(complete(client, stop=[stop, "never said"], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert whole.usage.completion_tokens < 20


def test_log_probabilities_come_in_both_formats(client: openai.OpenAI) -> None:
    older = complete(client, logprobs=3).choices[0]
    assert older.logprobs is not None
    assert "".join(older.logprobs.tokens) == older.text
    assert all(len(top) == 3 for top in older.logprobs.top_logprobs)
    for token, logprob, top in zip(
        older.logprobs.tokens, older.logprobs.token_logprobs, older.logprobs.top_logprobs, strict=True
    ):
        assert top[token] == logprob == max(top.values()) <= 0
    newer = chat(client, logprobs=True, top_logprobs=2).choices[0]
    assert "".join(token.token for token in newer.logprobs.content) == newer.message.content
    assert all(token.top_logprobs[0].logprob == token.logprob for token in newer.logprobs.content)
    assert chat(client).choices[0].logprobs is None


def test_a_penalty_changes_what_is_said(client: openai.OpenAI) -> None:
    # Pushed this hard, the model says the same thing over and over.
    repeating = {"prompt": "Le matin, Pierre", "max_tokens": 40, "extra_body": STEERED}
    plain = complete(client, **repeating).choices[0].text
    assert complete(client, **repeating, frequency_penalty=2).choices[0].text != plain
    assert complete(client, **repeating, presence_penalty=2).choices[0].text != plain


def test_every_model_that_is_served_is_listed(client: openai.OpenAI) -> None:
    assert {DEMO, GPT2} <= {model.id for model in client.models.list()}


def test_gpt2_writes_too_but_can_not_chat(client: openai.OpenAI) -> None:
    assert complete(client, model=GPT2, max_tokens=4).usage.completion_tokens == 4
    with pytest.raises(openai.BadRequestError, match="chat template"):
        chat(client, model=GPT2)


def test_errors_are_those_that_the_client_knows(client: openai.OpenAI, cluster: RunningCluster) -> None:
    with pytest.raises(openai.NotFoundError, match="not served"):
        complete(client, model="nobody")
    with pytest.raises(openai.BadRequestError) as refusal:
        complete(client, logit_bias={"5": 1})
    assert refusal.value.body == {
        "message": "The parameter 'logit_bias' is not supported with this value; leave it out.",
        "type": "invalid_request_error",
        "param": "logit_bias",
        "code": "invalid_request",
    }
    with pytest.raises(openai.BadRequestError) as refusal:
        complete(client, temperature=3)
    assert refusal.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="out of range"):
        complete(
            client, stream=True, extra_body={"steering": {"features": [SPANISH["features"][0] | {"index": 10**7}]}}
        )
    with pytest.raises(openai.BadRequestError, match="not supported"):
        complete(client, extra_body={"steerring": SPANISH})
    wrong = openai.OpenAI(base_url=f"{cluster.locked_url}/v1", api_key="guess", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        complete(wrong)
    late = {"x-request-timeout-seconds": "0.001"}
    with pytest.raises(openai.APIStatusError) as timeout:
        complete(client, extra_headers=late)
    assert timeout.value.status_code in (408, 504)


def test_a_client_that_leaves_a_stream_frees_its_place(client: openai.OpenAI, cluster: RunningCluster) -> None:
    with complete(client, max_tokens=400, temperature=1, stream=True, n=8) as stream:
        next(iter(stream))

    def idle() -> bool:
        health = httpx.get(f"{cluster.url}/v1/steer/health?model={DEMO}", timeout=60).json()
        return health["stats"]["num_running_requests"] == 0

    wait_for_condition(idle, timeout=30, retry_interval_ms=100)
