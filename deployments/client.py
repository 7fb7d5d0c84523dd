"""ModelClient: the supported way to use a served model from Python, by Serve handles and without HTTP.

    client = await ModelClient.connect("rayscope-demo")        # the application's name
    top = await client.top_features("Le chat dort sur le tapis.", "res-demo", k=5)
    fires = await client.feature("Le chat dort", "2-res-demo", index=17)
    text = await client.complete("Le chat dort sur", max_tokens=20)

The Gateway uses it too. It tokenises where it runs, picks the Runner that serves the sources, splits a ranking over
several Runners and merges it exactly, retries once on another replica when one died, and raises the errors of
`core.errors` with their own type.
"""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Self

from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from core.catalogue.catalogue import weights_location
from core.catalogue.description import ModelDescription
from core.chat import write_chat
from core.chat_template import Message
from core.deadline import Deadline
from core.errors import InvalidRequest, Overloaded, RayscopeError, Unavailable
from core.exchange.directions import checked_steering
from core.exchange.served import ServedModel
from core.generation.requests import Continuation, Growth, MeansRequest, Sampling
from core.generation.text import GrowingText
from core.generation.turns import TurnFormat, eos_ids
from core.prompts import PromptTokenizer
from core.questions import (
    EncoderVectorAnswer,
    EncoderVectorLookup,
    FeatureAnswer,
    FeatureQuestion,
    Floats,
    Lookup,
    NeighboursAnswer,
    NeighboursLookup,
    Question,
    TopFeaturesAnswer,
    TopFeaturesQuestion,
    sources_of,
)
from core.ranking import merge_rankings
from core.steering.directions import place_of
from core.steering.specification import Steering

DEFAULT_TIMEOUT_S = 60.0
_REPLICA_LOST = (ActorDiedError, ActorUnavailableError, ReplicaUnavailableError)


