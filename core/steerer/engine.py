"""Generation on vLLM with every sequence steered its own way, in one continuous batch.

    continuations, interventions
      -> `admission`   what cannot be run is refused here, before a worker hears of it
      -> `vectors`     directions that the workers lack are uploaded, and pinned while the call lasts
      -> AsyncLLM      token ids in, token ids out; steering in `extra_args`, see `request`; a cache salt, see `salt`

Closing the generator aborts its sequences. An engine whose canary failed serves nothing: see `canary`.

Deliberately not here: text, features, and conditions on features. Hook points off the residual stream and conditional
steering need the eager engine of a Runner.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Self
from uuid import uuid4

from core.deadline import Deadline
from core.errors import InvalidRequest, Overloaded, RayscopeError, Unavailable
from core.generation.requests import Continuation, Growth
from core.steerer.admission import EngineFacts, admit, check_site
from core.steerer.canary import check_steering
from core.steerer.conversion import DEAD, RESTART_HINT, growth_of, merge, prompt_of, sampling_of, translate
from core.steerer.readings import Means, Segments, means
from core.steerer.settings import EngineSettings, engine_arguments
from core.steerer.vectors import VectorStore
from core.steering.operators import Intervention

_LOG = logging.getLogger("ray.serve")


class SteeredEngine:
    """See the module. Lives on one event loop.

    Args:
        llm: vLLM's `AsyncLLM` with our worker extension.
        facts: What it is like.
        settings: What it was started with.

    Attributes:
        facts: What the engine is like.
        max_segments: Spans that may be read at once.
    """

    def __init__(self, llm: Any, facts: EngineFacts, settings: EngineSettings) -> None:
        self._llm = llm
        self._settings = settings
        self._vectors = VectorStore(lambda uploads: self._call("steer_put_vectors", uploads), settings.max_vectors)
        self._segments = Segments(settings.max_segments)
        self._running = 0
        self._watch: asyncio.Task[None] | None = None
        self._refusal: Unavailable | None = None
        self.facts = facts
        self.max_segments = settings.max_segments

    @property
    def running(self) -> int:
        """Texts that are being written or wait to be."""
        return self._running

    @classmethod
    async def start(cls, settings: EngineSettings) -> Self:
        """Loads the model, which takes a minute or more.

        Raises:
            InvalidRequest: The settings contradict each other.
            RuntimeError: The model's architecture was not tested with steering; or vLLM did not start.
            Unavailable: Steering has no effect, see `canary`.
        """
        engine = cls(*_start(settings), settings)
        try:
            await check_steering(engine)
        except BaseException:
            await engine.aclose()
            raise
        engine._watch = asyncio.create_task(engine._check_from_time_to_time(settings.canary_period_s))
        return engine

    async def aclose(self) -> None:
        """Ends the workers."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self._llm.shutdown()

    async def check_health(self) -> None:
        """Fails once the engine is dead, its canary failed, or a worker met a request that it could not steer.

        Raises:
            Unavailable: The engine has to be replaced.
        """
        self._check_trusted()
        if self._llm.errored:
            raise Unavailable(DEAD, RESTART_HINT)
        faults = sum(report["faults"] for report in await self.report())
        if faults:
            raise Unavailable(f"{faults} requests could not be steered as asked", RESTART_HINT)

    async def report(self) -> list[dict[str, Any]]:
        """Of each rank: `sequences` that are steered or read, `faults`, 0 while all is well, and `runner`."""
        return await self._call("steer_report")

    async def stream(
        self,
        continuations: Sequence[Continuation],
        interventions: Sequence[tuple[Intervention, ...]],
        deadline: Deadline,
    ) -> AsyncGenerator[list[Growth]]:
        """Writes all continuations at once and reports them as they grow; at most one `Growth` each per report.

        Args:
            continuations: What to write.
            interventions: Of each continuation, its resolved steering; they apply in this order.
            deadline: When nobody waits any more.

        Raises:
            InvalidRequest: A continuation can not be run here.
            TooLarge: They steer along more directions than the engine holds.
            Overloaded: Too many sequences are in the engine.
            DeadlineExceeded: The deadline passed.
            Unavailable: The engine died.
        """
        admitted = [admit(*pair, self.facts) for pair in zip(continuations, interventions, strict=True)]
        prompts = [prompt_of(c, a) for c, a in zip(continuations, admitted, strict=True)]
        sampling = [sampling_of(c.sampling, a) for c, a in zip(continuations, admitted, strict=True)]
        vectors = {key: vector for one in admitted for key, vector in one.vectors.items()}
        self._check_trusted()
        deadline.check()
        if self._running + len(continuations) > self._settings.max_waiting:
            raise Overloaded("The engine's queue is full", "Try again in a moment.")
        self._running += len(continuations)
        try:
            requests = list(zip(prompts, sampling, strict=True))
            async with self._vectors.lease(vectors), aclosing(self._follow(requests, deadline)) as reports:
                async for growths in reports:
                    yield growths
        finally:
            self._running -= len(continuations)

    async def generate(
        self,
        continuations: Sequence[Continuation],
        interventions: Sequence[tuple[Intervention, ...]],
        deadline: Deadline,
    ) -> list[Growth]:
        """As `stream`, but whole: one `Growth` per continuation, in order."""
        async with aclosing(self.stream(continuations, interventions, deadline)) as reports:
            return merge([growth async for growths in reports for growth in growths])

    async def read(
        self,
        continuation: Continuation,
        interventions: tuple[Intervention, ...],
        site: int,
        spans: Sequence[tuple[int, int]],
        deadline: Deadline,
    ) -> Means:
        """Runs a sequence and averages its activations at a residual site over spans of positions `(start, stop)`.

        Args:
            continuation: The sequence; what it generates counts from position `len(prompt)`.
            interventions: Its resolved steering.
            site: Residual site.
            spans: Disjoint. Positions that are never reached count as zero activations.
            deadline: When nobody waits any more.

        Raises:
            InvalidRequest: As `stream`; or the site or a span can not be read.
            Overloaded: Too many spans are being read.
        """
        self._check_trusted()
        _, (read, *_) = await self.inspect(continuation, interventions, site, spans, deadline)
        return read

    async def inspect(
        self,
        continuation: Continuation,
        interventions: tuple[Intervention, ...],
        site: int,
        spans: Sequence[tuple[int, int]],
        deadline: Deadline,
        *,
        every_rank: bool = False,
    ) -> tuple[list[Growth], list[Means]]:
        """As `read`; also returns what was generated, and on demand what every rank read."""
        admitted = admit(continuation, interventions, self.facts)
        check_site(site, self.facts)
        prompt = prompt_of(continuation, admitted)
        async with self._vectors.lease(admitted.vectors):
            with self._segments.lease(site, spans) as reading:
                sampling = sampling_of(continuation.sampling, admitted, reading)
                rows = [span.row for span in reading.spans]
                try:
                    async with aclosing(self._follow([(prompt, sampling)], deadline)) as reports:
                        written = [growth async for growths in reports for growth in growths]
                finally:
                    sums = await self._call("steer_collect", reading.key, rows, every_rank)
        return written, [means(reading, part, self.facts.width) for part in sums if part is not None]

    async def _follow(self, requests: Sequence[tuple[Any, Any]], deadline: Deadline) -> AsyncGenerator[list[Growth]]:
        arrived: asyncio.Queue[Growth | Exception] = asyncio.Queue()
        tasks = [asyncio.create_task(self._run(i, *request, arrived.put_nowait)) for i, request in enumerate(requests)]
        unfinished = len(tasks)
        try:
            while unfinished:
                async with deadline.limit():
                    batch = [await arrived.get()]
                while not arrived.empty():
                    batch.append(arrived.get_nowait())
                growths = merge(batch)
                unfinished -= sum(growth.finish is not None for growth in growths)
                yield growths
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, index: int, prompt: Any, sampling: Any, report: Callable[[Growth | Exception], None]) -> None:
        try:
            async for output in self._llm.generate(prompt, sampling, uuid4().hex):
                report(growth_of(index, output.outputs[0], sampling.logprobs or 0))
        except Exception as error:  # it belongs to whoever reads the reports
            report(translate(error))

    async def _check_from_time_to_time(self, period_s: float) -> None:
        while self._refusal is None:
            await asyncio.sleep(period_s)
            try:
                await check_steering(self)
            except Unavailable as failure:
                self._refusal = failure
            except RayscopeError:  # too busy to be checked now
                continue
            except Exception as failure:
                _LOG.exception("the check of steering failed")
                self._refusal = Unavailable(f"Steering could not be checked ({type(failure).__name__})")

    def _check_trusted(self) -> None:
        if self._refusal is not None:
            raise Unavailable(self._refusal.message, RESTART_HINT)

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await self._llm.collective_rpc(method, args=arguments)
        except Exception as error:
            raise translate(error) from error


def _start(settings: EngineSettings) -> tuple[Any, EngineFacts]:
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    from core.steerer.sites import layout_of

    on_gpu = current_platform.is_cuda()
    model = AsyncEngineArgs(**engine_arguments(settings, (), on_gpu=on_gpu)).create_model_config()
    layout_of(model.architecture)
    n_layers: int = model.hf_text_config.num_hidden_layers
    sites = tuple(range(n_layers + 1)) if settings.sites is None else settings.sites
    if not sites or not set(sites) <= set(range(n_layers + 1)):
        raise InvalidRequest(f"The residual sites of this model are 0 to {n_layers}, got {list(sites)}")
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(settings, sites, on_gpu=on_gpu)))
    return llm, EngineFacts(
        n_layers=n_layers,
        width=model.get_hidden_size(),
        vocabulary=model.get_vocab_size(),
        max_tokens=llm.model_config.max_model_len,
        sites=frozenset(sites),
        operators_per_site=settings.operators_per_site,
    )
