"""The peer's three routes: a body as a record and as what to ask with, a result as its reply.

A text is active if its values add up to more than nothing, as the peer decides it. What the peer would score silently
or fail on with a 500 (tokens without values, no text at all, nothing to mark) is refused here, in words.

A key of the cluster's own goes to no address but the one that it was configured for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic import SecretStr

from core.autointerp.description import AutointerpDescription
from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.language_model import Usage
from core.autointerp.metrics import auc, peer_score
from core.autointerp.results import Explanation, Score
from core.autointerp.scorers.rows import Judgement, Similarity
from core.errors import InvalidRequest, RayscopeError
from core.wire.autointerp import (
    ExplainDefaultRequest,
    ExplainDefaultResponse,
    NPActivation,
    ProviderChoice,
    ScoreEmbeddingBreakdownItem,
    ScoreEmbeddingRequest,
    ScoreEmbeddingResponse,
    ScoreFuzzDetectionBreakdownItem,
    ScoreFuzzDetectionRequest,
    ScoreFuzzDetectionResponse,
    ScoreFuzzDetectionType,
    UsageBody,
)

UNPARSED: Final = "Explanation could not be parsed."
"""What the peer answers, with 200, when it can not read the explainer's answer."""
UNJUDGED: Final = (
    "The scorer model returned no usable predictions. Check that the OpenRouter key is valid and has credits."
)
"""What the peer answers, with 400, when no text was judged."""
_TEMPERATURE: Final = 1.0
_MAX_TOKENS: Final = 500
_ACTIVE, _SILENT = 1, -1


@dataclass(frozen=True, slots=True)
class Asking:
    """Which language model is asked, and how.

    Attributes:
        model: Its name.
        provider: `openrouter` for any address outside, `local` for a model of this cluster.
        base_url: The address, if the caller named one; it is not checked here.
        key: The provider's key; None for `local`, and where the cluster's own is used.
        temperature: Randomness.
        max_tokens: Tokens of an answer at most.
        seed: Makes the result repeatable; None if nobody asked for that.
        prompt_style: Whose wording.
        show_activations: Whether the explainer sees numbers.
    """

    model: str
    provider: Literal["openrouter", "local"]
    base_url: str | None
    key: SecretStr | None = field(repr=False)
    temperature: float
    max_tokens: int
    seed: int | None
    prompt_style: Literal["neuronpedia", "delphi"]
    show_activations: bool


def asking_of(
    request: ExplainDefaultRequest | ScoreFuzzDetectionRequest,
    header_key: SecretStr | None,
    described: AutointerpDescription,
) -> Asking:
    """What a request asks with; what it leaves open is as the peer has it.

    Args:
        request: The body.
        header_key: The header `X-OpenRouter-Key`.
        described: What the application says that it has.

    Raises:
        InvalidRequest: No key is to be had, or an address was named together with `local`.
    """
    return Asking(
        model=request.model,
        provider=request.provider,
        base_url=request.base_url,
        key=provider_key(request, header_key, described),
        temperature=_TEMPERATURE if request.temperature is None else request.temperature,
        max_tokens=_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        seed=request.seed,
        prompt_style=request.prompt_style,
        show_activations=isinstance(request, ExplainDefaultRequest) and request.show_activations,
    )


def provider_key(
    request: ProviderChoice, header_key: SecretStr | None, described: AutointerpDescription
) -> SecretStr | None:
    """The key that a request brings; None for `local`, and where the cluster has one of its own.

    Args:
        request: The body.
        header_key: The header `X-OpenRouter-Key`.
        described: What the application says that it has.

    Raises:
        InvalidRequest: No key is to be had, or an address was named together with `local`.
    """
    if request.provider == "local":
        if request.base_url is not None:
            raise InvalidRequest("baseUrl was given, but provider is local", "leave one of the two out")
        return None
    for key in (request.openrouter_key, header_key):
        if key is not None and key.get_secret_value():
            return key
    if described.has_key_for(request.base_url):
        return None
    raise InvalidRequest(
        "no key for the provider was given",
        "send openrouterKey or the header X-OpenRouter-Key"
        if request.base_url is None
        else "name a key with your baseUrl",
    )


def record_to_explain(request: ExplainDefaultRequest) -> FeatureRecord:
    """All texts, in the order sent, to explain by.

    Raises:
        InvalidRequest: A text is malformed, or there is none.
    """
    return FeatureRecord(name=None, train=tuple(_example(one, at, None) for at, one in _texts(request.activations)))


