"""Which models the cluster serves right now.

Applications come and go by `serve deploy`, so the Gateway looks again every few seconds, and at once when a request
names a model that it does not know.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.errors import InvalidRequest, NotFound, RayscopeError
from core.exchange.graph import unavailable_model
from deployments.autointerp.client import AutointerpClient
from deployments.client import ModelClient
from deployments.gateway.applications import Application, applications
from deployments.graph.client import GraphClient

_CARD, _PIPELINE, _JOBS = "ModelCard", "GraphPipeline", "Jobs"
_LOG = logging.getLogger("ray.serve")


Client = TypeVar("Client")


@dataclass(frozen=True, slots=True)
class _Known(Generic[Client]):
    deployed_at_s: float
    client: Client


class Directory:
    """The served models, by every name they go by.

    Args:
        refresh_s: How often to look; None looks only when asked to.
    """

    def __init__(self, refresh_s: float | None) -> None:
        self._known: dict[str, _Known[ModelClient]] = {}
        self._by_name: dict[str, ModelClient] = {}
        self._graphs: dict[str, _Known[GraphClient]] = {}
        self._autointerp: dict[str, _Known[AutointerpClient]] = {}
        self._replicas: Counter[str] = Counter()
        self._looking = asyncio.Lock()
        self._looks = 0
        self._watcher = None if refresh_s is None else asyncio.create_task(self._watch(refresh_s))

    async def find(self, model: str | None) -> ModelClient:
        """The client of a model; None means the only one that is served.

        Raises:
            NotFound: Nobody serves it; the hint says what is served.
            InvalidRequest: No model was named and there are several.
        """
        found = self._named(model)
        if found is None:
            await self.refresh()
            found = self._named(model)
        if found is not None:
            return found
        served = f"Served models: {', '.join(self._ids()) or 'none yet'}."
        if model is None and self._known:
            raise InvalidRequest("This cluster serves several models, so the request must name one.", served)
        raise NotFound(f"The model '{model}' is not served here." if model else "No model is served here.", served)

    def clients(self) -> list[ModelClient]:
        """The served models, by id."""
        return [self._by_name[model] for model in self._ids()]

    async def find_graphs(self, model: str | None, transcoder_set: str | None = None) -> GraphClient:
        """The client of a model that is served with transcoders; None means the only one.

        Raises:
            InvalidRequest: There is no such model or set, or there are several that fit.
        """
        found = self._graphs_of(model, transcoder_set)
        if len(found) != 1:
            await self.refresh()
            found = self._graphs_of(model, transcoder_set)
        if len(found) == 1:
            return found[0]
        served = [seen.client.served for seen in self._graphs.values()]
        if not found and model is not None and not self._graphs_of(model, None):
            raise unavailable_model(model, sorted({one.model.description.names.id for one in served}))
        sets = ", ".join(f"{one.model.description.names.id} with {one.description.transcoder_set}" for one in served)
        raise InvalidRequest(
            "The request fits several sets of transcoders." if found else "No model is served with these transcoders.",
            f"Name model_id and transcoder_set; served: {sets or 'none'}.",
        )

    async def graphs_app(self, app_name: str) -> GraphClient:
        """The client of a graph application.

        Raises:
            NotFound: There is none of this name.
        """
        if app_name not in self._graphs:
            await self.refresh()
        if app_name not in self._graphs:
            raise NotFound(
                f"No application '{app_name[:100]}' makes graphs here.", "See the id that POST /graphs gave."
            )
        return self._graphs[app_name].client

    def graph_clients(self) -> list[GraphClient]:
        """The clients of all graph applications."""
        return [seen.client for _, seen in sorted(self._graphs.items())]

    async def find_autointerp(self) -> AutointerpClient:
        """The client of the application that explains and scores features; of several the first by name.

        Raises:
            NotFound: There is none.
        """
        if not self._autointerp:
            await self.refresh()
        for _, seen in sorted(self._autointerp.items()):
            return seen.client
        raise NotFound("Nothing explains or scores features here.", "Add an autointerp application; see examples/.")

    async def statuses(self) -> dict[str, str]:
        """Serve's status of every application."""
        return {name: app.status.value for name, app in (await asyncio.to_thread(applications)).items()}

    def replicas(self) -> Counter[str]:
        """How many replicas of the models' deployments were in each of Serve's states when last looked at."""
        return self._replicas

    async def refresh(self) -> None:
        """Looks at the cluster now. Callers that wait for the same look share it; one that began before is too old."""
        wanted = self._looks + (2 if self._looking.locked() else 1)
        async with self._looking:
            if self._looks < wanted:
                await self._look()
                self._looks += 1

    async def aclose(self) -> None:
        """Stops looking."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    async def _watch(self, refresh_s: float) -> None:
        while True:
            try:
                await self.refresh()
            except Exception:
                _LOG.exception("The Gateway could not look at the cluster; it tries again.")
            await asyncio.sleep(refresh_s)

    async def _look(self) -> None:
        found = await asyncio.to_thread(applications)
        self._replicas = _replicas(found)
        self._known = await _known(found, _CARD, self._known, ModelClient.connect)
        self._graphs = await _known(found, _PIPELINE, self._graphs, GraphClient.connect)
        self._autointerp = await _known(found, _JOBS, self._autointerp, AutointerpClient.connect)
        known = self._known
        self._by_name = {}
        for _, seen in sorted(known.items()):
            names = seen.client.description.names
            for spelling in (names.id, *names.aliases):
                self._by_name.setdefault(spelling, seen.client)

    def _named(self, model: str | None) -> ModelClient | None:
        if model is not None:
            return self._by_name.get(model)
        return next(iter(self._known.values())).client if len(self._known) == 1 else None

    def _graphs_of(self, model: str | None, transcoder_set: str | None) -> list[GraphClient]:
        return [
            seen.client
            for seen in self._graphs.values()
            if (model is None or seen.client.is_called(model))
            and transcoder_set in (None, seen.client.served.description.transcoder_set)
        ]

    def _ids(self) -> list[str]:
        return sorted({seen.client.description.names.id for seen in self._known.values()})


async def _known(
    found: Mapping[str, Application],
    ingress: str,
    before: Mapping[str, _Known[Client]],
    connect: Callable[[str], Awaitable[Client]],
) -> dict[str, _Known[Client]]:
    """The applications with this ingress that are up; those that were known and not deployed anew stay as they are."""
    serving = {name: app.deployed_at_s for name, app in found.items() if ingress in app.replicas and app.answers}
    known = {name: seen for name, seen in before.items() if serving.get(name) == seen.deployed_at_s}
    for name in serving.keys() - known.keys():
        try:
            known[name] = _Known(serving[name], await connect(name))
        except RayscopeError:
            _LOG.exception("The application '%s' is up but could not be asked what it serves.", name)
    return known


def _replicas(found: Mapping[str, Application]) -> Counter[str]:
    models = [app for app in found.values() if _CARD in app.replicas]
    return sum((states for app in models for name, states in app.replicas.items() if name != _CARD), Counter[str]())
