"""Worker: what an Explainer and a Scorer have in common: a workshop whose books, embedder and models are elsewhere.

A replica runs hundreds of tasks at once, since they wait for language models almost all the time.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from ray.serve.handle import DeploymentHandle

from cluster.autointerp_arguments import AutointerpArgs, EmbedderArgs
from cluster.autointerp_rules import rules_of
from core.autointerp.bookkeeping import Note, RemoteBooks
from core.autointerp.caching.library import ActivationCaches
from core.autointerp.embedder import Kind, Vectors
from core.autointerp.examples import FeatureName, FeatureRecord
from core.autointerp.providers.turnstile import GateName
from core.autointerp.sampling import SamplerSettings, sample
from core.autointerp.workshop import Workshop
from core.deadline import Deadline
from deployments.autointerp.local_models import LocalModels
from deployments.client import asked, retried


class BookkeeperDesk:
    """The Bookkeeper by its handle. What it is asked can be asked again if it died: it starts anew from its files."""

    def __init__(self, bookkeeper: DeploymentHandle[Any]) -> None:
        self._bookkeeper: Any = bookkeeper

    async def admit(self, ticket: str, name: GateName, tokens: int, owner: str) -> None:
        """See `core.autointerp.bookkeeping.Desk`."""
        await retried(lambda: asked(self._bookkeeper.admit.remote(ticket, name, tokens, owner)))

    async def post(self, notes: list[Note]) -> list[Any]:
        """See `core.autointerp.bookkeeping.Desk`."""
        return await retried(lambda: asked(self._bookkeeper.post.remote(notes)))


class RemoteEmbedder:
    """The Embedder by its handle."""

    def __init__(self, args: EmbedderArgs, embedder: DeploymentHandle[Any]) -> None:
        self.name = args.model
        self._embedder: Any = embedder

    async def embed(self, texts: Sequence[str], kind: Kind, deadline: Deadline) -> Vectors:
        """See `core.autointerp.embedder.Embedder`."""
        async with deadline.limit():
            return await retried(lambda: asked(self._embedder.embed.remote(list(texts), kind, deadline)))


class Worker:
    """Holds a workshop."""

    async def __init__(
        self, args: AutointerpArgs, bookkeeper: DeploymentHandle[Any], embedder: DeploymentHandle[Any] | None = None
    ) -> None:
        self._books = RemoteBooks(BookkeeperDesk(bookkeeper))
        self._models = LocalModels(args.local.names)
        self.workshop = Workshop(
            rules_of(args),
            self._books.books,
            local=self._models.endpoint,
            embedder=None if embedder is None or args.embedder is None else RemoteEmbedder(args.embedder, embedder),
            subject=self._models,
        )
        self._caches = ActivationCaches(args.cache_folders)
        await self.workshop.prepare()

    async def record(self, name: FeatureName, settings: SamplerSettings) -> FeatureRecord:
        """A feature's examples, drawn from a cache of activations."""
        n_silent = 2 * settings.n_silent  # some are also texts that fire
        found = await asyncio.to_thread(self._caches.exemplars, name, n_silent)
        return sample(
            found.name,
            found.active,
            found.silent,
            settings,
            top_logits=found.top_logits,
            bottom_logits=found.bottom_logits,
        )

    async def __del__(self) -> None:
        """Closes connections."""
        await self.workshop.aclose()
        await self._models.aclose()
        await self._books.aclose()
