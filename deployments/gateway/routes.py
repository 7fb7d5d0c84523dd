"""Every route of the front door, one line each where a line is enough.

Most routes differ only in their bodies and in the exchange between body and questions (`core.exchange`), so they are a
table. Operation ids follow the published document: the path without `/v1`, camel-cased, with the verb.
"""

import re
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

from fastapi import FastAPI, Request, Response

from core.exchange import features, internals, positions, rankings, seed, text, weights
from core.wire.cluster import ErrorBody, SchemaErrorBody
from core.wire.features import (
    SimilarityMatrixRequest,
    SimilarityMatrixResponse,
    UtilSaeTopkByDecoderCossimRequest,
    UtilSaeTopkByDecoderCossimResponse,
    UtilSaeVectorRequest,
    UtilSaeVectorResponse,
)
from core.wire.seed import (
    ActivationsAllRequest,
    ActivationsAllResponse,
    ActivationsTestRequest,
    ActivationsTestResponse,
    TopKByDecoderCosineSimilarityRequest,
    TopKByDecoderCosineSimilarityResponse,
)
from core.wire.tokens import (
    ApplyChatTemplateRequest,
    ApplyChatTemplateResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from deployments.gateway.desk import Desk

_ACTIVATIONS, _WEIGHTS, _TEXT, OLDER = "activations", "SAE weights", "tokens and chat", "older routes"

# What comes after /v1/activation/; an exchange's annotations name the bodies.
_QUESTIONS: dict[str, Callable[..., Any]] = {
    "single": features.single,
    "single-batch": features.single_batch,
    "all": rankings.all_features,
    "all-batch": rankings.all_features_batch,
    "source": positions.active_features,
    "topk-by-token": positions.top_k_by_token,
    "topk-by-token-batch": positions.top_k_by_token_batch,
    "raw": internals.raw,
    "attention": internals.attention,
}


def add_routes(app: FastAPI, desk: Desk) -> None:
    """Adds every route that takes a body."""
    for name, exchange in _QUESTIONS.items():
        add_post(app, f"/v1/activation/{name}", _ACTIVATIONS, *_bodies(exchange), _asking(desk, exchange))

    async def similarity(request: Request, body: SimilarityMatrixRequest) -> Response:
        return await desk.exchange(request, body, body.model_id, positions.prediction_similarity)

    async def vector(request: Request, body: UtilSaeVectorRequest) -> Response:
        answer = await desk.look_up(request, body.model, lambda model: weights.sae_vector(body, model))
        return desk.respond(request, body, weights.sae_vector_reply(answer))

    async def neighbours(request: Request, body: UtilSaeTopkByDecoderCossimRequest) -> Response:
        answer = await desk.look_up(request, body.model, lambda model: weights.neighbours(body, model))
        return desk.respond(request, body, weights.neighbours_reply(body, answer))

    async def tokenize(request: Request, body: TokenizeRequest) -> Response:
        client = await desk.model(body.model)
        return desk.respond(request, body, text.tokenize(body, client.served))

    async def chat(request: Request, body: ApplyChatTemplateRequest) -> Response:
        client = await desk.model(body.model)
        return desk.respond(request, body, text.apply_chat_template(body, client.served))

    util = "/v1/util"
    add_post(app, f"{util}/sae-vector", _WEIGHTS, UtilSaeVectorRequest, UtilSaeVectorResponse, vector)
    add_post(
        app,
        f"{util}/sae-topk-by-decoder-cossim",
        _WEIGHTS,
        UtilSaeTopkByDecoderCossimRequest,
        UtilSaeTopkByDecoderCossimResponse,
        neighbours,
    )
    add_post(
        app,
        f"{util}/similarity-matrix-pred",
        _ACTIVATIONS,
        SimilarityMatrixRequest,
        SimilarityMatrixResponse,
        similarity,
    )
    add_post(app, "/v1/tokenize", _TEXT, TokenizeRequest, TokenizeResponse, tokenize)
    add_post(app, "/v1/apply-chat-template", _TEXT, ApplyChatTemplateRequest, ApplyChatTemplateResponse, chat)
    _add_older_routes(app, desk)


def _add_older_routes(app: FastAPI, desk: Desk) -> None:
    async def test(request: Request, body: ActivationsTestRequest) -> Response:
        desk.check_body_secret(body.secret)
        return await desk.exchange(request, body, body.model, seed.activations_test)

    async def everything(request: Request, body: ActivationsAllRequest) -> Response:
        desk.check_body_secret(body.secret)
        return await desk.exchange(request, body, body.model, seed.activations_all)

    async def near(request: Request, body: TopKByDecoderCosineSimilarityRequest) -> Response:
        desk.check_body_secret(body.secret)
        answer = await desk.look_up(
            request, body.model, lambda model: seed.top_k_by_decoder_cosine_similarity(body, model)
        )
        return desk.respond(request, body, seed.top_k_reply(body, answer))

    add_post(app, "/activations-test", OLDER, ActivationsTestRequest, ActivationsTestResponse, test)
    add_post(app, "/activations-all", OLDER, ActivationsAllRequest, ActivationsAllResponse, everything)
    add_post(
        app,
        "/top-k-by-decoder-cosine-similarity",
        OLDER,
        TopKByDecoderCosineSimilarityRequest,
        TopKByDecoderCosineSimilarityResponse,
        near,
    )


def _bodies(exchange: Callable[..., Any]) -> tuple[type[Any], type[Any]]:
    """The request and the response that an exchange is between."""
    hints = get_type_hints(exchange)
    return hints["request"], get_args(hints["return"])[0]


def _asking(desk: Desk, exchange: Callable[..., Any]) -> Callable[..., Any]:
    async def ask(request: Request, body: Any) -> Response:
        return await desk.exchange(request, body, body.model, exchange)

    return ask


def add_post(
    app: FastAPI,
    path: str,
    tag: str,
    body: type[Any],
    response: type[Any],
    endpoint: Callable[..., Any],
    *,
    responses: dict[int | str, dict[str, Any]] | None = None,
) -> None:
    """Adds a route that takes a body, documented by what its models say.

    Args:
        app: The app.
        path: The path.
        tag: Its chapter in the documentation.
        body: What clients send.
        response: What they get.
        endpoint: Answers `(request, body)`.
        responses: What else the documentation says about answers.
    """
    endpoint.__annotations__["body"] = body
    app.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        tags=[tag],
        operation_id=operation_id(path, "post"),
        summary=(body.__doc__ or "").splitlines()[0].rstrip("."),
        response_model=response,
        responses=ERRORS | (responses or {}),
    )


