"""The automatic interpretability routes: the peer's three, any type of explainer or scorer, and which there are."""

from typing import Annotated, Any

from fastapi import FastAPI, Header, Request, Response
from pydantic import SecretStr

from core.exchange.autointerp import embedding_response, explain_response, fuzz_detection_response
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
from core.wire.autointerp import (
    ExplainDefaultRequest,
    ExplainDefaultResponse,
    ScoreEmbeddingRequest,
    ScoreEmbeddingResponse,
    ScoreFuzzDetectionRequest,
    ScoreFuzzDetectionResponse,
)
from core.wire.autointerp_types import (
    ExplainTypedRequest,
    ExplainTypedResponse,
    ScoreTypedRequest,
    ScoreTypedResponse,
    TypesResponse,
)
from core.wire.cluster import DetailedErrorBody
from deployments.autointerp.client import AutointerpClient
from deployments.gateway.desk import Desk
from deployments.gateway.routes import add_post, add_route

TAG = "automatic interpretability"
KEY_HEADER = "x-openrouter-key"
ProviderKeyHeader = Annotated[
    SecretStr | None, Header(alias=KEY_HEADER, description="Key for the provider, instead of one in the body.")
]
_TOLD = {
    400: "The request can not succeed as it is, or the provider refuses the key.",
    402: "The account behind the provider key has no credit, or a budget is reached.",
    404: "There is no such type, or the provider does not have the model.",
    429: "The provider, or this cluster, has too much to do; see `Retry-After`.",
    502: "The provider failed, however often it was asked.",
    504: "The provider, or all of it, took too long.",
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": DetailedErrorBody, "description": text} for status, text in _TOLD.items()
}
"""What these routes answer otherwise than all others."""


def add_autointerp_routes(app: FastAPI, desk: Desk) -> None:
    """Adds the routes; the peer's first, as their paths would be types."""
    _add_peer_routes(app, desk)

    async def types(request: Request) -> Response:
        client = await desk.autointerp()
        return desk.respond(request, None, types_reply(client.description))

    async def explain(
        request: Request, type: str, body: ExplainTypedRequest, header_key: ProviderKeyHeader = None
    ) -> Response:
        client = await desk.autointerp()
        choice = choice_of(body, header_key, client.description)
        record = await _record(desk, request, client, wanted_record(body, type))
        explanation = await client.explain(explain_task(body, type, record, choice), desk.deadline(request))
        return desk.respond(request, body, explain_reply(explanation, request.state.request_id))

    async def score(
        request: Request, type: str, body: ScoreTypedRequest, header_key: ProviderKeyHeader = None
    ) -> Response:
        client = await desk.autointerp()
        choice = choice_of(body, header_key, client.description)
        record = await _record(desk, request, client, wanted_record(body, type))
        scored = await client.score(score_task(body, type, record, choice), desk.deadline(request))
        snake_case = body.case == "snake"
        return desk.respond(request, body, score_reply(scored, request.state.request_id, snake_case=snake_case))

    summary = "Which explainers and scorers there are"
    add_route(app, "GET", "/v1/autointerp/types", TAG, types, TypesResponse, summary)
    add_post(app, "/v1/explain/{type}", TAG, ExplainTypedRequest, ExplainTypedResponse, explain, responses=REFUSALS)
    add_post(app, "/v1/score/{type}", TAG, ScoreTypedRequest, ScoreTypedResponse, score, responses=REFUSALS)


def _add_peer_routes(app: FastAPI, desk: Desk) -> None:
    async def explain(request: Request, body: ExplainDefaultRequest, header_key: ProviderKeyHeader = None) -> Response:
        client = await desk.autointerp()
        task = explain_default(body, header_key, client.description)
        explanation = await client.explain(task, desk.deadline(request))
        return desk.respond(request, body, explain_response(explanation, request.state.request_id))

    async def judge(
        request: Request, body: ScoreFuzzDetectionRequest, header_key: ProviderKeyHeader = None
    ) -> Response:
        client = await desk.autointerp()
        task = score_fuzz_detection(body, header_key, client.description)
        scored = await client.score(task, desk.deadline(request))
        return desk.respond(request, body, fuzz_detection_response(scored, request.state.request_id))

    async def embed(request: Request, body: ScoreEmbeddingRequest) -> Response:
        client = await desk.autointerp()
        task = score_embedding(body, client.description.embedding_model)
        scored = await client.score(task, desk.deadline(request))
        return desk.respond(request, body, embedding_response(scored, request.state.request_id))

    routes = (
        ("/v1/explain/default", ExplainDefaultRequest, ExplainDefaultResponse, explain),
        ("/v1/score/fuzz-detection", ScoreFuzzDetectionRequest, ScoreFuzzDetectionResponse, judge),
        ("/v1/score/embedding", ScoreEmbeddingRequest, ScoreEmbeddingResponse, embed),
    )
    for path, body, response, endpoint in routes:
        add_post(app, path, TAG, body, response, endpoint, responses=REFUSALS)


async def _record(desk: Desk, request: Request, client: AutointerpClient, wanted: Any) -> Any:
    """The record that came with a request, or the server's."""
    if isinstance(wanted, SourcedRecord):
        return await client.record(wanted.name, wanted.settings, desk.deadline(request))
    return wanted
