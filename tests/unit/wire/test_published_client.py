"""The client on PyPI, 1.10.1: what it sends we accept, what we reply it reads."""

import json
from typing import Any

import neuronpedia_inference_client as client
import pytest
from pydantic import BaseModel

from core.wire import activations, positions, rankings, steering, steering_chat
from core.wire import features as f
from core.wire import tokens as t
from core.wire.base import RequestModel, WireModel, render, reply_case

USER_AGENT = client.ApiClient().user_agent
FEATURE = client.NPFeature(model="m", source="0-res-demo", index=17)
SINGLE = {"model": "m", "source": "0-res-demo", "index": "17"}
ALL = {
    "model": "m",
    "source_set": "res-demo",
    "selected_sources": [],
    "sort_by_token_indexes": [1],
    "ignore_bos": True,
    "num_results": 5,
}
TOPK = {"model": "m", "source": "0-res-demo", "top_k": 3, "ignore_bos": True}

VALUES = activations.ActivationValues(values=[0.0, 1.5], max_value=1.5, max_value_index=1, dfa_values=[0.1, 0.2])
SINGLE_RESULT = {"activation": VALUES, "tokens": ["a", "b"], "tokens_is_special": [False, False]}
TOP = rankings.ActivationAllFeature(
    source="0-res-demo", index=3, values=[1.0], sum_values=0, max_value=1, max_value_index=0
)
ALL_RESULT = {"activations": [TOP], "tokens": ["a"]}
TOKEN = positions.ActivationTopkByTokenResult(
    token_position=1,
    token="a",
    is_special=False,
    top_features=[positions.ActivationTopkByTokenFeature(feature_index=3, activation_value=0.5)],
)
TOPK_RESULT = {"results": [TOKEN], "tokens": ["a"]}
NEIGHBOUR = {"feature": FEATURE.to_dict(), "cosine_similarity": 0.5}
STEER = {
    "model": "m",
    "steer_method": client.NPSteerMethod.PROJECTION_CAP,
    "normalize_steering": True,
    "types": [client.NPSteerType.STEERED, client.NPSteerType.DEFAULT],
    "n_completion_tokens": 3,
    "temperature": 0.5,
    "strength_multiplier": 2,
    "freq_penalty": 0.25,
    "seed": 16,
    "n_logprobs": 2,
}
STEER_FEATURE = client.NPSteerFeature(model="m", source="0-res-demo", index=17, strength=2.5)
STEER_VECTOR = client.NPSteerVector(steering_vector=[1, 0.5], strength=-3, hook="blocks.2.hook_resid_post")
SCORES = [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]}]
MESSAGE = {"role": "user", "content": "a"}

