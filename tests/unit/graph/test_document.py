"""Documents say what the graph is, in the words and the order that viewers know, and keep all of their rules."""

import gzip
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InvalidRequest
from core.graph.document import Generator, GraphDocument, GraphInfo, GraphTitle, graph_document, read_document
from core.graph.effects import Effects
from core.graph.pruned import PrunedGraph
from core.graph.pruning import prune
from core.graph.requests import AttributionOptions
from core.graph.rules import check, check_layout, check_name
from tests.unit.graph import square

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "tests" / "contract" / "data" / "graph-json.schema.json").read_text())
INFO = GraphInfo("Ada", "https://a.example", ("https://t.example",), "my-set", Generator("g", "1", "https://g"), 17)


def title(n_positions: int, **changes: Any) -> GraphTitle:
    tokens = tuple(f" t{position}" for position in range(n_positions))
    whole = GraphTitle("my-slug", "gemma-2-2b", "".join(tokens), tokens, INFO, AttributionOptions(10, 0.95, 48, 5000))
    return replace(whole, **changes)


def document_of(effects: Effects, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> GraphDocument:
    return graph_document(prune(effects, node_threshold, edge_threshold), title(effects.n_positions))


def written(document: GraphDocument) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(b"".join(document.chunks()), parse_constant=refuse)


def example() -> PrunedGraph:
    """A graph of every kind of node, by hand: layer 1's feature reads layer 0's error and the last token."""
    return PrunedGraph(
        token_ids=(2, 501, 77),
        n_layers=26,
        n_active=900,
        n_selected=100,
        node_threshold=0.8,
        edge_threshold=0.98,
        replacement_score=0.5,
        completeness_score=0.75,
        layer=np.array([1, 0]),
        position=np.array([2, 1]),
        index=np.array([16383]),
        activation=np.array([9.5], dtype=np.float32),
        influence=np.array([0.25, 0.5, 1.0, 1.0, 0.75], dtype=np.float32),
        logit_ids=(1234, 99),
        logit_labels=(' "hi"\n', "x"),
        logit_probabilities=np.array([0.2287, 0.125], dtype=np.float32),
        starts=np.array([0, 2, 2, 2, 2, 2, 3, 5]),
        sources=np.array([1, 4, 0, 0, 4], dtype=np.int32),
        weights=np.array([0.1, -12.964217, 3.0, 1e-9, 2.5e7], dtype=np.float32),
    )


def common(**own: Any) -> dict[str, Any]:
    keys = (
        "node_id feature layer ctx_idx feature_type token_prob is_target_logit run_idx reverse_ctx_idx jsNodeId clerp"
    )
    always = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "clerp": ""}
    return {key: (always | own)[key] for key in keys.split()} | {
        "influence": own.get("influence"),
        "activation": own.get("activation"),
    }


def test_every_field_is_that_of_production() -> None:
    document = written(graph_document(example(), title(3)))
    feature_type = "cross layer transcoder"
    error_type = "mlp reconstruction error"
    diagonal = 1 + 16383
    pair = diagonal * (diagonal + 1) // 2 + 16383
    at = {"node_id": "1_16383_2", "jsNodeId": "1_16383-0", "layer": "1", "ctx_idx": 2}
    expected = [
        common(**at, feature_type=feature_type, feature=pair, influence=0.25, activation=9.5),
        common(
            **{"node_id": "0_-1_1", "jsNodeId": "0_-1-1", "layer": "0", "ctx_idx": 1},
            **{"feature_type": error_type, "feature": -1, "influence": 0.5},
        ),
        *(
            common(
                **{"node_id": f"E_{token}_{at}", "jsNodeId": f"E_{token}-{at}", "layer": "E", "ctx_idx": at},
                **{"feature_type": "embedding", "feature": at, "influence": share},
            )
            for at, (token, share) in enumerate([(2, 1.0), (501, 1.0), (77, 0.75)])
        ),
        *(
            common(
                **{"node_id": f"27_{token}_2", "jsNodeId": f"L_{token}-2", "layer": "27", "ctx_idx": 2},
                **{"feature_type": "logit", "feature": token, "token_prob": pytest.approx(share, abs=1e-7)},
                **{"is_target_logit": token == 1234, "clerp": label},
            )
            for token, share, label in [
                (1234, 0.2287, 'Output " "hi"\n" (p=0.229)'),
                (99, 0.125, 'Output "x" (p=0.125)'),
            ]
        ),
    ]
    assert document["nodes"] == expected
    assert [list(node) for node in document["nodes"]] == [list(node) for node in expected]
    assert document["links"] == [
        {"source": "0_-1_1", "target": "1_16383_2", "weight": 0.1},
        {"source": "E_77_2", "target": "1_16383_2", "weight": -12.964217},
        {"source": "1_16383_2", "target": "27_1234_2", "weight": 3.0},
        {"source": "1_16383_2", "target": "27_99_2", "weight": 1e-9},
        {"source": "E_77_2", "target": "27_99_2", "weight": 2.5e7},
    ]


