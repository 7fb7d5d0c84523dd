"""`/v1/completions` and `/v1/chat/completions`: what is asked of the model, checked before it hears of it.

    body -> Asked(continuations, choices, form)
         -> engine: Growth ...
         -> take(growths)      pieces of the choices
         -> chunks(piece)      as a stream says it
         -> whole(pieces)      as one answer says it

A text prompt gets BOS in front as on every route here that writes. `n` choices of one prompt are continuations of their
own; the i-th is drawn with `seed + i`, and with the same seed it is the same text in whatever company.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from core.chat import write_chat
from core.chat_template import Message
from core.errors import InvalidRequest
from core.exchange.directions import checked_steering, vector_direction
from core.exchange.openai_choice import Choice, Piece, joined
from core.exchange.openai_forms import ChatForm, CompletionForm, Form, Head
from core.exchange.served import ServedModel
from core.generation.requests import Continuation, Growth, Sampling
from core.generation.stops import StopStrings
from core.generation.text import GrowingText
from core.generation.turns import TurnFormat, eos_ids, without_reasoning
from core.steering.specification import Condition, FeatureDirection, Push, Steering
from core.wire.openai import ChatCompletionsRequest, CompletionsRequest, SteeringObject
from core.wire.openai_replies import Usage

MOST_TEXTS = 128
_DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's, for /v1/completions only
_SEEDS = 2**63

Part = tuple[int, Piece]
"""A choice's number and what it gained."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request on its way through the model.

    Attributes:
        continuations: What the engine writes.
        choices: Their texts, in the same order.
        n_prompt_tokens: Tokens of all prompts, each counted once.
        stops: Strings that end a text; only a stream can be ended by them.
        includes_usage: Whether a stream ends with the token counts.
        form: How the route words its answers.
        echoed: What each text starts with.
    """

    continuations: tuple[Continuation, ...]
    choices: tuple[Choice, ...]
    n_prompt_tokens: int
    stops: StopStrings
    includes_usage: bool
    form: Form
    echoed: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.finish is not None for choice in self.choices)

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        written = sum(choice.n_tokens for choice in self.choices)
        return Usage(
            prompt_tokens=self.n_prompt_tokens,
            completion_tokens=written,
            total_tokens=self.n_prompt_tokens + written,
        )

    def take(self, growths: Iterable[Growth]) -> list[Part]:
        """What the choices gain by what the engine reports."""
        parts = [(growth.index, self.choices[growth.index].grow(growth)) for growth in growths]
        return [part for part in parts if part[1] != Piece()]

    def whole(self, parts: Sequence[Part]) -> list[Piece]:
        """Every choice in one piece, with what it echoes."""
        return [
            joined([Piece(text=echo), *(piece for index, piece in parts if index == number)])
            for number, echo in enumerate(self.echoed)
        ]


def ask_completion(body: CompletionsRequest, model: ServedModel, head: Head) -> Asked:
    """Texts to go on with.

    Raises:
        NotFound: A source that steers is not served.
        InvalidRequest: A prompt is too long or no prompt at all, or the steering can not be carried out.
    """
    _check_texts(body.n, len(body.prompts))
    if body.echo and body.logprobs is not None:
        raise InvalidRequest("echo and logprobs can not be had together", "Leave one of them out.")
    prompts = [_prompt_ids(prompt, model) for prompt in body.prompts]
    echoed = [prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt) for prompt in body.prompts]
    form = CompletionForm(head, model.tokenizer, body.logprobs)
    n_logprobs = 0 if body.logprobs is None else max(body.logprobs, 1)
    stop_ids = eos_ids(model.tokenizer)
    limits = [_max_tokens(len(ids), body.max_tokens, _DEFAULT_COMPLETION_TOKENS, model) for ids in prompts]
    sampling = [_sampling(body, limit, n_logprobs, stop_ids) for limit in limits]
    return _asked(body, prompts, sampling, form, model, echoed if body.echo else [""] * len(prompts))


def ask_chat(body: ChatCompletionsRequest, model: ServedModel, head: Head) -> Asked:
    """A conversation to answer.

    Raises:
        NotFound: A source that steers is not served.
        InvalidRequest: The conversation is too long or can not be rendered, or the steering can not be carried out.
    """
    _check_texts(body.n, 1)
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs", 'Send "logprobs": true as well.')
    # OpenAI renamed the role; the templates of open models know the older name.
    messages = (Message("system" if m.role == "developer" else m.role, m.text) for m in body.messages)
    prompt = write_chat(model.tokenizer, without_reasoning(messages), body.chat_template_kwargs, model.limit)
    n_logprobs = max(body.top_logprobs or 0, 1) if body.logprobs else 0
    limit = _max_tokens(len(prompt), body.max_completion_tokens or body.max_tokens, None, model)
    sampling = _sampling(body, limit, n_logprobs, TurnFormat.of(model.tokenizer).stop_ids)
    form = ChatForm(head, model.tokenizer, (body.top_logprobs or 0) if body.logprobs else None)
    return _asked(body, [prompt], [sampling], form, model, [""])


def steering_of(body: SteeringObject, model: ServedModel) -> Steering:
    """The `steering` object as both engines understand it, checked against the model."""
    features = [
        Push(FeatureDirection(one.source, one.index), one.strength * body.multiplier, one.at_least)
        for one in body.features
    ]
    vectors = [
        Push(vector_direction(one.hook, one.vector), one.strength * body.multiplier, one.at_least)
        for one in body.vectors
    ]
    condition = body.condition
    steering = Steering(
        pushes=(*features, *vectors),
        method=body.method,
        normalize=body.normalize,
        positions=body.positions,
        special_tokens=body.steer_special_tokens,
        condition=None if condition is None else Condition(condition.source, condition.index, condition.above),
    )
    return checked_steering(steering, model)


def _check_texts(n: int | None, n_prompts: int) -> None:
    n_texts = (n or 1) * n_prompts
    if n_texts > MOST_TEXTS:
        raise InvalidRequest(
            f"The request asks for {n_texts} texts, the most are {MOST_TEXTS}", "Send fewer prompts, or less n."
        )


def _asked(
    body: CompletionsRequest | ChatCompletionsRequest,
    prompts: Sequence[tuple[int, ...]],
    sampling: Sequence[Sampling],
    form: Form,
    model: ServedModel,
    echoed: Sequence[str],
) -> Asked:
    n = body.n or 1
    steering = None if body.steering is None else steering_of(body.steering, model)
    stops = StopStrings(body.stops)
    continuations: list[Continuation] = []
    choices: list[Choice] = []
    for prompt, rules in zip(prompts, sampling, strict=True):
        special = model.tokenizer.special_positions(prompt)
        for number in range(n):
            continuations.append(Continuation(prompt, _reseeded(rules, number), steering, special))
            text = GrowingText(model.tokenizer, prompt, model.tokenizer.special_ids)
            choices.append(Choice(text, stops, rules.stop_ids))
    return Asked(
        continuations=tuple(continuations),
        choices=tuple(choices),
        n_prompt_tokens=sum(map(len, prompts)),
        stops=stops,
        includes_usage=body.includes_usage,
        form=form,
        echoed=tuple(echo for echo in echoed for _ in range(n)),
    )


def _sampling(
    body: CompletionsRequest | ChatCompletionsRequest, max_tokens: int, n_logprobs: int, stop_ids: frozenset[int]
) -> Sampling:
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        seed=body.seed,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        n_logprobs=n_logprobs,
        stop_ids=stop_ids,
    )


def _reseeded(sampling: Sampling, number: int) -> Sampling:
    seed = None if sampling.seed is None else (sampling.seed + number) % _SEEDS
    return replace(sampling, seed=seed)


def _prompt_ids(prompt: str | list[int], model: ServedModel) -> tuple[int, ...]:
    if isinstance(prompt, str):
        return model.tokenizer.bos_prompt(prompt, model.limit).ids
    model.limit.check(len(prompt))
    vocab_size = model.description.shape.vocab_size
    unknown = next((token for token in prompt if token >= vocab_size), None)
    if unknown is not None:
        raise InvalidRequest(f"The prompt holds token id {unknown}, but the model knows ids up to {vocab_size - 1}")
    return tuple(prompt)


def _max_tokens(n_prompt_tokens: int, asked: int | None, default: int | None, model: ServedModel) -> int:
    """How many tokens may be generated: what was asked for, or the default, or all that there is room for."""
    limit = model.description.limits.generation_limit
    room = limit - n_prompt_tokens
    wanted = asked or min(default or room, room)
    if room < 1 or wanted > room:
        raise InvalidRequest(
            f"The prompt has {n_prompt_tokens} tokens and {max(wanted, 1)} more were asked for, but prompt and "
            f"completion together may have {limit}",
            f"Ask for at most {room}." if room > 0 else "Send a shorter prompt.",
        )
    return wanted
