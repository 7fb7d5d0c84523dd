"""The publisher: writes a pruned graph as a document, checks it, and takes it where it is to go.

    PrunedGraph --graph_document--> check --> signed URL | bucket | bytes

Serialising holds the interpreter's lock for seconds where graphs are large, which is why it has processes of its own.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from core.clock import SYSTEM_CLOCK, Clock
from core.deadline import Deadline
from core.graph.document import Generator, GraphDocument, GraphInfo, GraphTitle, graph_document
from core.graph.pruned import PrunedGraph
from core.graph.requests import GraphQuestion
from core.graph.rules import check, check_layout, check_name
from core.graph.s3 import S3Store
from core.graph.upload import Uploader

_NOBODY: Final = "Anonymous"
_PROJECT: Final = "Rayscope"


@dataclass(frozen=True, slots=True)
class GraphSource:
    """What documents say of the transcoders that they were made with.

    Attributes:
        scan: Name under which viewers look features up.
        transcoder_set: Name of the set.
        source_urls: Its pages.
        source_set: Its source set at Neuronpedia, if it has one.
        project_url: Address of whoever runs this cluster, or of the program.
    """

    scan: str
    transcoder_set: str
    source_urls: tuple[str, ...]
    source_set: str | None
    project_url: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """Where a graph is now.

    Attributes:
        content: The document, if it was to go nowhere.
        url: Where it was stored, without credentials.
        read_url: Reads it from the cluster's own storage, for a while.
    """

    content: bytes | None = None
    url: str | None = None
    read_url: str | None = None


class GraphPublisher:
    """Publishes graphs of one model and set.

    Args:
        source: What documents say of the set.
        str_tokens: The texts of token ids, each decoded alone.
        uploader: Puts to signed URLs.
        store: Writes to the cluster's buckets.
        clock: Dates documents.
    """

    def __init__(
        self,
        source: GraphSource,
        str_tokens: Callable[[Sequence[int]], Sequence[str]],
        uploader: Uploader,
        store: S3Store,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._source = source
        self._str_tokens = str_tokens
        self._uploader = uploader
        self._store = store
        self._clock = clock

    def document(
        self, graph: PrunedGraph, question: GraphQuestion, labels: Mapping[tuple[int, int], str] | None = None
    ) -> GraphDocument:
        """The document of a graph.

        Raises:
            InvalidRequest: Viewers could not open it.
        """
        check_name("slug_identifier", question.slug)
        document = graph_document(graph, self._title(graph, question), question.labels if labels is None else labels)
        check(document)
        return document

    async def publish(self, graph: PrunedGraph, question: GraphQuestion, deadline: Deadline) -> Published:
        """Writes a graph and takes it where the question says.

        Raises:
            InvalidRequest: Viewers could not open it.
            UrlRefused: It may not go there.
            UploadFailed: The storage did not take it.
            DeadlineExceeded: The deadline passed.
        """
        delivery = question.delivery
        async with deadline.limit():
            document = await asyncio.to_thread(self.document, graph, question)
            if delivery.signed_url is not None or delivery.destination is not None:
                check_layout(document)  # what is stored is for viewers
            if delivery.signed_url is not None:
                done = await self._uploader.put(delivery.signed_url, document.chunks(), compress=delivery.compress)
                return Published(url=done.url)
            if delivery.destination is not None:
                stored = await self._store.put(delivery.destination, document.chunks(), compress=delivery.compress)
                return Published(url=str(stored.place), read_url=stored.url)
            return Published(content=await asyncio.to_thread(b"".join, document.chunks()))

    async def aclose(self) -> None:
        """Closes connections."""
        await self._uploader.aclose()
        await self._store.aclose()

    def _title(self, graph: PrunedGraph, question: GraphQuestion) -> GraphTitle:
        texts = tuple(self._str_tokens(graph.token_ids))
        source = self._source
        return GraphTitle(
            slug=question.slug,
            scan=source.scan,
            prompt="".join(texts),
            prompt_tokens=texts,
            info=GraphInfo(
                creator_name=question.creator or _NOBODY,
                creator_url=source.project_url,
                source_urls=source.source_urls,
                transcoder_set=source.transcoder_set,
                generator=Generator(_PROJECT, version("rayscope"), source.project_url),
                create_time_ms=int(self._clock.time() * 1000),
            ),
            generation=question.attribution,
            feature_details=None if source.source_set is None else {"neuronpedia_source_set": source.source_set},
        )
