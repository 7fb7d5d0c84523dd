"""`/generate-graph` and `/forward-pass`: requests as questions, answers as replies, and what all graph routes share.

The peer's refusals come in its words and in its order. What it does not check, and fails over later, is refused here
with a reason: numbers out of range, targets that are no tokens, labels of features that do not exist.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from core.errors import InvalidRequest
from core.exchange.graph_prompt import prompt_text
from core.exchange.served import ServedModel
from core.graph.prompt import prompt_tokens
from core.graph.requests import (
    AttributionOptions,
    Delivery,
    ForwardPassAnswer,
    ForwardPassQuestion,
    GraphDescription,
    GraphQuestion,
    PruningOptions,
)
from core.prompts import TokenLimit, check_unicode
from core.wire.graph import (
    ForwardPassRequest,
    ForwardPassResponse,
    GraphGenerationRequest,
    GraphGenerationResponse,
    SalientLogit,
)
from core.wire.graph_jobs import GraphPruneRequest, MissedDeadline

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Response = TypeVar("Response")

BUSY: Final = "Server busy, please try again later."
"""What a graph route says, with status 503, where nothing may wait."""

_LABEL: Final = re.compile(r"([0-9]{1,4})_([0-9]{1,12})")
_LONGEST_LABEL: Final = 1000
_LONGEST_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class ServedGraphs:
    """A model with one of its transcoder sets."""

    model: ServedModel
    description: GraphDescription


@dataclass(frozen=True, slots=True)
class GraphExchange(Generic[Question, Answer, Response]):
    """A question to ask, and how its answer becomes the response."""

    question: Question
    reply: Callable[[Answer], Response]


@dataclass(frozen=True, slots=True)
class _GraphTokenLimit(TokenLimit):
    """The peer's words for a prompt that is too long."""

    def refusal(self, n_tokens: int, hint: str | None = None) -> InvalidRequest:
        """The error for a prompt of `n_tokens` tokens."""
        return InvalidRequest(f"Prompt exceeds token limit ({n_tokens} > {self.max_tokens})", hint)


def unavailable_model(asked: str, served: Sequence[str]) -> InvalidRequest:
    """The peer's refusal of a model that is not served with transcoders."""
    names = ", ".join(f"'{name}'" for name in served) or "none"
    return InvalidRequest(
        f"Model '{asked}' is not available. Only {names} {'is' if len(served) < 2 else 'are'} currently loaded.",
        "See GET /v1/models for all models and what they are served for.",
    )


def generate_graph(request: GraphGenerationRequest, served: ServedGraphs, now_s: float) -> GraphQuestion:
    """A graph to make.

    Args:
        request: The request.
        served: What it is made with.
        now_s: Seconds since 1970, for graphs without a name.

    Raises:
        InvalidRequest: The prompt is too long, or something else can not be done as it is asked for.
    """
    model, limits = served.model, served.description.limits
    text = prompt_text(request, model)
    limit = _GraphTokenLimit(limits.token_limit)
    prompt = prompt_tokens(model.tokenizer, text, model.description.names.weights, limit)
    if request.enable_qk_tracing:
        raise InvalidRequest(
            "enable_qk_tracing needs attention features, which are not served",
            "Leave it out; the graph then explains MLPs.",
        )
    check_range("max_n_logits", request.max_n_logits, 1, limits.most_logits)
    check_range("desired_logit_prob", request.desired_logit_prob, 0, 1)
    check_range("batch_size", request.batch_size, 1, None)
    for name in (request.slug_identifier, request.user_id or ""):
        check_unicode(name)
        if len(name) > _LONGEST_NAME:
            raise InvalidRequest(f"slug_identifier and user_id may have {_LONGEST_NAME} characters at most")
    return GraphQuestion(
        prompt=prompt,
        attribution=AttributionOptions(
            max_n_logits=request.max_n_logits,
            desired_logit_prob=request.desired_logit_prob,
            batch_size=min(request.batch_size, limits.batch_rows),
            max_feature_nodes=_max_feature_nodes(request, served.description),
            targets=None if request.targets is None else _targets(request.targets, served),
        ),
        pruning=pruning_options(request),
        slug=request.slug_identifier or f"generated-{int(now_s)}",
        creator=request.user_id,
        labels=labels_of(request.labels or {}, served.description),
        delivery=delivery_of(request),
    )


def pruning_options(request: GraphGenerationRequest | GraphPruneRequest) -> PruningOptions:
    """What of a graph is shown.

    Raises:
        InvalidRequest: A threshold is no share.
    """
    check_range("node_threshold", request.node_threshold, 0, 1)
    check_range("edge_threshold", request.edge_threshold, 0, 1)
    return PruningOptions(request.node_threshold, request.edge_threshold)


def delivery_of(request: GraphGenerationRequest | GraphPruneRequest) -> Delivery:
    """Where a graph goes. Whether the cluster may write there is `core.outbound_urls`' matter.

    Raises:
        InvalidRequest: It is to go to two places.
    """
    if request.signed_url is not None and request.destination is not None:
        raise InvalidRequest("A graph goes to signed_url or to destination, not to both", "Leave one of them out.")
    return Delivery(request.signed_url, request.destination, request.compress)