def record_to_score(request: ScoreFuzzDetectionRequest | ScoreEmbeddingRequest) -> FeatureRecord:
    """The active and the silent texts to judge an explanation on; the active are one quantile.

    Raises:
        InvalidRequest: A text is malformed, or there is none; the score needs active texts or both kinds and has not.
    """
    active: list[Example] = []
    silent: list[Example] = []
    for at, one in _texts(request.activations):
        fires = sum(one.values) > 0
        (active if fires else silent).append(_example(one, at, _ACTIVE if fires else None))
    if isinstance(request, ScoreEmbeddingRequest):
        if not active or not silent:
            raise InvalidRequest(
                "An embedding score needs both texts where the feature fires and texts where it does not.",
                "Send activations whose values are all 0, too." if active else "Send activations with values above 0.",
            )
    elif request.type is ScoreFuzzDetectionType.FUZZ and not active:
        raise InvalidRequest(
            "A FUZZ score needs a text where the feature fires: how many tokens to mark is counted there.",
            "Send activations with values above 0, or ask for DETECTION.",
        )
    return FeatureRecord(name=None, train=(), test=tuple(active), silent=tuple(silent))


def _texts(activations: Sequence[NPActivation]) -> list[tuple[int, NPActivation]]:
    if not activations:
        raise InvalidRequest("There are no activations.", "Send at least one text.")
    return list(enumerate(activations))


def _example(one: NPActivation, at: int, quantile: int | None) -> Example:
    if not one.tokens:
        raise InvalidRequest(f"activations[{at}] has no tokens.")
    if len(one.tokens) != len(one.values):
        raise InvalidRequest(f"activations[{at}] has {len(one.tokens)} tokens and {len(one.values)} values.")
    return Example(tuple(one.tokens), tuple(one.values), quantile=quantile)


def explain_response(explanation: Explanation, request_id: str) -> ExplainDefaultResponse:
    """An explanation, or the peer's sentence if it could not be read."""
    text = explanation.text if explanation.status == "ok" else UNPARSED
    return ExplainDefaultResponse(explanation=text, usage=usage_body(explanation.usage), request_id=request_id)


def fuzz_detection_response(score: Score, request_id: str) -> ScoreFuzzDetectionResponse:
    """A judge's score as the peer counts it, whatever share of the texts it rests on; `nFailed` says how many not.

    Raises:
        InvalidRequest: No text was judged.
    """
    rows = [row for row in score.rows if isinstance(row, Judgement)]
    _check_kind(score, len(rows))
    n_failed = sum(row.failed for row in rows)
    if n_failed == len(rows):
        raise InvalidRequest(UNJUDGED)
    return ScoreFuzzDetectionResponse(
        score=peer_score([row.truth for row in rows], [row.prediction for row in rows]),
        breakdown=[
            ScoreFuzzDetectionBreakdownItem(
                str_tokens=list(row.example.tokens),
                activations=list(row.example.activations),
                distance=_ACTIVE if row.truth else _SILENT,
                ground_truth=row.truth,
                prediction=bool(row.prediction),
                highlighted=row.highlighted,
                probability=row.probability or 0.0,
                correct=bool(row.correct),
            )
            for row in rows
        ],
        n_failed=n_failed,
        usage=usage_body(score.usage),
        request_id=request_id,
    )


def embedding_response(score: Score, request_id: str) -> ScoreEmbeddingResponse:
    """A score by embeddings.

    Raises:
        InvalidRequest: All texts are of one kind.
    """
    rows = [row for row in score.rows if isinstance(row, Similarity)]
    _check_kind(score, len(rows))
    area = auc([row.truth for row in rows], [row.similarity for row in rows])
    if area is None:
        raise InvalidRequest("An embedding score needs both texts where the feature fires and texts where it does not.")
    return ScoreEmbeddingResponse(
        score=area,
        breakdown=[
            ScoreEmbeddingBreakdownItem(
                text=row.example.text, distance=_ACTIVE if row.truth else _SILENT, similarity=row.similarity
            )
            for row in rows
        ],
        request_id=request_id,
    )


def _check_kind(score: Score, n_rows: int) -> None:
    if n_rows != len(score.rows):
        raise RayscopeError(f"a {score.metric} score came with rows of another kind")


def usage_body(usage: Usage) -> UsageBody:
    """What answers cost."""
    return UsageBody(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cost_usd=usage.cost_usd,
        calls=usage.calls,
        retries=usage.retries,
        cached=usage.cached,
    )
