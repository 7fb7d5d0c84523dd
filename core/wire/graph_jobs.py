"""Bodies of graphs that are made in the background, and of the serverless envelope around the graph routes.

POST /graphs                  GraphGenerationRequest -> 202 GraphJobResponse
GET /graphs/{id}              GraphJobResponse
GET /graphs/{id}/events       GraphJobResponse, one per event
DELETE /graphs/{id}           GraphJobResponse
POST /graphs/{id}/prune       GraphPruneRequest -> as /generate-graph

{"input": {"request_type": "steer", "deadline": 1760000000, ...}} -> {"output": ...}
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, Literal, TypeAlias

from pydantic import ConfigDict, Field, ValidationError

from core.errors import InvalidRequest
from core.job_state import Status
from core.wire.base import WireModel
from core.wire.cluster import schema_problems
from core.wire.graph import (
    COUNTING,
    Finite,
    ForwardPassRequest,
    GraphGenerationRequest,
    GraphReply,
    ParseChatPromptRequest,
    SteerRequest,
    graph_config,
)

Stage: TypeAlias = Literal["queued", "trace", "attribute", "prune", "publish"]
"""How far a graph is: it waits, its prompt is read, rows are computed, nodes are chosen, it is written."""

GraphAsked: TypeAlias = GraphGenerationRequest | ForwardPassRequest | SteerRequest | ParseChatPromptRequest


class GraphProgress(GraphReply):
    """How far a graph has come."""

    stage: Stage = Field(description="queued, trace, attribute, prune or publish.")
    rows_done: int = Field(description="Features whose causes are known.")
    rows_total: int | None = Field(default=None, description="Features that the graph will have; null: not known yet.")


class GraphJobResponse(GraphReply):
    """A graph in the making."""

    drops_nulls: ClassVar[bool] = True

    id: str = Field(description="Name of the job.")
    status: Status = Field(description="IN_QUEUE, IN_PROGRESS, COMPLETED, FAILED or CANCELLED.")
    progress: GraphProgress = Field(description="How far it has come.")
    partial: bool | None = Field(
        default=None, description="Whether `graph` is made of the rows known so far; absent where there is no graph."
    )
    graph: Any = Field(default=None, description="The graph, unless it went to storage.")
    upload: Any = Field(default=None, description="Where it went, as /generate-graph answers it.")
    error: str | None = Field(default=None, description="Why it failed.")


class GraphPruneRequest(WireModel):
    """Other thresholds for a finished graph."""

    model_config = graph_config({"node_threshold": 0.6, "edge_threshold": 0.9})

    node_threshold: Finite = Field(default=0.8, description="Share of all influence that the nodes shown have.")
    edge_threshold: Finite = Field(default=0.98, description="Share of it that the links shown have.")
    labels: dict[str, str] | None = Field(
        default=None, description="What features are about, by `layer_index`; null keeps the labels that it has."
    )
    signed_url: str | None = Field(
        default=None, repr=False, description="URL signed for PUT; null: graph in the answer."
    )
    destination: str | None = Field(default=None, description="s3://bucket/key; excludes signed_url.")
    compress: bool = Field(default=False, description="Upload with gzip.")


_REQUESTS: Final[Mapping[str, Callable[[Any], GraphAsked]]] = {
    "graph": GraphGenerationRequest.model_validate,
    "forward-pass": ForwardPassRequest.model_validate,
    "steer": SteerRequest.model_validate,
    "parse-chat-prompt": ParseChatPromptRequest.model_validate,
}


class GraphServerlessInput(WireModel):
    """What a serverless job of the graph routes is about: the route's own body next to these two keys."""

    model_config = graph_config({"request_type": "graph", **COUNTING}) | ConfigDict(extra="allow")

    request_type: str = Field(default="graph", description="graph, forward-pass, steer or parse-chat-prompt.")
    deadline: Finite | None = Field(default=None, description="Seconds since 1970 after which nobody waits.")

    def request(self) -> GraphAsked:
        """The route's own request.

        Raises:
            InvalidRequest: There is no such type of request, or the rest of the input is none of that type.
        """
        read = _REQUESTS.get(self.request_type)
        if read is None:
            raise InvalidRequest(f"Unknown request type: {self.request_type}", f"Known: {', '.join(_REQUESTS)}.")
        try:
            return read(self.model_extra)
        except ValidationError as error:
            problem, *_ = schema_problems(error.errors())
            place = ".".join(str(part) for part in problem.loc)
            raise InvalidRequest(
                f"The input is no {self.request_type} request: {place}: {problem.msg}",
                "See /docs for the schema of the route, with examples.",
            ) from None

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """The rest may hold a signed URL, whose query is a credential."""
        yield from (("request_type", self.request_type), ("deadline", self.deadline))


class MissedDeadline(GraphReply):
    """A serverless job's output when it came too late."""

    error: str = Field(description="By how much.")
    server_time: float = Field(description="Seconds since 1970 here.")
    deadline: float = Field(description="Seconds since 1970 that the job named.")
    delta_seconds: float = Field(description="The difference.")
