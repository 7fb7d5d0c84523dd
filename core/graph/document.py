"""The attribution graph as the JSON document that graph viewers open, written and read.

    {"metadata": {...}, "qParams": {...}, "nodes": [...], "links": [...]}

Keys, their order and the formats of ids are those of the documents that Neuronpedia's production writes (schema
version 1: `feature` pairs layer and index after Cantor). Links are nearly all of a document, up to a million of them:
they stay columns of numbers, and `GraphDocument.chunks` writes them piece by piece, so that compressing and uploading
need not wait for the whole. Weights are written with the digits that a float32 has.

No number is ever NaN or infinite here: pruning refuses such graphs, so there is nothing to scrub. What viewers demand
beyond the schema is in `rules`.
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from core.errors import InvalidRequest
from core.graph.pruned import Floats, PrunedGraph
from core.graph.requests import AttributionOptions

SCHEMA_VERSION: Final = 1

FEATURE: Final = "cross layer transcoder"
"""Type of feature nodes, per-layer transcoders' as well."""
ERROR: Final = "mlp reconstruction error"
TOKEN: Final = "embedding"
LOGIT: Final = "logit"

_CHUNK_LINKS: Final = 1 << 14
_GZIP: Final = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Generator:
    """The program that made a graph: its name, version and address."""

    name: str
    version: str
    url: str


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """Where a graph is from, for people to read.

    Attributes:
        creator_name: Who asked for it.
        creator_url: Their address.
        source_urls: Addresses of the transcoders.
        transcoder_set: Their name.
        generator: What computed it.
        create_time_ms: When, since 1970.
    """

    creator_name: str
    creator_url: str
    source_urls: tuple[str, ...]
    transcoder_set: str
    generator: Generator
    create_time_ms: int


@dataclass(frozen=True, slots=True)
class GraphTitle:
    """What a document says of its graph besides nodes and links.

    Attributes:
        slug: The document's name.
        scan: The model's name at Neuronpedia, or the transcoder set's in other viewers.
        prompt: The text of all tokens, BOS included.
        prompt_tokens: Text of each token, `[T]`.
        info: Where it is from.
        generation: What was asked for.
        feature_details: Where viewers find features: `feature_json_base_url`, `neuronpedia_source_set`.
    """

    slug: str
    scan: str
    prompt: str
    prompt_tokens: tuple[str, ...]
    info: GraphInfo
    generation: AttributionOptions
    feature_details: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class GraphDocument:
    """A document's content. Links name nodes by their place in `nodes`.

    Attributes:
        metadata: As in the document.
        query: A saved view, `qParams` in the document.
        nodes: As in the document.
        sources: `[links]`.
        targets: `[links]`.
        weights: `[links]`.
    """

    metadata: dict[str, Any]
    query: dict[str, Any]
    nodes: list[dict[str, Any]]
    sources: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int32]
    weights: Floats

    def chunks(self) -> Iterator[bytes]:
        """The document's bytes, in pieces of about a megabyte; the nodes are one piece."""
        head = orjson.dumps({"metadata": self.metadata, "qParams": self.query, "nodes": self.nodes})
        yield head[:-1] + b',"links":['
        ids = [orjson.dumps(node["node_id"]) for node in self.nodes]
        from_node = [b'{"source":' + id_ for id_ in ids]
        to_node = [b',"target":' + id_ + b',"weight":' for id_ in ids]
        for start in range(0, len(self.weights), _CHUNK_LINKS):
            part = slice(start, start + _CHUNK_LINKS)
            weights = orjson.dumps(np.ascontiguousarray(self.weights[part]), option=orjson.OPT_SERIALIZE_NUMPY)
            links = zip(
                map(from_node.__getitem__, self.sources[part].tolist()),
                map(to_node.__getitem__, self.targets[part].tolist()),
                weights[1:-1].split(b","),
                strict=True,
            )
            yield (b"," if start else b"") + b"},".join(map(b"".join, links)) + b"}"
        yield b"]}"