def test_metadata_says_everything_in_order() -> None:
    document = written(graph_document(example(), title(3)))
    assert list(document) == ["metadata", "qParams", "nodes", "links"]
    assert list(document["metadata"].items()) == [
        ("slug", "my-slug"),
        ("scan", "gemma-2-2b"),
        ("transcoder_list", []),
        ("prompt_tokens", [" t0", " t1", " t2"]),
        ("prompt", " t0 t1 t2"),
        ("node_threshold", 0.8),
        ("schema_version", 1),
        (
            "info",
            {
                "creator_name": "Ada",
                "creator_url": "https://a.example",
                "source_urls": ["https://t.example"],
                "transcoder_set": "my-set",
                "generator": {"name": "g", "version": "1", "url": "https://g"},
                "create_time_ms": 17,
            },
        ),
        (
            "generation_settings",
            {"max_n_logits": 10, "desired_logit_prob": 0.95, "batch_size": 48, "max_feature_nodes": 5000},
        ),
        ("pruning_settings", {"node_threshold": 0.8, "edge_threshold": 0.98}),
        ("replacement_score", 0.5),
        ("completeness_score", 0.75),
    ]
    query = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    assert list(document["qParams"].items()) == list(query.items())


def test_what_is_unknown_is_left_out_of_the_metadata() -> None:
    silent = replace(example(), replacement_score=None, completeness_score=None)
    unlimited = title(3, generation=AttributionOptions(max_feature_nodes=None), feature_details={"a": "b"})
    metadata = written(graph_document(silent, unlimited))["metadata"]
    assert "replacement_score" not in metadata
    assert "completeness_score" not in metadata
    assert "max_feature_nodes" not in metadata["generation_settings"]
    assert metadata["feature_details"] == {"a": "b"}


def test_labels_stand_on_their_features_and_nowhere_else() -> None:
    effects = square.graph(30, seed=3)
    graph = prune(effects, 1.0, 1.0)
    layer, index = int(graph.layer[0]), int(graph.index[0])
    document = written(graph_document(graph, title(4), {(layer, index): 'says "no"\n<b>', (layer, 10**6): "nobody"}))
    labelled = [node["node_id"] for node in document["nodes"] if node["clerp"] == 'says "no"\n<b>']
    assert labelled == [
        f"{layer}_{index}_{position}"
        for at, of, position in zip(graph.layer, graph.index, graph.position, strict=False)
        if (at, of) == (layer, index)
    ]
    assert {node["clerp"] for node in document["nodes"][len(labelled) :] if node["feature_type"] != "logit"} == {""}


@settings(deadline=None)
@given(
    effects=square.graphs(),
    node_threshold=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    edge_threshold=st.sampled_from([0.0, 0.8, 0.98, 1.0]),
)
def test_any_graph_is_a_valid_document_of_its_nodes_and_links(
    effects: Effects, node_threshold: float, edge_threshold: float
) -> None:
    graph = prune(effects, node_threshold, edge_threshold)
    document = written(graph_document(graph, title(effects.n_positions)))
    jsonschema.Draft7Validator(SCHEMA).validate(document)
    ids = [node["node_id"] for node in document["nodes"]]
    assert len(set(ids)) == len(ids) == graph.n_nodes
    kinds = [node["feature_type"] for node in document["nodes"]]
    order = ["cross layer transcoder", "mlp reconstruction error", "embedding", "logit"]
    assert kinds == sorted(kinds, key=order.index)
    number = {node_id: place for place, node_id in enumerate(ids)}
    links = [(number[link["target"]], number[link["source"]]) for link in document["links"]]
    assert links == sorted(set(links))
    assert np.array([link["weight"] for link in document["links"]], dtype=np.float32).tolist() == graph.weights.tolist()
    assert all(math.isfinite(link["weight"]) and link["weight"] != 0 for link in document["links"])