EXCHANGES: dict[str, tuple[Any, type[RequestModel], WireModel, Any]] = {
    "single": (
        client.ActivationSinglePostRequest(prompt="a", **SINGLE),
        activations.ActivationSingleRequest,
        activations.ActivationSingleResponse.model_validate(SINGLE_RESULT),
        client.ActivationSinglePost200Response,
    ),
    "single-vector": (
        client.ActivationSinglePostRequest(prompt="a", model="m", vector=[1, 0.5], hook="blocks.2.hook_resid_post"),
        activations.ActivationSingleRequest,
        activations.ActivationSingleResponse.model_validate(SINGLE_RESULT),
        client.ActivationSinglePost200Response,
    ),
    "single-batch": (
        client.ActivationSingleBatchPostRequest(prompts=["a"], **SINGLE),
        activations.ActivationSingleBatchRequest,
        activations.ActivationSingleBatchResponse.model_validate({"results": [SINGLE_RESULT]}),
        client.ActivationSingleBatchPost200Response,
    ),
    "all": (
        client.ActivationAllPostRequest(prompt="a", **ALL),
        rankings.ActivationAllRequest,
        rankings.ActivationAllResponse.model_validate(ALL_RESULT),
        client.ActivationAllPost200Response,
    ),
    "all-batch": (
        client.ActivationAllBatchPostRequest(prompts=["a"], **ALL),
        rankings.ActivationAllBatchRequest,
        rankings.ActivationAllBatchResponse.model_validate({"results": [ALL_RESULT]}),
        client.ActivationAllBatchPost200Response,
    ),
    "source": (
        client.ActivationSourcePostRequest(prompts=["a"], model="m", source="0-res-demo"),
        positions.ActivationSourceRequest,
        positions.ActivationSourceResponse.model_validate(
            {"results": [{"tokens": ["a", "b"], "active_features": {"3": [(1, 0.25)]}}]}
        ),
        client.ActivationSourcePost200Response,
    ),
    "topk-by-token": (
        client.ActivationTopkByTokenPostRequest(prompt="a", **TOPK),
        positions.ActivationTopkByTokenRequest,
        positions.ActivationTopkByTokenResponse.model_validate(TOPK_RESULT),
        client.ActivationTopkByTokenPost200Response,
    ),
    "topk-by-token-batch": (
        client.ActivationTopkByTokenBatchPostRequest(prompts=["a"], **TOPK),
        positions.ActivationTopkByTokenBatchRequest,
        positions.ActivationTopkByTokenBatchResponse.model_validate({"results": [TOPK_RESULT]}),
        client.ActivationTopkByTokenBatchPost200Response,
    ),
    "tokenize": (
        client.TokenizePostRequest(model="m", text="a"),
        t.TokenizeRequest,
        t.TokenizeResponse(tokens=[1], token_strings=["a"], prepend_bos=True),
        client.TokenizePost200Response,
    ),
    "sae-vector": (
        client.UtilSaeVectorPostRequest(model="m", source="0-res-demo", index=17),
        f.UtilSaeVectorRequest,
        f.UtilSaeVectorResponse(vector=[0.5], hook_name="blocks.0.hook_resid_post"),
        client.UtilSaeVectorPost200Response,
    ),
    "sae-topk-by-decoder-cossim": (
        client.UtilSaeTopkByDecoderCossimPostRequest(feature=FEATURE, model="m", source="0-res-demo", num_results=5),
        f.UtilSaeTopkByDecoderCossimRequest,
        f.UtilSaeTopkByDecoderCossimResponse.model_validate(
            {"feature": FEATURE.to_dict(), "topk_decoder_cossim_features": [NEIGHBOUR]}
        ),
        client.UtilSaeTopkByDecoderCossimPost200Response,
    ),
    "steer-completion": (
        client.SteerCompletionRequest(prompt="a", features=[STEER_FEATURE], **STEER),
        steering.SteerCompletionRequest,
        steering.SteerCompletionResponse.model_validate(
            {"outputs": [{"type": "STEERED", "output": "b", "logprobs": SCORES}]}
        ),
        client.SteerCompletionPost200Response,
    ),
    "steer-completion-chat": (
        client.SteerCompletionChatPostRequest(
            prompt=[client.NPSteerChatMessage(**MESSAGE)], vectors=[STEER_VECTOR], steer_special_tokens=False, **STEER
        ),
        steering_chat.SteerCompletionChatRequest,
        steering_chat.SteerCompletionChatResponse.model_validate(
            {
                "outputs": [{"type": "DEFAULT", "raw": "b", "chat_template": [MESSAGE], "logprobs": SCORES}],
                "input": {"raw": "b", "chat_template": [MESSAGE]},
                "assistant_axis": [
                    {"type": "DEFAULT", "pc_titles": ["p"], "turns": [{"pc_values": {"p": 0.5}, "snippet": "s"}]}
                ],
            }
        ),
        client.SteerCompletionChatPost200Response,
    ),
}


def _set_fields(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(exclude_none=True)


@pytest.mark.parametrize("route", EXCHANGES)
def test_what_the_client_sends_is_understood_whole(route: str) -> None:
    sent, model, _, _ = EXCHANGES[route]
    request = model.model_validate_json(sent.to_json())
    understood = _set_fields(request)
    assert {name: understood[name] for name in _set_fields(sent)} == _set_fields(sent)


@pytest.mark.parametrize("route", EXCHANGES)
def test_what_we_reply_the_client_reads_whole(route: str) -> None:
    sent, model, response, reader = EXCHANGES[route]
    request = model.model_validate_json(sent.to_json())
    case = reply_case(request.case, USER_AGENT, "camel")
    read = reader.from_json(render(response, case).decode())
    assert json.loads(json.dumps(_set_fields(read))) == json.loads(json.dumps(_set_fields(response)))


@pytest.mark.parametrize("route", ["single", "single-batch", "tokenize"])
def test_only_the_clients_name_gives_its_casing_away_on_some_routes(route: str) -> None:
    sent, model, response, reader = EXCHANGES[route]
    assert model.model_validate_json(sent.to_json()).case is None
    with pytest.raises(ValueError, match="validation error"):
        reader.from_json(render(response, "camel").decode())


def test_every_route_of_the_client_that_we_serve_is_exercised() -> None:
    methods = {name for name in vars(client.DefaultApi) if name.endswith("_post")}
    served = {
        f"{prefix}{route.replace('-', '_')}_post" for route in EXCHANGES for prefix in ("activation_", "util_", "")
    }
    assert methods <= served
