"""GraphClient: the supported way to make graphs from Python, by Serve handles and without HTTP.

    client = await GraphClient.connect("rayscope-demo-graphs")         # the application's name
    document = await client.graph("1 2 ", slug="count-1-2")            # a dict, as /generate-graph answers it

The Gateway uses it too. Forward passes and interventions go straight to the Tracer; graphs to the pipeline.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from typing import Any, Self

import orjson
from ray import serve
from ray.exceptions import ObjectLostError

from core.catalogue.catalogue import weights_location
from core.catalogue.description import ModelDescription
from core.clock import SYSTEM_CLOCK
from core.deadline import Deadline
from core.errors import Unavailable
from core.exchange.graph import ServedGraphs, generate_graph
from core.exchange.served import ServedModel
from core.graph.publisher import Published
from core.graph.requests import (
    Delivery,
    ForwardPassAnswer,
    ForwardPassQuestion,
    GraphDescription,
    GraphQuestion,
    InterventionAnswer,
    InterventionQuestion,
    PruningOptions,
)
from core.job_state import JobState
from core.prompts import PromptTokenizer
from core.wire.graph import GraphGenerationRequest
from deployments.client import asked, retried

LOST = ("What was kept of this graph is lost: its replica died.", "Make the graph again.")
_ATTEMPTS = 2
_QUICK_S = 20.0
_POLL_S = 10.0
_DEFAULT_TIMEOUT_S = 600.0


class GraphClient:
    """Talks to one graph application. Cheap to keep; safe to share between tasks of one event loop."""

    def __init__(self, app_name: str, served: ServedGraphs) -> None:
        self.app_name = app_name
        self.served = served
        self._pipeline: Any = serve.get_app_handle(app_name)
        self._tracer: Any = serve.get_deployment_handle("Tracer", app_name)

    @classmethod
    async def connect(cls, app_name: str) -> Self:
        """Asks the application what it serves and loads the model's tokenizer.

        Raises:
            Unavailable: There is no such application, or it is not up.
        """
        try:
            handle: Any = serve.get_app_handle(app_name)
            model, graphs = await handle.describe.remote()
        except Exception as error:
            raise Unavailable(f"The application '{app_name}' does not answer.", "See `serve status`.") from error
        description: ModelDescription = model
        transcoders: GraphDescription = graphs
        location = weights_location(description.weights)
        tokenizer = await asyncio.to_thread(PromptTokenizer.load, location, description.revision)
        return cls(app_name, ServedGraphs(ServedModel(description, tokenizer), transcoders))

    def is_called(self, model: str) -> bool:
        """Whether the model goes by a name: its id, an alias, or where its weights are from."""
        description = self.served.model.description
        return model in (description.names.id, *description.names.aliases, description.weights)

    async def graph(self, prompt: str, *, slug: str, timeout_s: float = _DEFAULT_TIMEOUT_S, **wishes: Any) -> Any:
        """The graph of a prompt, as `/generate-graph` answers it.

        Args:
            prompt: The text.
            slug: The graph's name.
            timeout_s: How long to wait.
            wishes: Other fields of the request, such as `max_feature_nodes`, by their names on the wire.
        """
        body = {"prompt": prompt, "slug_identifier": slug, "model_id": self.served.model.description.names.id}
        request = GraphGenerationRequest.model_validate(body | wishes)
        question = generate_graph(request, self.served, SYSTEM_CLOCK.time())
        published = await self.generate(question, Deadline.after(timeout_s))
        return published if published.content is None else orjson.loads(published.content)

    async def generate(self, question: GraphQuestion, deadline: Deadline) -> Published:
        """Makes a graph and waits for it."""
        return await self._fetched(lambda: self._pipeline.generate.remote(question, deadline), deadline)

    async def busy(self) -> bool:
        """Whether a graph that is asked for now would be refused."""
        return await self._quick("busy")

    async def submit(self, question: GraphQuestion) -> JobState:
        """Begins to make a graph in the background."""
        return await self._quick("submit", question)

    async def state(self, job_id: str) -> JobState:
        """How far it is; its output is whether what there is of the graph is only a part."""
        return await self._quick("state", job_id)

    async def changes(self, job_id: str) -> AsyncGenerator[JobState]:
        """Its states until it has ended, each once there is something new."""
        seen = 0
        while True:
            async with Deadline.after(_POLL_S + _QUICK_S).limit():
                state: JobState = await asked(self._pipeline.changed.remote(job_id, seen, _POLL_S))
            if state.changes > seen:
                yield state
            if state.ended:
                return
            seen = state.changes

    async def result(self, job_id: str, deadline: Deadline) -> Published:
        """Where it went, or its document, or that of the part that is there."""
        return await self._fetched(lambda: self._pipeline.result.remote(job_id, deadline), deadline)

    async def prune(
        self,
        job_id: str,
        options: PruningOptions,
        labels: Mapping[tuple[int, int], str] | None,
        delivery: Delivery,
        deadline: Deadline,
    ) -> Published:
        """The same graph at other thresholds."""
        prune = self._pipeline.prune.remote
        return await self._fetched(lambda: prune(job_id, options, labels, delivery, deadline), deadline)

    async def delete(self, job_id: str) -> JobState:
        """Stops it and forgets it."""
        return await self._quick("delete", job_id)

    async def forward_pass(self, question: ForwardPassQuestion, deadline: Deadline) -> ForwardPassAnswer:
        """What comes after a prompt."""
        async with deadline.limit():
            return await retried(lambda: asked(self._tracer.forward_pass.remote(question, deadline)))

    async def intervene(self, question: InterventionQuestion, deadline: Deadline) -> InterventionAnswer:
        """A prompt continued twice, left alone and with features held."""
        async with deadline.limit():
            return await retried(lambda: asked(self._tracer.intervene.remote(question, deadline)))

    async def _quick(self, method: str, *arguments: Any) -> Any:
        async with Deadline.after(_QUICK_S).limit():
            return await asked(getattr(self._pipeline, method).remote(*arguments))

    async def _fetched(self, call: Callable[[], Any], deadline: Deadline) -> Published:
        """A graph's document comes from the object store, past the pipeline.

        It lies with the replica that wrote it. When that dies before it is fetched, it is asked for again; nothing is
        delivered twice by that, as only what is delivered nowhere is fetched.
        """
        async with deadline.limit():
            for _ in range(_ATTEMPTS):
                done = await asked(call())
                if isinstance(done, Published):
                    return done
                with suppress(ObjectLostError):
                    return Published(content=await done.reference)
            raise Unavailable(*LOST)