def graph_document(
    graph: PrunedGraph, title: GraphTitle, labels: Mapping[tuple[int, int], str] | None = None
) -> GraphDocument:
    """The document of a pruned graph.

    Args:
        graph: Its nodes and links.
        title: What else the document says.
        labels: Descriptions of features by (layer, index), shown by viewers in place of their numbers.
    """
    generation = {name: value for name, value in asdict(title.generation).items() if value is not None}
    scores = {"replacement_score": graph.replacement_score, "completeness_score": graph.completeness_score}
    metadata = {
        "slug": title.slug,
        "scan": title.scan,
        "transcoder_list": [],
        "prompt_tokens": list(title.prompt_tokens),
        "prompt": title.prompt,
        "node_threshold": graph.node_threshold,
        "schema_version": SCHEMA_VERSION,
        **({"feature_details": dict(title.feature_details)} if title.feature_details else {}),
        "info": asdict(title.info),
        "generation_settings": generation,
        "pruning_settings": {"node_threshold": graph.node_threshold, "edge_threshold": graph.edge_threshold},
        **{name: score for name, score in scores.items() if score is not None},
    }
    query = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return GraphDocument(metadata, query, _nodes(graph, labels or {}), graph.sources, graph.targets, graph.weights)


def read_document(content: bytes) -> GraphDocument:
    """A document, whoever wrote it, plain or gzipped.

    Raises:
        InvalidRequest: It is not JSON, not a graph, or a link names a node that is not there.
    """
    try:
        document = orjson.loads(gzip.decompress(content) if content.startswith(_GZIP) else content)
        nodes, links = list(document["nodes"]), document["links"]
        number = {node["node_id"]: place for place, node in enumerate(nodes)}
        return GraphDocument(
            metadata=dict(document["metadata"]),
            query=dict(document["qParams"]),
            nodes=nodes,
            sources=np.array([number[link["source"]] for link in links], dtype=np.int32),
            targets=np.array([number[link["target"]] for link in links], dtype=np.int32),
            weights=np.array([link["weight"] for link in links], dtype=np.float32),
        )
    except (orjson.JSONDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidRequest(f"The document cannot be read as JSON: {error}.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(
            f"The document is not an attribution graph: {type(error).__name__}, {error}.",
            "It needs metadata, qParams, nodes and links, and each link's source and target must be a node's node_id.",
        ) from None


def _nodes(graph: PrunedGraph, labels: Mapping[tuple[int, int], str]) -> list[dict[str, Any]]:
    """Features, errors, tokens, logits."""
    n_features, last = len(graph.index), len(graph.token_ids) - 1
    layer, position, index = graph.layer.tolist(), graph.position.tolist(), graph.index.tolist()
    n_inner = len(layer)
    influence, activation = graph.influence.tolist(), graph.activation.tolist()
    pairs = _cantor(graph.layer[:n_features], graph.index).tolist()
    features = [
        _node(
            *(FEATURE, f"{at}_{of}_{pos}", f"{at}_{of}-0", pair, str(at), pos, share),
            clerp=labels.get((at, of), ""),
            activation=value,
        )
        for at, of, pos, pair, share, value in zip(layer, index, position, pairs, influence, activation, strict=False)
    ]
    errors = [
        _node(ERROR, f"{at}_-1_{pos}", f"{at}_-1-{pos}", -1, str(at), pos, share)
        for at, pos, share in zip(layer[n_features:], position[n_features:], influence[n_features:n_inner], strict=True)
    ]
    tokens = [
        _node(TOKEN, f"E_{token}_{pos}", f"E_{token}-{pos}", pos, "E", pos, share)
        for pos, (token, share) in enumerate(zip(graph.token_ids, influence[n_inner:], strict=True))
    ]
    top = graph.n_layers + 1
    logits = [
        _node(
            *(LOGIT, f"{top}_{token}_{last}", f"L_{token}-{last}", token, str(top), last, None),
            token_prob=probability,
            is_target_logit=rank == 0,
            clerp=f'Output "{label}" (p={probability:.3f})',  # viewers take token and probability from it
        )
        for rank, (token, label, probability) in enumerate(
            zip(graph.logit_ids, graph.logit_labels, graph.logit_probabilities.tolist(), strict=True)
        )
    ]
    return features + errors + tokens + logits


def _node(
    kind: str, node_id: str, js_id: str, feature: int, layer: str, position: int, influence: float | None, **own: Any
) -> dict[str, Any]:
    """All keys of a node, in their order; `own` replaces what is not the same for all."""
    return {
        "node_id": node_id,
        "feature": feature,
        "layer": layer,
        "ctx_idx": position,
        "feature_type": kind,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": js_id,
        "clerp": "",
        "influence": influence,
        "activation": None,
    } | own


def _cantor(layer: npt.NDArray[np.int64], index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """One number for each pair (Cantor's pairing function)."""
    diagonal = layer + index
    return diagonal * (diagonal + 1) // 2 + index
