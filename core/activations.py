"""One model, its SAEs, and the batch that serves all clients of both. What a Runner replica holds.

    ask(questions) --lease the SAEs--> [batcher] --> one forward pass and one encoding per SAE --> answers
    look_up(lookup) --lease the SAE--> device thread --> answer

Everything that touches the device goes through one thread, so a request whose client left can never run beside the
next one. A ranking over more SAEs than fit into the budget is answered in waves and merged exactly; any other question
names at most one SAE.
"""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Self

from core.batching import Batcher, BatchLimits
from core.catalogue.sources import Source
from core.deadline import Deadline
from core.device import DeviceExecutor
from core.engine.model import EagerModel
from core.errors import TooLarge
from core.metrics import NULL_METRICS, MetricSink
from core.questions import Floats, Lookup, Question, TopFeaturesQuestion, sources_of
from core.ranking import merge_rankings
from core.readings.batch import answer_batch, answer_lookup
from core.readings.reader import Saes
from core.residency import Residency, ResidencyStats
from core.saes.decoder_rows import load_row
from core.saes.encoder import LoadedSae
from core.saes.store import SaeStore

_Asked = tuple[Question, Saes]
_ROW_TIMEOUT_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class SaeBudget:
    """How many SAEs may be in memory.

    Attributes:
        device_bytes: Most bytes on the device.
        host_bytes: Most bytes kept in host memory after leaving a GPU.
        max_entries: Most SAEs on the device; None: as many as fit.
    """

    device_bytes: int
    host_bytes: int = 0
    max_entries: int | None = None


class ActivationEngine:
    """Answers questions about one model. Lives on one event loop."""

    def __init__(
        self,
        model: EagerModel,
        device: DeviceExecutor,
        sources: Sequence[Source],
        *,
        sae_dtype: str,
        budget: SaeBudget,
        limits: BatchLimits,
        metrics: MetricSink = NULL_METRICS,
    ) -> None:
        self._model = model
        self._device = device
        self._sources: Mapping[str, Source] = {source.id: source for source in sources}
        store = SaeStore(self._sources, dtype=sae_dtype, device_name=model.device.type, device=device)
        self._residency: Residency[str, LoadedSae] = Residency(
            store, budget.device_bytes, budget.host_bytes, max_entries=budget.max_entries, metrics=metrics
        )
        self._batcher: Batcher[_Asked, Any] = Batcher(
            self._step, lambda asked: len(asked[0].tokens), limits, metrics=metrics
        )

    async def __aenter__(self) -> Self:
        """Nothing to open; closes at the end."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes."""
        await self.aclose()

    async def ask(self, questions: Sequence[Question], deadline: Deadline) -> list[Any]:
        """Answers questions, in order. They share forward passes with each other and with other callers'.

        Raises:
            RayscopeError: One of the questions can not be answered; the others are abandoned.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer(question, deadline)) for question in questions]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def look_up(self, lookup: Lookup, deadline: Deadline) -> Any:
        """Answers what needs weights only."""
        async with self._residency.lease(sources_of(lookup), deadline) as saes, deadline.limit():
            return await self._device.run(answer_lookup, lookup, saes)

    def lease(self, sources: Sequence[str], deadline: Deadline) -> AbstractAsyncContextManager[Saes]:
        """Keeps SAEs in memory for as long as the context is open."""
        return self._residency.lease(sources, deadline)

    async def decoder_row(self, source: Source, index: int) -> Floats:
        """Decoder row of a feature, through the resident SAE; of a source of another replica, through its files."""
        if source.id not in self._sources:
            return await load_row(source, index)
        async with self._residency.lease([source.id], Deadline.after(_ROW_TIMEOUT_S)) as saes:
            return await self._device.run(_copy_row, saes[source.id], index)

    async def preload(self, deadline: Deadline) -> list[str]:
        """Loads sources in their order until the next one does not fit; returns what is resident."""
        wanted: list[str] = []
        for source in self._sources:
            if not self._residency.fits([*wanted, source]):
                break
            wanted.append(source)
        async with AsyncExitStack() as held:
            for source in wanted:
                await held.enter_async_context(self._residency.lease([source], deadline))
        return self._residency.resident_keys()

    def queue_time_s(self) -> float:
        """Seconds that a question arriving now would wait for the device."""
        return self._batcher.queue_time_s()

    def queued_tokens(self) -> int:
        """Tokens that wait for the device."""
        return self._batcher.queued_tokens

    def residency(self) -> ResidencyStats:
        """What is resident and how often that helped."""
        return self._residency.stats()

    def resident(self) -> list[str]:
        """Ids of the resident sources."""
        return self._residency.resident_keys()

    async def check(self, timeout_s: float) -> None:
        """Does nothing while the engine works.

        Raises:
            Unavailable: The device is broken or does not answer, or the batcher has stopped.
        """
        self._batcher.check()
        await self._device.probe(timeout_s)

    async def aclose(self) -> None:
        """Fails what waits, ends what runs, frees the device."""
        await self._batcher.aclose()
        await self._residency.aclose()
        await self._device.aclose()

    async def _answer(self, question: Question, deadline: Deadline) -> Any:
        sources = sources_of(question)
        if isinstance(question, TopFeaturesQuestion) and not self._residency.fits(sources):
            return await self._answer_in_waves(question, deadline)
        async with self._residency.lease(sources, deadline) as saes:
            return await self._batcher.submit((question, saes), deadline)

    async def _answer_in_waves(self, question: TopFeaturesQuestion, deadline: Deadline) -> Any:
        parts: list[Any] = []
        for wave in self._residency.waves(question.sources):
            async with self._residency.lease(wave, deadline) as saes:
                part = dataclasses.replace(question, sources=tuple(wave))
                parts.append(await self._batcher.submit((part, saes), deadline))
        return merge_rankings(parts, question.sources, question.k)

    async def _step(self, asked: list[_Asked]) -> list[Any | Exception]:
        return await self._device.run(answer_batch, self._model, asked)


def _copy_row(sae: LoadedSae, index: int) -> Floats:
    return sae.sae.W_dec[index].float().cpu().numpy().copy()


def default_sae_budget_bytes(device: str, fraction: float, model_bytes: int) -> int:
    """Memory for SAEs when the configuration names none: what the model leaves, less room to work in.

    `model_bytes` counts the weights and the cache that generating may fill.

    On a GPU the share is `fraction` of the card, of which 15 % stay free for activations and the allocator. On a CPU
    it is half of the memory that is available now.

    Raises:
        TooLarge: The model alone fills the share.
    """
    if device == "cuda":
        import torch

        share = int(torch.cuda.get_device_properties(0).total_memory * fraction * 0.85)
        left = share - model_bytes
    else:
        import psutil

        left = psutil.virtual_memory().available // 2
    if left <= 0:
        raise TooLarge(
            f"The model takes {model_bytes / 2**30:.1f} GiB and leaves no room for SAEs in its share of the device.",
            "Give this Runner a larger num_gpus, or set sae_budget_gib.",
        )
    return left
