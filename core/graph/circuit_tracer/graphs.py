"""Graphs exactly as circuit-tracer makes them, for an application that names it as its engine.

One graph at a time; others wait for their turn or their deadline. A graph that nobody waits for any more can only be
stopped together with its process, so that is ended, and the next graph waits until another one has loaded everything.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Self

from core.deadline import Deadline
from core.errors import InvalidRequest
from core.graph.circuit_tracer.engine import Backend, CircuitTracer, Settings
from core.graph.effects import Effects
from core.graph.requests import AttributionOptions, GraphPrompt


class CircuitTracerGraphs:
    """circuit-tracer with one model and one set. Lives on one event loop.

    Args:
        load: Starts a process and loads both; runs in a thread.
        update_interval: Batches between two rankings.
    """

    def __init__(self, load: Callable[[], CircuitTracer], update_interval: int) -> None:
        self._load = load
        self._update_interval = update_interval
        self._turn = asyncio.Lock()
        self._tracer: CircuitTracer | None = None
        self._loading: asyncio.Task[CircuitTracer] | None = None
        self._failed = False

    @classmethod
    async def start(
        cls,
        python: str,
        model: Path,
        transcoders: Path | str,
        *,
        name: str | None = None,
        backend: Backend = "nnsight",
        lazy_encoder: bool = False,
        update_interval: int = 1000,
        timeout_s: float = 3600.0,
    ) -> Self:
        """Starts its process and loads a model and a set; arguments as in `CircuitTracer`.

        Raises:
            Unavailable: There is no such interpreter, or the process ended.
            RayscopeError: circuit-tracer can not load them.
        """

        def load() -> CircuitTracer:
            tracer = CircuitTracer(Path(python), timeout_s=timeout_s)
            try:
                tracer.load(model, transcoders, backend, name=name, lazy_encoder=lazy_encoder)
            except BaseException:
                tracer.close()
                raise
            return tracer

        graphs = cls(load, update_interval)
        await graphs._ready()
        return graphs

    async def attribute(self, prompt: GraphPrompt, options: AttributionOptions, deadline: Deadline) -> Effects:
        """One graph. A caller that is cancelled stops it.

        Raises:
            InvalidRequest: circuit-tracer can not make it.
            DeadlineExceeded: The deadline passed.
            Unavailable: The process ended, or does not start any more.
            RayscopeError: circuit-tracer failed.
        """
        if len(prompt.ids) < 2:
            raise InvalidRequest(
                "circuit-tracer makes no graph of a single token.", "Send a longer prompt, or use another engine."
            )
        settings = Settings(
            max_n_logits=options.max_n_logits,
            desired_logit_prob=options.desired_logit_prob,
            max_feature_nodes=options.max_feature_nodes,
            batch_size=options.batch_size,
            update_interval=self._update_interval,
            targets=options.targets,
        )
        async with deadline.limit(), self._turn:
            tracer = await self._ready()
            try:
                effects, _ = await asyncio.to_thread(tracer.attribute, prompt.ids, settings)
            except asyncio.CancelledError:
                tracer.close()
                raise
        return effects

    @property
    def alive(self) -> bool:
        """Whether the next graph has a chance. A process that ended is replaced; one that does not start is not."""
        return not self._failed

    def close(self) -> None:
        """Ends its process."""
        if self._tracer is not None:
            self._tracer.close()
        if self._loading is not None:
            self._loading.add_done_callback(_close_loaded)

    async def _ready(self) -> CircuitTracer:
        if self._tracer is not None:
            if self._tracer.alive:
                return self._tracer
            self._tracer.close()
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._load))
        loading = self._loading
        try:
            # Who comes next has use for it, also if this caller leaves.
            tracer = await asyncio.shield(loading)
        finally:
            if loading.done():
                self._loading = None
                self._failed = loading.exception() is not None
        self._tracer = tracer
        return tracer


def _close_loaded(loading: asyncio.Task[CircuitTracer]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        loading.result().close()