def test_large_documents_come_in_pieces() -> None:
    graph = prune(square.graph(400, n_layers=6, n_positions=8, seed=7, zeros=0.0), 1.0, 1.0)
    assert graph.n_links > 40_000
    document = graph_document(graph, title(8))
    pieces = list(document.chunks())
    assert len(pieces) == 2 + 3
    assert max(map(len, pieces)) < 2_000_000
    assert len(json.loads(b"".join(pieces))["links"]) == graph.n_links


def test_writing_documents_needs_no_torch() -> None:
    code = (
        "import sys, core.graph.document, core.graph.pruned, core.graph.rules, core.graph.layout; print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert {"numpy", "core.graph.pruned"} <= set(ran.stdout.split())
    assert "torch" not in ran.stdout.split()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_document_is_read_as_it_was_written(pack: Any) -> None:
    content = b"".join(document_of(square.graph(30, seed=3)).chunks())
    document = read_document(pack(content))
    assert b"".join(document.chunks()) == content
    check(document)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"{}",
        b'{"metadata":{},"qParams":{},"nodes":[{}],"links":[]}',
        b'{"metadata":{},"qParams":{},"nodes":[],"links":[{"source":"a","target":"b","weight":1}]}',
        b"\x1f\x8b and no more",
    ],
)
def test_what_is_no_graph_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_document(content)


def test_a_good_document_passes_the_rules() -> None:
    check(document_of(square.graph(40, seed=1)))
    check_layout(document_of(square.graph(40, seed=1)))


def changed(number: int, **fields: Any) -> GraphDocument:
    document = document_of(square.graph(40, seed=1))
    nodes = list(document.nodes)
    nodes[number] = nodes[number] | fields
    return replace(document, nodes=nodes)


def with_metadata(**fields: Any) -> GraphDocument:
    document = document_of(square.graph(40, seed=1))
    return replace(document, metadata=document.metadata | fields)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (changed(-1, clerp="Paris"), "label of logit"),
        (changed(-1, clerp='Output "Paris"'), "label of logit"),
        (changed(-1, clerp='Output "Paris" (p=nan)'), "label of logit"),
        (changed(-1, ctx_idx=2), "position 2 of a prompt of 4"),
        (changed(0, ctx_idx=4), "position 4 of a prompt of 4"),
        (changed(0, ctx_idx=-1), "position -1"),
        (changed(1, node_id=changed(0).nodes[0]["node_id"]), "2 nodes have the id"),
        (with_metadata(slug="a b"), "slug"),
        (with_metadata(slug=""), "slug"),
        (with_metadata(slug="name\n"), "slug"),
        (with_metadata(scan="mwhanna/qwen3-4b-transcoders"), "scan"),
        (with_metadata(prompt_tokens=["a", "b", "c"]), "prompt of 3 tokens"),
        (with_metadata(prompt_tokens=["a", "b", "c", "d", "e"]), "prompt of 5 tokens"),
        (
            replace(with_metadata(), weights=np.full_like(with_metadata().weights, np.inf)),
            "weight of a link",
        ),
    ],
)
def test_each_rule_of_viewers_is_kept(document: GraphDocument, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        check(document)


def test_a_graph_without_a_node_above_layer_0_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="above layer 0"):
        check_layout(document_of(square.graph(20, n_layers=1, seed=1)))
    of_more_layers = square.graph(20, n_layers=3, seed=1)
    with pytest.raises(InvalidRequest, match="above layer 0"):
        check_layout(document_of(replace(of_more_layers, weights=torch.zeros_like(of_more_layers.weights))))


@pytest.mark.parametrize("name", ["a", "gemma-2-2b", "My_graph.v2-1700000000"])
def test_names_that_can_be_saved_are_taken(name: str) -> None:
    check_name("slug", name)
