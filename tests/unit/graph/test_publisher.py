"""Promises of `core.graph.publisher`: what a document says of its graph, and that it gets where it is to go."""

import asyncio
import dataclasses
import gzip
import json
from collections.abc import Sequence
from typing import Any

import pytest

from core.deadline import Deadline
from core.errors import DeadlineExceeded, InvalidRequest, UploadFailed, UrlRefused
from core.graph.document import read_document
from core.graph.pruned import PrunedGraph
from core.graph.publisher import GraphPublisher, GraphSource, Published
from core.graph.requests import AttributionOptions, Delivery, GraphPrompt, GraphQuestion, PruningOptions
from core.graph.rules import check
from core.graph.s3 import S3Place, Stored
from core.graph.upload import Uploader, UploadLimits
from core.outbound_urls import CheckedTransport, UrlPolicy
from tests.unit.graph.storage import Storage, answers, hangs
from tests.unit.graph.test_document import example


def later() -> Deadline:
    return Deadline.after(600)


SOURCE = GraphSource("gemma-2-2b", "gemma", ("https://example.com/gemma",), "gemmascope-transcoder-16k")
QUESTION = GraphQuestion(
    prompt=GraphPrompt((2, 5, 9), 1),
    attribution=AttributionOptions(max_feature_nodes=77),
    pruning=PruningOptions(),
    slug="a-graph",
    creator="ann",
    labels={},
    delivery=Delivery(),
)


class HeldClock:
    def time(self) -> float:
        return 1_700_000_000.5

    def monotonic(self) -> float:
        return 0.0


class Bucket:
    """A store of the cluster's own, in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[bytes, bool]] = {}
        self.closed = False

    async def put(self, destination: str, parts: Any, *, compress: bool) -> Stored:
        self.kept[destination] = (b"".join(parts), compress)
        return Stored(S3Place("graphs", "a.json"), "https://storage.example.com/a.json?signature=x", 1)

    async def aclose(self) -> None:
        self.closed = True


def texts(ids: Sequence[int]) -> list[str]:
    return [f"<{id_}>" for id_ in ids]


def publisher(bucket: Any = None, source: GraphSource = SOURCE) -> GraphPublisher:
    uploader = Uploader(CheckedTransport(UrlPolicy(loopback=True)), UploadLimits(total_s=20))
    return GraphPublisher(source, texts, uploader, bucket or Bucket(), HeldClock())


def question(**wishes: Any) -> GraphQuestion:
    return dataclasses.replace(QUESTION, **wishes)


async def published(graph: PrunedGraph, asked: GraphQuestion, bucket: Any = None) -> Published:
    made = publisher(bucket)
    try:
        return await asyncio.wait_for(made.publish(graph, asked, later()), 60)
    finally:
        await made.aclose()


def test_a_graph_that_goes_nowhere_is_in_the_answer_and_viewers_can_open_it() -> None:
    done = asyncio.run(published(example(), QUESTION))
    assert done.content is not None
    assert (done.url, done.read_url) == (None, None)
    check(read_document(done.content))
    document = json.loads(done.content)
    metadata = document["metadata"]
    assert (metadata["slug"], metadata["scan"]) == ("a-graph", "gemma-2-2b")
    assert metadata["prompt_tokens"] == texts(example().token_ids)
    assert metadata["prompt"] == "".join(metadata["prompt_tokens"])
    assert metadata["generation_settings"]["max_feature_nodes"] == 77
    assert metadata["feature_details"] == {"neuronpedia_source_set": "gemmascope-transcoder-16k"}
    info = metadata["info"]
    assert (info["creator_name"], info["transcoder_set"]) == ("ann", "gemma")
    assert info["source_urls"] == ["https://example.com/gemma"]
    assert info["create_time_ms"] == 1_700_000_000_500
    assert len(document["nodes"]) == example().n_nodes
    assert len(document["links"]) == example().n_links


def test_what_nobody_said_is_not_made_up() -> None:
    source = GraphSource("tiny", "tiny-set", (), None)
    document = publisher(source=source).document(example(), question(creator=None))
    assert document.metadata["info"]["creator_name"] == "Anonymous"
    assert "feature_details" not in document.metadata


def test_labels_of_the_question_stand_on_their_features() -> None:
    graph = example()
    name = (int(graph.layer[0]), int(graph.index[0]))
    document = publisher().document(graph, question(labels={name: "numbers in order"}))
    assert document.nodes[0]["clerp"] == "numbers in order"


@pytest.mark.parametrize("compress", [False, True])
def test_a_graph_goes_to_the_signed_url_and_its_query_nowhere_else(compress: bool) -> None:
    async def run() -> tuple[Published, bytes]:
        async with Storage(answers(200)) as storage:
            place = f"http://127.0.0.1:{storage.port}/graph.json"
            delivery = Delivery(signed_url=f"{place}?signature=hunter2", compress=compress)
            done = await published(example(), question(delivery=delivery))
            assert done == Published(url=place)
            return done, bytes(storage.received[0].body)

    done, body = asyncio.run(run())
    assert "hunter2" not in repr(done)
    here = asyncio.run(published(example(), QUESTION)).content
    assert (gzip.decompress(body) if compress else body) == here


def test_a_graph_goes_to_the_clusters_bucket_and_can_be_read_from_there() -> None:
    bucket = Bucket()
    delivery = Delivery(destination="s3://graphs/a.json", compress=True)
    done = asyncio.run(published(example(), question(delivery=delivery), bucket))
    assert (done.url, done.content) == ("s3://graphs/a.json", None)
    assert done.read_url == "https://storage.example.com/a.json?signature=x"
    content, compress = bucket.kept["s3://graphs/a.json"]
    assert compress
    check(read_document(content))
    assert bucket.closed  # with the publisher


def test_a_graph_that_viewers_can_not_open_is_sent_nowhere() -> None:
    async def run() -> None:
        async with Storage() as storage:
            delivery = Delivery(signed_url=f"http://127.0.0.1:{storage.port}/graph.json")
            with pytest.raises(InvalidRequest, match="slug_identifier"):
                await published(example(), question(slug="no/slashes", delivery=delivery))
            graph = dataclasses.replace(example(), layer=example().layer * 0)
            with pytest.raises(InvalidRequest):
                await published(graph, question(delivery=delivery))
            assert storage.received == []

    asyncio.run(run())


def test_what_the_storage_or_the_policy_refuses_is_an_error() -> None:
    async def run() -> None:
        async with Storage(answers(403)) as storage:
            delivery = Delivery(signed_url=f"http://127.0.0.1:{storage.port}/graph.json")
            with pytest.raises(UploadFailed):
                await published(example(), question(delivery=delivery))
        with pytest.raises(UrlRefused):
            await published(example(), question(delivery=Delivery(signed_url="http://example.com/graph.json")))

    asyncio.run(run())


def test_an_upload_ends_with_the_deadline_and_its_connection_with_it() -> None:
    async def run() -> None:
        async with Storage(hangs) as storage:
            delivery = Delivery(signed_url=f"http://127.0.0.1:{storage.port}/graph.json")
            made = publisher()
            sending = asyncio.create_task(made.publish(example(), question(delivery=delivery), Deadline.after(1.0)))
            await asyncio.wait_for(storage.read.wait(), 20)
            with pytest.raises(DeadlineExceeded):
                await sending
            await asyncio.wait_for(storage.left.wait(), 20)
            await made.aclose()

    asyncio.run(run())
