"""`/v1/steer/completion`: a text to continue while features or vectors push the model; and what chat shares with it."""

from collections.abc import Sequence
from typing import Final

from core.errors import InvalidRequest
from core.exchange.directions import checked_steering, vector_direction
from core.exchange.served import ServedModel
from core.exchange.writing import Composer, Piece, Writing, check_penalty, room
from core.generation.requests import SEEDS, Continuation, Sampling
from core.generation.turns import eos_ids
from core.persona.reads import check_fit
from core.steering.specification import Condition, FeatureDirection, Method, Push, Steering
from core.wire.steering import (
    NPSteerCompletionOutput,
    NPSteerFeature,
    NPSteerType,
    NPSteerVector,
    SteerCompletionRequest,
    SteerCompletionResponse,
    SteerOptions,
)

MOST_TYPES: Final = 8


def completion(request: SteerCompletionRequest, model: ServedModel) -> Writing[SteerCompletionResponse]:
    """One text, continued once per listed type."""
    request.directions()
    prompt = model.tokenizer.bos_prompt(request.prompt, model.limit)
    stop_ids = eos_ids(model.tokenizer)
    continuations = continuations_of(request, model, prompt.ids, stop_ids, special_tokens=True)
    composer = _CompletionComposer(request, model, continuations, stop_ids)
    return Writing(continuations, composer, tuple(request.vector_reads or ()))


class _CompletionComposer(Composer[SteerCompletionResponse]):
    """The token that ends a text is not part of it."""

    def __init__(
        self,
        request: SteerOptions,
        model: ServedModel,
        continuations: Sequence[Continuation],
        stop_ids: frozenset[int],
    ) -> None:
        super().__init__(
            model.tokenizer, continuations, request.types, hidden_ids=stop_ids, delta=request.stream_mode == "delta"
        )

    def compose(self, pieces: list[Piece], *, first: bool, last: bool) -> SteerCompletionResponse:
        return SteerCompletionResponse(
            outputs=[
                NPSteerCompletionOutput(type=kind, output=piece.text, logprobs=piece.logprobs)
                for kind, piece in zip(self.types, pieces, strict=True)
            ],
            vector_reads=self.vector_reads if last else None,
        )


def continuations_of(
    request: SteerOptions,
    model: ServedModel,
    prompt: tuple[int, ...],
    stop_ids: frozenset[int],
    *,
    special_tokens: bool,
) -> list[Continuation]:
    """One continuation per listed type, all with the same rules and seed.

    Raises:
        InvalidRequest: There is no room to write, or a number or direction can not be used.
        NotFound: A feature's source is not served.
    """
    if len(request.types) > MOST_TYPES:
        raise InvalidRequest(f"types has {len(request.types)} entries, the most are {MOST_TYPES}")
    check_penalty(request.freq_penalty)
    check_fit(request.vector_reads or (), model.description.shape)
    sampling = Sampling(
        max_tokens=room(model, len(prompt), request.n_completion_tokens),
        temperature=request.temperature,
        seed=int(request.seed) % SEEDS,
        frequency_penalty=request.freq_penalty,
        top_p=1.0 if request.top_p is None else request.top_p,
        n_logprobs=request.n_logprobs or 0,
        stop_ids=stop_ids,
    )
    steering = (
        steering_of(request, model, special_tokens=special_tokens) if NPSteerType.STEERED in request.types else None
    )
    special = model.tokenizer.special_positions(prompt)
    return [
        Continuation(prompt, sampling, steering if kind is NPSteerType.STEERED else None, special)
        for kind in request.types
    ]


def steering_of(request: SteerOptions, model: ServedModel, *, special_tokens: bool) -> Steering:
    """How the request pushes the model.

    Raises:
        InvalidRequest: There is nothing to push with, or it can not be used.
        NotFound: A feature's source is not served.
    """
    method = Method(request.steer_method)
    pushes = tuple(_push(wanted, request.strength_multiplier) for wanted in request.directions())
    only = request.condition
    steering = Steering(
        pushes=pushes,
        method=method,
        normalize=request.normalize_steering,
        positions=request.positions,
        special_tokens=special_tokens,
        condition=None if only is None else Condition(only.source, only.index, only.above),
    )
    return checked_steering(steering, model)


def _push(wanted: NPSteerFeature | NPSteerVector, multiplier: float) -> Push:
    direction = (
        FeatureDirection(wanted.source, wanted.index)
        if isinstance(wanted, NPSteerFeature)
        else vector_direction(wanted.hook, wanted.steering_vector)
    )
    return Push(direction, wanted.strength * multiplier, wanted.at_least)