def add_route(
    app: FastAPI,
    verb: str,
    path: str,
    tag: str,
    endpoint: Callable[..., Any],
    response: type[Any],
    summary: str,
    responses: dict[int | str, dict[str, Any]] | None = None,
) -> None:
    """Adds a route that is documented by a sentence: one without a body, or beside another with the same.

    Args:
        app: The app.
        verb: `GET` and the like.
        path: The path.
        tag: Its chapter in the documentation.
        endpoint: Answers.
        response: What clients get.
        summary: The sentence.
        responses: What the documentation says about other answers; by default what every route may answer.
    """
    app.add_api_route(
        path,
        endpoint,
        methods=[verb],
        tags=[tag],
        operation_id=operation_id(path, verb.lower()),
        summary=summary,
        response_model=response,
        responses=ERRORS if responses is None else responses,
    )


def operation_id(path: str, verb: str) -> str:
    """`/v1/activation/topk-by-token` becomes `activationTopkByTokenPost`."""
    words = [word for word in re.split(r"[/{}-]", path.removeprefix("/v1")) if word]
    return words[0] + "".join(word.capitalize() for word in [*words[1:], verb])


_REFUSALS = {
    400: "The request can not succeed as it is.",
    401: "The secret is missing or wrong.",
    404: "The model, source set or source is not served here.",
    413: "The request needs more memory than one request may have.",
    429: "Too much is waiting; see `Retry-After`.",
    503: "What is needed is not up at the moment.",
    504: "The deadline passed.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    **{status: {"model": ErrorBody, "description": text} for status, text in _REFUSALS.items()},
    422: {"model": SchemaErrorBody, "description": "The body does not fit its schema."},
}
