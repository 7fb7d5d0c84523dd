"""Pictures show the strongest part of a graph: everything in its place, nothing on top of another, text as it is."""

import struct
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cluster.cli import app
from core.graph.document import GraphDocument, graph_document
from core.graph.layout import Layout, lay_out
from core.graph.picture import picture
from core.graph.pruning import prune
from tests.unit.graph import square
from tests.unit.graph.test_document import example, title

RUNNER = CliRunner()


def large() -> GraphDocument:
    effects = square.graph(150, n_layers=5, n_positions=6, n_logits=9, seed=2, zeros=0.1)
    return graph_document(prune(effects, 0.9, 0.98), title(6))


def middle(layout: Layout, number: int) -> tuple[float, float]:
    box = layout.boxes[number]
    return box.x + box.width / 2, box.y + box.height / 2


@pytest.mark.parametrize("max_nodes", [0, 5, 40, 500])
def test_no_box_touches_another_or_leaves_the_picture(max_nodes: int) -> None:
    layout = lay_out(large(), max_nodes, 300)
    for one, other in combinations(layout.boxes, 2):
        apart = one.x + one.width < other.x or other.x + other.width < one.x
        assert apart or one.y + one.height < other.y or other.y + other.height < one.y
    for box in layout.boxes:
        assert 0 <= box.x <= box.x + box.width <= layout.width + 1e-9
        assert 0 <= box.y <= box.y + box.height <= layout.height + 1e-9


def test_layers_rise_and_tokens_run_to_the_right() -> None:
    document = large()
    nodes = {node["node_id"]: node for node in document.nodes}
    layout = lay_out(document, 40, 200)
    assert [name for name, _ in layout.rows] == ["tokens", *(f"layer {layer}" for layer in range(5)), "output"]
    heights = [height for _, height in layout.rows]
    assert heights == sorted(heights)
    inner = [box for box in layout.boxes if box.kind != "logit"]
    for one, other in combinations(inner, 2):
        if nodes[one.node_id]["ctx_idx"] < nodes[other.node_id]["ctx_idx"]:
            assert one.x + one.width < other.x
    for curve in layout.curves:
        assert layout.boxes[curve.source].y < layout.boxes[curve.target].y
        assert curve.points[0] == (middle(layout, curve.source)[0], layout.boxes[curve.source].y + 26)
        assert curve.points[-1] == (middle(layout, curve.target)[0], layout.boxes[curve.target].y)


def test_the_most_influential_nodes_and_the_widest_flows_are_shown() -> None:
    document = large()
    layout = lay_out(document, 10, 25)
    shown = {box.node_id for box in layout.boxes if box.kind not in {"embedding", "logit"}}
    inner = [node for node in document.nodes if node["feature_type"] not in {"embedding", "logit"}]
    best = sorted(inner, key=lambda node: node["influence"])[:10]
    assert 0 < len(shown) <= 10
    assert shown <= {node["node_id"] for node in best}
    assert len(layout.curves) == 25
    sizes = [abs(curve.flow) for curve in layout.curves]
    assert sizes == sorted(sizes)
    every = lay_out(document, 10, 10_000)
    assert sorted(abs(curve.flow) for curve in every.curves)[-25:] == sizes


def test_flows_are_those_of_the_whole_graph_if_nothing_was_pruned() -> None:
    """What flows over a link: its share of the target's input times what flows through the target."""
    effects = square.graph(12, n_layers=3, n_positions=2, n_logits=2, seed=8)
    graph = prune(effects, 1.0, 1.0)
    assert graph.n_links > 20
    layout = lay_out(graph_document(graph, title(2)), 100, 10_000)
    matrix, outputs = square.square(effects), square.output_weights(effects)
    flows = (square.influence(matrix, outputs) + outputs)[:, None] * square.normalised(matrix) * np.sign(matrix)
    expected = flows[flows != 0] / outputs.sum()
    assert len(layout.curves) == len(expected)
    np.testing.assert_allclose(sorted(curve.flow for curve in layout.curves), sorted(expected), rtol=1e-6)


def test_boxes_say_what_nodes_are() -> None:
    layout = lay_out(graph_document(example(), title(3), {(1, 16383): "Texas"}), 10, 10)
    assert {box.text for box in layout.boxes if box.kind == "embedding"} == {"t0", "t1", "t2"}
    assert {box.text for box in layout.boxes if box.kind != "embedding"} == {"Texas", "error", '"hi"↵  23%', "x  12%"}
    unlabelled = lay_out(graph_document(example(), title(3)), 10, 10)
    assert "feature 16383" in {box.text for box in unlabelled.boxes}


def test_a_png_is_an_image_of_the_layout() -> None:
    content = picture(large(), "png")
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 1000
    assert height > 800


def test_text_is_drawn_as_it_is_and_equal_graphs_are_equal_bytes() -> None:
    """A dollar sign starts no formula, and a bracket no element."""
    document = graph_document(example(), title(3, prompt="$x_1$ costs \\frac & <b>"), {(1, 16383): "$a_{b$ <i>"})
    content = picture(document, "svg")
    assert b"$x_1$ costs \\frac &amp; &lt;b&gt;" in content
    assert b"$a_{b$ &lt;i&gt;" in content
    assert picture(document, "svg") == content


def test_the_command_writes_what_is_asked_for(tmp_path: Path) -> None:
    source, png, svg = tmp_path / "out.json", tmp_path / "out.png", tmp_path / "out.svg"
    source.write_bytes(b"".join(large().chunks()))
    ran = RUNNER.invoke(app, ["graph", "render", str(source), "--png", str(png), "--svg", str(svg), "--nodes", "8"])
    assert ran.exit_code == 0, ran.output
    assert png.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in svg.read_bytes()


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    source = tmp_path / "out.json"
    source.write_text("{}")
    assert RUNNER.invoke(app, ["graph", "render", str(source)]).exit_code == 2
    ran = RUNNER.invoke(app, ["graph", "render", str(source), "--png", str(tmp_path / "out.png")])
    assert ran.exit_code == 1
    assert "not an attribution graph" in " ".join(ran.output.split())
    assert not (tmp_path / "out.png").exists()