def labels_of(labels: Mapping[str, str], description: GraphDescription) -> dict[tuple[int, int], str]:
    """Labels by `(layer, index)`.

    Raises:
        InvalidRequest: A label is of nothing, or too long.
    """
    found: dict[tuple[int, int], str] = {}
    for name, text in labels.items():
        check_unicode(name + text)
        match = _LABEL.fullmatch(name)
        if match is None:
            raise InvalidRequest(f"'{name[:100]}' names no feature", "Labels are named by layer and index, as in 3_17.")
        layer, index = int(match[1]), int(match[2])
        check_feature(layer, index, description)
        if len(text) > _LONGEST_LABEL:
            raise InvalidRequest(f"The label of {name} has {len(text)} characters, the most are {_LONGEST_LABEL}")
        found[layer, index] = text
    return found


def check_feature(layer: int, index: int, description: GraphDescription) -> None:
    """Refuses a feature that the transcoders do not have.

    Raises:
        InvalidRequest: So it is.
    """
    check_range("layer", layer, 0, description.n_layers - 1)
    check_range("index", index, 0, description.n_features - 1)


def check_range(name: str, value: float, least: float, most: float | None) -> None:
    """Refuses a number out of range.

    Raises:
        InvalidRequest: So it is.
    """
    if value < least or (most is not None and value > most):
        allowed = f"at least {least:g}" if most is None else f"from {least:.12g} to {most:.12g}"
        raise InvalidRequest(f"{name} must be {allowed}, got {value}")


def uploaded(url: str, read_url: str | None = None) -> GraphGenerationResponse:
    """The receipt of a graph that went to storage.

    Args:
        url: Where it is, without credentials.
        read_url: A URL that reads it, if the storage is the cluster's.
    """
    return GraphGenerationResponse(success=f"Graph uploaded successfully to url: {url}", url=read_url)


def forward_pass(
    request: ForwardPassRequest, served: ServedGraphs
) -> GraphExchange[ForwardPassQuestion, ForwardPassAnswer, ForwardPassResponse]:
    """What comes after a prompt. Clients use it to count tokens too, so a graph's token limit does not hold here.

    Raises:
        InvalidRequest: The prompt is too long for the model, or a number is out of range.
    """
    model = served.model
    text = prompt_text(request, model)
    prompt = prompt_tokens(model.tokenizer, text, model.description.names.weights, model.limit)
    check_range("max_n_logits", request.max_n_logits, 1, served.description.limits.most_logits)
    check_range("desired_logit_prob", request.desired_logit_prob, 0, 1)

    def reply(answer: ForwardPassAnswer) -> ForwardPassResponse:
        strings = model.tokenizer.str_tokens(answer.token_ids)
        return ForwardPassResponse(
            prompt=text,
            input_tokens=list(model.tokenizer.str_tokens(prompt.ids)),
            salient_logits=[
                SalientLogit(token=string, token_id=id_, probability=probability)
                for string, id_, probability in zip(strings, answer.token_ids, answer.probabilities, strict=True)
            ],
            total_salient_tokens=len(answer.token_ids),
            cumulative_probability=sum(answer.probabilities),
        )

    return GraphExchange(ForwardPassQuestion(prompt.ids, request.max_n_logits, request.desired_logit_prob), reply)


def missed_deadline(deadline: float | None, now_s: float) -> MissedDeadline | None:
    """What a serverless job says that nobody waits for any more; None while there is time."""
    if deadline is None or now_s <= deadline:
        return None
    late = now_s - deadline
    return MissedDeadline(
        error=f"Request deadline exceeded by {late:.2f} seconds. Nobody waits for it any more, so it was not started.",
        server_time=now_s,
        deadline=deadline,
        delta_seconds=late,
    )


def _max_feature_nodes(request: GraphGenerationRequest, description: GraphDescription) -> int | None:
    limits = description.limits
    if "max_feature_nodes" not in request.model_fields_set:
        return limits.max_feature_nodes
    check_range("max_feature_nodes", request.max_feature_nodes, 0, limits.most_feature_nodes)
    return request.max_feature_nodes or None


def _targets(wanted: Sequence[int | str], served: ServedGraphs) -> tuple[int, ...]:
    if not wanted:
        raise InvalidRequest("The list of targets is empty", "Name a target, or leave the list out.")
    check_range("The number of targets", len(wanted), 1, served.description.limits.most_logits)
    ids = tuple(one if isinstance(one, int) else _token(one, served.model) for one in wanted)
    for id_ in ids:
        check_range("A target", id_, 0, served.model.description.shape.vocab_size - 1)
    twice = next((id_ for at, id_ in enumerate(ids) if id_ in ids[:at]), None)
    if twice is not None:
        raise InvalidRequest(f"Token {twice} is a target twice", "Name every token once.")
    return ids


def _token(text: str, model: ServedModel) -> int:
    ids = model.tokenizer.encode_rendered(text, TokenLimit(16, subject="Target")).ids
    if len(ids) != 1:
        strings = ", ".join(repr(string) for string in model.tokenizer.str_tokens(ids)) or "none"
        raise InvalidRequest(
            f"The target {text[:100]!r} is {len(ids)} tokens, not one ({strings})",
            "Most words are one token with the space before them, as in ' Paris'; or send a token id.",
        )
    return ids[0]
