"""The typed routes: a body as a task, a result as its reply, and the registry as a list.

    activations -> a record; those where the feature fires explain, or are judged on
    source      -> the server's record of that feature (`SourcedRecord`), which somebody fetches

Whether a type has what it needs is checked before anything is asked.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import SecretStr
from pydantic.alias_generators import to_camel, to_snake

from core.autointerp.description import AutointerpDescription
from core.autointerp.examples import Example, FeatureName, FeatureRecord
from core.autointerp.registry import (
    EXPLAINER_ALIASES,
    EXPLAINERS,
    SCORER_ALIASES,
    SCORERS,
    explainer_type,
    scorer_type,
)
from core.autointerp.results import Explanation, Score
from core.autointerp.sampling import SamplerSettings
from core.autointerp.scorers.rows import Row
from core.autointerp.tasks import ExplainTask, ModelChoice, Payer, ScoreTask
from core.autointerp.types import Need, Type
from core.errors import InvalidRequest
from core.exchange.autointerp import provider_key, usage_body
from core.exchange.autointerp_tasks import OWNER, model_choice
from core.exchange.spelling import parameters_of, spelt
from core.wire.autointerp_types import (
    ExplainTypedRequest,
    ExplainTypedResponse,
    QuantileScore,
    ScoreTypedRequest,
    ScoreTypedResponse,
    TypeBody,
    TypedActivation,
    TypesResponse,
)

_HELD_OUT: Final = "best-of-k"


@dataclasses.dataclass(frozen=True, slots=True)
class SourcedRecord:
    """A record that the server has, and how its examples are drawn."""

    name: FeatureName
    settings: SamplerSettings


def wanted_record(request: ExplainTypedRequest | ScoreTypedRequest, type_name: str) -> FeatureRecord | SourcedRecord:
    """The record that a request is about, or which of the server's it is.

    Raises:
        InvalidRequest: Neither texts nor a source were sent, or both, or a text is malformed.
    """
    if (request.activations is None) == (request.source is None):
        raise InvalidRequest(
            "Send either activations or a source.", "A source is a feature whose texts the server has."
        )
    if request.source is not None:
        drawn = {} if request.sampling is None else request.sampling.model_dump()
        source = request.source
        return SourcedRecord(FeatureName(source.model_id, source.sae_id, source.index), SamplerSettings(**drawn))
    if request.sampling is not None:
        raise InvalidRequest("sampling chooses among the server's texts, and the request brings its own.")
    if not request.activations:
        raise InvalidRequest("There are no activations.", "Send at least one text.")
    examples = [_example(one, at) for at, one in enumerate(request.activations)]
    active = sorted((one for fires, one in examples if fires), key=lambda one: -one.maximum)
    silent = tuple(one for fires, one in examples if not fires)
    if isinstance(request, ScoreTypedRequest):
        return FeatureRecord(None, train=(), test=tuple(active), silent=silent)
    if type_name == _HELD_OUT:  # the judge of candidates must not see what they were made from
        return FeatureRecord(None, train=tuple(active[::2]), test=tuple(active[1::2]), silent=silent)
    return FeatureRecord(None, train=tuple(active), silent=silent)


def explain_task(
    request: ExplainTypedRequest, type_name: str, record: FeatureRecord, choice: ModelChoice | None
) -> ExplainTask:
    """The task.

    Raises:
        NotFound: There is no such type.
        InvalidRequest: The type needs what the request does not have.
    """
    kind = explainer_type(type_name)
    record = _with_logits(record, request)
    _check_needs(kind, record, choice)
    if choice is None:
        raise InvalidRequest("The request names no language model.", "Set `model`.")
    return ExplainTask(kind.name, parameters_of(request.params), record, choice, Payer(OWNER, force=request.force))


def score_task(
    request: ScoreTypedRequest, type_name: str, record: FeatureRecord, choice: ModelChoice | None
) -> ScoreTask:
    """The task.

    Raises:
        NotFound: There is no such type.
        InvalidRequest: The type needs what the request does not have.
    """
    kind = scorer_type(type_name)
    record = _with_logits(record, request)
    _check_needs(kind, record, choice)
    if "explanation" in kind.needs and not (request.explanation or "").strip():
        raise InvalidRequest(f"{kind.name} scores an explanation, and there is none.", "Send one.")
    parameters = parameters_of(request.params)
    return ScoreTask(
        kind.name, parameters, record, request.explanation or "", choice, Payer(OWNER, force=request.force)
    )


def choice_of(
    request: ExplainTypedRequest | ScoreTypedRequest, header_key: SecretStr | None, described: AutointerpDescription
) -> ModelChoice | None:
    """The language model that a request names; None if it names none.

    Raises:
        InvalidRequest: No key is to be had, or an address was named together with `local`.
    """
    if request.model is None:
        return None
    key = provider_key(request, header_key, described)
    return model_choice(request.model, request, key)


def explain_reply(explanation: Explanation, request_id: str) -> ExplainTypedResponse:
    """An explanation."""
    return ExplainTypedResponse(
        explanation=explanation.text if explanation.status == "ok" else None,
        status=explanation.status,
        alternatives=list(explanation.alternatives),
        prompt_hash=explanation.prompt_hash,
        usage=usage_body(explanation.usage),
        request_id=request_id,
    )


def score_reply(score: Score, request_id: str, *, snake_case: bool = False) -> ScoreTypedResponse:
    """A score; the fields of its rows are in the casing of the request."""
    spell = str if snake_case else to_camel
    interval = score.interval
    return ScoreTypedResponse(
        score=None if score.status == "invalid" else score.value,
        metric=score.metric,
        status=score.status,
        reason=score.reason,
        ci95=None if interval is None else (interval.low, interval.high),
        metrics={spell(name): value for name, value in score.metrics.items()},
        by_quantile=[QuantileScore(quantile=part, score=value) for part, value in sorted(score.by_quantile.items())],
        n_failed=sum(row.failed for row in score.rows),
        breakdown=[_row(row, spell) for row in score.rows],
        usage=usage_body(score.usage),
        request_id=request_id,
    )


def types_reply(description: AutointerpDescription) -> TypesResponse:
    """What there is."""
    here = {"embeddings": description.embedding_model is not None}
    return TypesResponse(
        explainers=[_type(kind, EXPLAINER_ALIASES, here) for kind in EXPLAINERS.values()],
        scorers=[_type(kind, SCORER_ALIASES, here) for kind in SCORERS.values()],
        embedding_model=description.embedding_model,
        local_models=None if description.local_models is None else list(description.local_models),
        base_url=description.base_url,
        own_keys=list(description.own_keys),
    )


def _example(one: TypedActivation, at: int) -> tuple[bool, Example]:
    if not one.tokens:
        raise InvalidRequest(f"activations[{at}] has no tokens.")
    if len(one.tokens) != len(one.values):
        raise InvalidRequest(f"activations[{at}] has {len(one.tokens)} tokens and {len(one.values)} values.")
    example = Example(tuple(one.tokens), tuple(one.values), quantile=one.quantile)
    if one.is_activating is not None and one.is_activating != example.is_active:
        said = "a value above 0" if example.is_active else "no value above 0"
        raise InvalidRequest(f"activations[{at}] has {said}, which is not what its isActivating says.")
    return example.is_active, example


def _with_logits(record: FeatureRecord, request: ExplainTypedRequest | ScoreTypedRequest) -> FeatureRecord:
    return dataclasses.replace(
        record,
        top_logits=record.top_logits if request.top_logits is None else tuple(request.top_logits),
        bottom_logits=record.bottom_logits if request.bottom_logits is None else tuple(request.bottom_logits),
    )


def _check_needs(kind: Type[Any], record: FeatureRecord, choice: ModelChoice | None) -> None:
    lacking: dict[Need, tuple[bool, str, str]] = {
        "language_model": (choice is None, "asks a language model, and the request names none", "Set `model`."),
        "silent_examples": (
            not record.silent,
            "needs texts where the feature does not fire, and there are none",
            "Send activations whose values are all 0, too.",
        ),
        "top_logits": (
            not record.top_logits,
            "needs the tokens whose logits the feature raises, and there are none",
            "Set `topLogits`.",
        ),
        "subject": (
            record.name is None,
            "steers the feature's model, and the request does not say which feature it is",
            "Send a source instead of activations.",
        ),
    }
    for need, (is_lacking, what, hint) in lacking.items():
        if need in kind.needs and is_lacking:
            raise InvalidRequest(f"{kind.name} {what}.", hint)


def _row(row: Row, spell: Callable[[str], str]) -> dict[str, Any]:
    return {"kind": spell(to_snake(type(row).__name__)), **spelt(dataclasses.asdict(row), spell)}


def _type(kind: Type[Any], aliases: Mapping[str, str], here: Mapping[str, bool]) -> TypeBody:
    return TypeBody(
        type=kind.name,
        summary=kind.summary,
        needs=sorted(kind.needs),
        cost=kind.cost,
        aliases=sorted(alias for alias, name in aliases.items() if name == kind.name and alias != name),
        parameters=kind.json_schema,
        available=all(here.get(need, True) for need in kind.needs),
    )
