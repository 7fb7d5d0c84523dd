"""Publisher: one replica writes graphs as documents and takes them where they are to go. CPU and network only."""

import asyncio
from typing import Any

import ray

from cluster.graph_arguments import GraphAppArgs, UploadArgs
from core.catalogue.catalogue import weights_location
from core.catalogue.description import ModelDescription
from core.deadline import Deadline
from core.graph.destinations import Destinations
from core.graph.publisher import GraphPublisher, GraphSource, Published
from core.graph.requests import GraphQuestion
from core.graph.s3 import S3Limits, S3Store
from core.graph.stages import Handed
from core.graph.upload import Uploader, UploadLimits
from core.outbound_urls import CheckedTransport, UrlPolicy
from core.prompts import PromptTokenizer


class Publisher:
    """Thin: builds a `GraphPublisher` and hands graphs to it."""

    async def __init__(self, description: ModelDescription, args: GraphAppArgs) -> None:
        tokenizer = await asyncio.to_thread(
            PromptTokenizer.load, weights_location(description.weights), description.revision
        )
        allowed = destinations(args.uploads)
        limits = UploadLimits(total_s=args.uploads.timeout_s)
        uploader = Uploader(CheckedTransport(allowed.urls), limits)
        self._publisher = GraphPublisher(_source(description, args), tokenizer.str_tokens, uploader, allowed.store)

    async def publish(self, pruned: Handed, question: GraphQuestion, deadline: Deadline) -> Published | Handed:
        """Takes a graph where the question says; one that goes nowhere is left in the object store."""
        done = await self._publisher.publish(await pruned.reference, question, deadline)
        if done.content is None:
            return done
        return Handed(ray.put(done.content), len(done.content))

    async def __del__(self) -> None:
        """Closes connections."""
        await self._publisher.aclose()


def destinations(args: UploadArgs) -> Destinations:
    """Where graphs may go."""
    return Destinations(
        UrlPolicy(tuple(args.allowed_hosts), loopback=args.allow_loopback),
        S3Store(tuple(args.allowed_buckets), S3Limits(total_s=args.timeout_s)),
    )


def _source(description: ModelDescription, args: GraphAppArgs) -> GraphSource:
    from core.graph.transcoders.location import locate
    from core.graph.transcoders.publication import publication_of

    location: Any = locate(args.transcoder_set)
    publication = publication_of(location)
    return GraphSource(
        scan=args.scan or publication.model or description.names.id.rpartition("/")[2],
        transcoder_set=location.name,
        source_urls=publication.source_urls,
        source_set=publication.source_set,
    )