class ModelClient:
    """Talks to one model's application. Cheap to keep; safe to share between tasks of one event loop."""

    def __init__(self, app_name: str, served: ServedModel) -> None:
        self.app_name = app_name
        self.served = served
        self._handles: dict[str, DeploymentHandle[Any]] = {}

    @classmethod
    async def connect(cls, app_name: str) -> Self:
        """Asks the application what it serves and loads the model's tokenizer.

        Raises:
            Unavailable: There is no such application, or it is not up.
        """
        try:
            handle: Any = serve.get_app_handle(app_name)
            description: ModelDescription = await handle.describe.remote()
        except Exception as error:
            raise Unavailable(f"The application '{app_name}' does not answer.", "See `serve status`.") from error
        location = weights_location(description.weights)
        tokenizer = await asyncio.to_thread(PromptTokenizer.load, location, description.revision)
        return cls(app_name, ServedModel(description, tokenizer))

    @property
    def description(self) -> ModelDescription:
        """What the application serves."""
        return self.served.description

    async def feature(
        self, text: str, source: str, index: int, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> FeatureAnswer:
        """One feature's activation at each token of `text`, BOS included and reported as 0."""
        prompt = self.served.tokenizer.bos_prompt(text, self.served.limit)
        silent = self.served.bos_positions(prompt.ids)
        question = FeatureQuestion(prompt.ids, source, index, silent, dfa=self.description.source(source).dfa)
        return (await self.ask([question], Deadline.after(timeout_s)))[0]

    async def top_features(
        self, text: str, source_set: str, *, k: int = 25, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> TopFeaturesAnswer:
        """The `k` features of a source set that fire most strongly on `text`, BOS ignored."""
        prompt = self.served.tokenizer.bos_prompt(text, self.served.limit)
        sources = tuple(source.id for source in self.description.source_set(source_set))
        question = TopFeaturesQuestion(prompt.ids, sources, k, silent_positions=(0,) if prompt.has_bos else ())
        return (await self.ask([question], Deadline.after(timeout_s)))[0]

    async def neighbours(
        self, source: str, index: int, *, k: int = 10, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> NeighboursAnswer:
        """Features of a source whose decoder rows are nearest to one feature's."""
        return await self.look_up(NeighboursLookup(source, k, index=index), Deadline.after(timeout_s))

    async def encoder_vector(
        self, source: str, index: int, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> EncoderVectorAnswer:
        """The encoder column of a feature."""
        return await self.look_up(EncoderVectorLookup(source, index), Deadline.after(timeout_s))

    async def complete(
        self,
        text: str,
        *,
        max_tokens: int = 64,
        temperature: float = 0.0,
        seed: int | None = None,
        steering: Steering | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> str:
        """What the model writes after `text`."""
        tokenizer = self.served.tokenizer
        prompt = tokenizer.bos_prompt(text, self.served.limit).ids
        sampling = Sampling(max_tokens, temperature, seed, stop_ids=eos_ids(tokenizer))
        return await self._write(prompt, sampling, steering, timeout_s)

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
        steering: Steering | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> str:
        """What the assistant answers to a conversation."""
        tokenizer = self.served.tokenizer
        prompt = write_chat(tokenizer, messages, limit=self.served.limit)
        sampling = Sampling(max_tokens, temperature, seed, stop_ids=TurnFormat.of(tokenizer).stop_ids)
        return await self._write(prompt, sampling, steering, timeout_s)

    async def ask(self, questions: Sequence[Question], deadline: Deadline) -> list[Any]:
        """Answers questions of `core.questions`, in order.

        Raises:
            RayscopeError: With the type and message that the Runner gave it.
        """
        runners = {self._runner_of(source) for question in questions for source in sources_of(question)}
        if len(runners) <= 1:
            runner = runners.pop() if runners else self.description.first_runner()
            return await self._call(runner, deadline, "ask", list(questions), deadline)
        return list(await asyncio.gather(*(self._ask_apart(question, deadline) for question in questions)))

    async def look_up(self, lookup: Lookup, deadline: Deadline) -> Any:
        """Answers a lookup of `core.questions`."""
        return await self._call(self._runner_of(lookup.source), deadline, "look_up", lookup, deadline)

    async def generate(self, continuations: Sequence[Continuation], deadline: Deadline) -> list[Growth]:
        """Whole texts, one per continuation, in order."""
        return await self._call(self._writer_of(continuations), deadline, "generate", list(continuations), deadline)

    async def stream(self, continuations: Sequence[Continuation], deadline: Deadline) -> AsyncGenerator[list[Growth]]:
        """Texts as they grow; closing the generator stops the work."""
        handle = self._handle(self._writer_of(continuations))
        async with aclosing(streamed(handle, "stream", deadline, list(continuations), deadline)) as parts:
            try:
                async for growths in parts:
                    yield growths
            except _REPLICA_LOST:
                raise Unavailable("The replica that wrote this text died.", "Send the request again.") from None

    async def read_means(self, request: MeansRequest, deadline: Deadline) -> Floats:
        """Mean activations of a written text, `[spans, d]`."""
        writer = self._writer_of([request.continuation])
        return await self._call(writer, deadline, "read_means", request, deadline)

    async def report(self, runner: str, deadline: Deadline) -> dict[str, Any]:
        """What one replica of a Runner holds and how busy it is."""
        return await self._call(runner, deadline, "report")

    async def _write(
        self, prompt: tuple[int, ...], sampling: Sampling, steering: Steering | None, timeout_s: float
    ) -> str:
        checked = None if steering is None else checked_steering(steering, self.served)
        special = self.served.tokenizer.special_positions(prompt)
        room = self.description.limits.generation_limit - len(prompt)
        if sampling.max_tokens > room:
            raise InvalidRequest(
                f"The prompt has {len(prompt)} tokens and leaves room for {max(0, room)}, not {sampling.max_tokens}.",
                "Shorten the prompt or ask for fewer tokens.",
            )
        continuation = Continuation(prompt, sampling, checked, special)
        (growth,) = await self.generate([continuation], Deadline.after(timeout_s))
        text = GrowingText(self.served.tokenizer, prompt, sampling.stop_ids)
        text.push(growth.tokens)
        return text.read(final=True)

    async def _ask_apart(self, question: Question, deadline: Deadline) -> Any:
        """Splits a question by the Runners that serve its sources, and merges."""
        by_runner: dict[str, list[str]] = {}
        for source in sources_of(question):
            by_runner.setdefault(self._runner_of(source), []).append(source)
        if len(by_runner) <= 1 or not isinstance(question, TopFeaturesQuestion):
            runner = next(iter(by_runner), None) or self.description.first_runner()
            return (await self._call(runner, deadline, "ask", [question], deadline))[0]
        calls = [
            self._call(runner, deadline, "ask", [dataclasses.replace(question, sources=tuple(sources))], deadline)
            for runner, sources in by_runner.items()
        ]
        parts = [answers[0] for answers in await asyncio.gather(*calls)]
        return merge_rankings(parts, question.sources, question.k)

    def _writer_of(self, continuations: Sequence[Continuation]) -> str:
        """The deployment that writes.

        The Steerer, where there is one, unless the request needs what only a Runner can: conditions, and hook points
        inside of blocks. A condition wants the Runner that holds its SAE; decoder rows each of them can read.
        """
        steerings = [one.steering for one in continuations if one.steering is not None]
        runners = {self._runner_of(one.condition.source) for one in steerings if one.condition is not None}
        if len(runners) > 1:
            raise InvalidRequest("The conditions of one request belong to several Runners", "Ask one by one.")
        if runners:
            return runners.pop()
        steerer = self.description.steerer
        sources = self.description.steerable_sources()
        on_residual_stream = all(
            place_of(push.direction, sources).site is not None for one in steerings for push in one.pushes
        )
        if steerer is not None and (on_residual_stream or not self.description.runners):
            return steerer.name
        return self.description.first_runner()

    def _runner_of(self, source: str) -> str:
        return self.description.runner_of(source)

    def _handle(self, runner: str) -> DeploymentHandle[Any]:
        if runner not in self._handles:
            self._handles[runner] = serve.get_deployment_handle(runner, self.app_name)
        return self._handles[runner]

    async def _call(self, runner: str, deadline: Deadline, method: str, *arguments: Any) -> Any:
        remote: Any = getattr(self._handle(runner), method).remote
        async with deadline.limit():
            return await retried(lambda: asked(remote(*arguments)))


async def retried(call: Callable[[], Awaitable[Any]]) -> Any:
    """Every question can be asked twice, so a replica that died costs a retry and not the request."""
    try:
        return await call()
    except _REPLICA_LOST:
        try:
            return await call()
        except _REPLICA_LOST:
            raise Unavailable("Two replicas in a row died while answering.", "Try again later.") from None


async def streamed(
    handle: DeploymentHandle[Any], method: str, deadline: Deadline, *arguments: Any
) -> AsyncGenerator[Any]:
    """The parts of a streaming call, each awaited within the deadline; closing the generator stops the work."""
    parts: Any = getattr(handle.options(stream=True), method).remote(*arguments)
    try:
        while True:
            try:
                async with deadline.limit():
                    part = await _awaited(parts, anext(parts))
            except StopAsyncIteration:
                return
            yield part
    finally:
        parts.cancel()


async def asked(response: Any) -> Any:
    """The answer of a handle's call, or the error of ours that it failed with."""
    return await _awaited(response, response)


async def _awaited(response: Any, part: Awaitable[Any]) -> Any:
    """Waits for a handle's response, or the next part of one; whoever stops waiting also stops the work."""
    try:
        return await part
    except asyncio.CancelledError:
        response.cancel()
        raise
    except RayTaskError as error:
        if isinstance(error.cause, RayscopeError):
            raise error.cause from None
        raise
    except BackPressureError as error:
        raise Overloaded(
            "Too many requests are waiting for this model.", "Retry after the time given.", error.retry_after_s or 1.0
        ) from None
    except DeploymentUnavailableError:
        raise Unavailable("This model's deployment failed to start.", "See `serve status`.") from None
