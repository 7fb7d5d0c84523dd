"""`/steer`: a prompt continued twice, left alone and with features held."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.errors import InvalidRequest
from core.exchange.graph import GraphExchange, ServedGraphs, check_feature, check_range
from core.exchange.graph_prompt import prompt_text
from core.exchange.writing import check_penalty
from core.generation.requests import SEEDS
from core.generation.turns import TurnFormat, eos_ids
from core.graph.chat import TurnDelimiters
from core.graph.prompt import bos_positions, prompt_tokens, without_bos
from core.graph.requests import Intervention, InterventionAnswer, InterventionQuestion, WrittenText
from core.prompts import PromptTokenizer
from core.wire.graph import (
    LogitsByToken,
    SteerFeature,
    SteerRequest,
    SteerResponse,
    SteerTuplesResponse,
    TokenTuple,
    TopLogit,
)


def steer(
    request: SteerRequest, served: ServedGraphs, *, tuples: bool = False
) -> GraphExchange[InterventionQuestion, InterventionAnswer, SteerResponse | SteerTuplesResponse]:
    """Both texts. Features at BOS are left out without a word, as the peer does it.

    Args:
        request: The request.
        served: What is steered.
        tuples: Whether the reply has lists in place of objects.

    Raises:
        InvalidRequest: A feature contradicts itself, or something is out of range.
    """
    model, limits = served.model, served.description.limits
    text = without_bos(model.tokenizer, prompt_text(request, model))
    prompt = prompt_tokens(model.tokenizer, text, model.description.names.weights, model.limit)
    unsteerable = bos_positions(model.tokenizer, prompt.ids)
    interventions = [_intervention(feature, len(prompt.ids), served) for feature in request.features]
    check_range("The number of features", len(interventions), 0, limits.most_interventions)
    check_range("n_tokens", request.n_tokens, 0, limits.generation_limit)
    check_range("top_k", request.top_k, 0, limits.most_candidates)
    check_range("temperature", request.temperature, 0, None)
    check_penalty(request.freq_penalty, "freq_penalty")
    budget = model.description.limits.generation_limit
    if len(prompt.ids) + request.n_tokens > budget:
        raise InvalidRequest(
            f"No room to generate {request.n_tokens} tokens: the prompt has {len(prompt.ids)}, and the per-request "
            f"budget (prompt + completion) is {budget}.",
            "Send a shorter prompt or ask for fewer tokens.",
        )
    question = InterventionQuestion(
        prompt=prompt,
        interventions=tuple(one for one in interventions if one.position not in unsteerable),
        n_tokens=request.n_tokens,
        top_k=request.top_k,
        temperature=request.temperature,
        frequency_penalty=request.freq_penalty,
        seed=None if request.seed is None else request.seed % SEEDS,
        freeze_attention=request.freeze_attention,
        stop_ids=_stop_ids(text, model.tokenizer),
    )

    def reply(answer: InterventionAnswer) -> SteerResponse | SteerTuplesResponse:
        default, steered = (_shown(one, model.tokenizer) for one in (answer.default, answer.steered))
        return _as_tuples(default, steered) if tuples else _as_objects(default, steered)

    return GraphExchange(question, reply)


def _intervention(feature: SteerFeature, n_prompt: int, served: ServedGraphs) -> Intervention:
    """Checks a feature: what the peer checks first, in its order."""
    position = feature.steer_position
    if feature.ablate and feature.delta is not None:
        raise InvalidRequest("When ablate is True, delta must be None")
    if not feature.ablate and feature.delta is None:
        raise InvalidRequest("When ablate is False, delta must be provided")
    if feature.steer_generated_tokens and position is not None:
        raise InvalidRequest("When steer_generated_tokens is True, position must be None")
    if not feature.steer_generated_tokens and position is None:
        raise InvalidRequest("When steer_generated_tokens is False, position must be provided")
    if position is not None and not 0 <= position < n_prompt:
        raise InvalidRequest("Position is out of bounds", f"The prompt has positions 0 to {n_prompt - 1}.")
    check_feature(feature.layer, feature.index, served.description)
    check_range("token_active_position", feature.token_active_position, 0, n_prompt - 1)
    return Intervention(feature.layer, feature.index, feature.token_active_position, position, feature.delta)


def _stop_ids(text: str, tokenizer: PromptTokenizer) -> frozenset[int]:
    """What ends a text: EOS, and in a conversation the end of a turn."""
    is_chat = TurnDelimiters.learn(tokenizer).parse(text) is not None
    return TurnFormat.of(tokenizer).stop_ids if is_chat else eos_ids(tokenizer)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A text as it is shown.

    Attributes:
        text: All of it.
        tokens: Its tokens that have a row, and the candidates after each; none before the prompt's last token.
    """

    text: str
    tokens: Sequence[tuple[str, Sequence[tuple[str, float]]]]


def _shown(text: WrittenText, tokenizer: PromptTokenizer) -> _Shown:
    strings = tokenizer.str_tokens(text.tokens)
    rows: list[list[tuple[str, float]]] = [[] for _ in range(text.n_prompt - 1)]
    for row in text.top:
        names = tokenizer.str_tokens([id_ for id_, _ in row])
        rows.append([(name, share) for name, (_, share) in zip(names, row, strict=True)])
    return _Shown("".join(strings), list(zip(strings, rows, strict=False)))  # the last token may have no row


def _as_objects(default: _Shown, steered: _Shown) -> SteerResponse:
    def shown(text: _Shown) -> list[LogitsByToken]:
        return [
            LogitsByToken(token=token, top_logits=[TopLogit(token=name, prob=share) for name, share in row])
            for token, row in text.tokens
        ]

    return SteerResponse(
        DEFAULT_GENERATION=default.text,
        STEERED_GENERATION=steered.text,
        DEFAULT_LOGITS_BY_TOKEN=shown(default),
        STEERED_LOGITS_BY_TOKEN=shown(steered),
    )


def _as_tuples(default: _Shown, steered: _Shown) -> SteerTuplesResponse:
    def shown(text: _Shown) -> list[TokenTuple]:
        return [(token, list(row)) for token, row in text.tokens]

    return SteerTuplesResponse(
        DEFAULT_GENERATION=default.text,
        STEERED_GENERATION=steered.text,
        DEFAULT_LOGITS_BY_TOKEN=shown(default),
        STEERED_LOGITS_BY_TOKEN=shown(steered),
    )
