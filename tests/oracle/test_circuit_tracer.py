"""Our engines against circuit-tracer: the same features, the same effects, the same graphs.

GPT-2's tokens are compared in `test_defects`: circuit-tracer leaves their positions out.
"""

import pytest
import torch

from core.graph.circuit_tracer.engine import CircuitTracer, Pruned, Settings
from core.graph.effects import Effects
from core.graph.pruned import PrunedGraph
from core.graph.pruning import prune

from .worlds import CONTRIBUTION, MLP, NORMALIZED, PROMPT, RESIDUAL, Case, MakeWorld

CASES = [
    *(Case("llama", kind, "nnsight", *MLP) for kind in ("relu", "jumprelu", "skip")),
    *(Case("llama", kind, "nnsight", *RESIDUAL) for kind in ("relu", "clt", "clt_jumprelu")),
    *(Case("qwen3", kind, "nnsight", *MLP) for kind in ("relu", "jumprelu", "skip", "clt")),
    *(Case("gemma2", kind, "nnsight", *NORMALIZED) for kind in ("relu", "jumprelu", "skip")),
    *(Case("gemma2", kind, "nnsight", *RESIDUAL) for kind in ("relu", "clt")),
    *(
        Case(family, kind, "transformerlens", *MLP)
        for family in ("llama", "qwen3", "gpt2")
        for kind in ("relu", "jumprelu", "skip")
    ),
    *(
        Case(family, kind, "transformerlens", *CONTRIBUTION)
        for family in ("gemma2", "gemma3")
        for kind in ("relu", "jumprelu", "skip")
    ),
    *(Case(family, "relu", "transformerlens", *MLP) for family in ("gemma2", "gemma3")),
    *(Case(family, "clt", "transformerlens", *RESIDUAL) for family in ("llama", "qwen3", "gemma2", "gemma3", "gpt2")),
]
ENGINES = ("replay", "autograd")
WHOLE = Settings()

Name = tuple[str, int, int, int]
"""Kind, layer, position, and index or vocabulary id; -1 where a node has none."""


def same_nodes(ours: Effects, theirs: Effects) -> None:
    assert ours.token_ids == theirs.token_ids
    assert ours.n_active == theirs.n_active
    for name in ("layer", "position", "index"):
        assert torch.equal(getattr(ours.features, name), getattr(theirs.features, name)), name
    torch.testing.assert_close(ours.features.activation, theirs.features.activation, atol=1e-5, rtol=1e-5)
    assert ours.logits.token_ids == theirs.logits.token_ids
    torch.testing.assert_close(ours.logits.probabilities, theirs.logits.probabilities, atol=1e-5, rtol=1e-4)


def same_effects(ours: Effects, theirs: Effects, *, tokens: bool = True) -> None:
    same_nodes(ours, theirs)
    assert ours.weights.shape == theirs.weights.shape
    compared = slice(None) if tokens else slice(-len(PROMPT))
    difference = (ours.weights - theirs.weights)[:, compared].abs().max()
    scale = theirs.weights[:, compared].abs().max()
    assert scale > 0
    assert difference <= 1e-5 * scale


def names(effects: Effects) -> list[Name]:
    """Of all nodes, in order."""
    nodes, positions = effects.features, range(effects.n_positions)
    return [
        *zip(
            ["feature"] * len(nodes), nodes.layer.tolist(), nodes.position.tolist(), nodes.index.tolist(), strict=True
        ),
        *(("error", layer, position, -1) for layer in range(effects.n_layers) for position in positions),
        *(("token", -1, position, -1) for position in positions),
        *(("logit", -1, -1, token) for token in effects.logits.token_ids),
    ]


def kept_by(theirs: Pruned, effects: Effects) -> tuple[set[Name], set[tuple[Name, Name]]]:
    """Nodes and links, target first, that circuit-tracer keeps."""
    named, n_features, n_logits = names(effects), len(effects.features), len(effects.logits)
    targets = named[:n_features] + named[-n_logits:]
    nodes = {name for name, stays in zip(named, theirs.nodes.tolist(), strict=True) if stays}
    return nodes, {(targets[target], named[source]) for target, source in theirs.edges.nonzero().tolist()}


def kept(ours: PrunedGraph) -> tuple[set[Name], set[tuple[Name, Name]]]:
    """Nodes and links, target first, that we keep."""
    index = [*ours.index.tolist(), *[-1] * (len(ours.layer) - len(ours.index))]
    named: list[Name] = [
        *(
            ("error" if of < 0 else "feature", at, position, of)
            for at, position, of in zip(ours.layer.tolist(), ours.position.tolist(), index, strict=True)
        ),
        *(("token", -1, position, -1) for position in range(len(ours.token_ids))),
        *(("logit", -1, -1, token) for token in ours.logit_ids),
    ]
    assert len(named) == ours.n_nodes
    links = zip(ours.targets.tolist(), ours.sources.tolist(), strict=True)
    return set(named), {(named[target], named[source]) for target, source in links}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_engines_find_what_circuit_tracer_finds(case: Case, circuit_tracer: CircuitTracer, world: MakeWorld):
    world(case).load_into(circuit_tracer)
    theirs, _ = circuit_tracer.attribute(PROMPT, WHOLE)
    assert theirs.n_active > 50
    for engine in ENGINES:
        same_effects(world(case).effects(engine, WHOLE), theirs, tokens=case.family != "gpt2")


SELECTED = [
    (Case("llama", "clt", "nnsight", *RESIDUAL), 75),
    (Case("qwen3", "clt", "nnsight", *MLP), 100),
    (Case("gemma2", "jumprelu", "transformerlens", *CONTRIBUTION), 80),
]


@pytest.mark.parametrize(("case", "count"), SELECTED, ids=str)
def test_graphs_of_limited_size_have_the_same_features(
    case: Case, count: int, circuit_tracer: CircuitTracer, world: MakeWorld
):
    world(case).load_into(circuit_tracer)
    graphs: list[Effects] = []
    for update_interval in (1000, 2):
        settings = Settings(max_feature_nodes=count, batch_size=4, update_interval=update_interval)
        theirs, _ = circuit_tracer.attribute(PROMPT, settings)
        assert len(theirs.features) == count < theirs.n_active
        for engine in ENGINES:
            same_effects(world(case).effects(engine, settings), theirs)
        graphs.append(theirs)
    once, often = ({name for name in names(graph) if name[0] == "feature"} for graph in graphs)
    assert once != often  # else nothing is shown about several rankings


@pytest.mark.parametrize("case", [case for case, _ in SELECTED], ids=str)
@pytest.mark.parametrize(("nodes", "edges"), [(0.8, 0.98), (0.5, 0.85), (0.95, 0.9), (0.0, 0.5), (0.7, 0.0)])
def test_pruning_keeps_what_circuit_tracer_keeps(
    nodes: float, edges: float, case: Case, circuit_tracer: CircuitTracer, world: MakeWorld
):
    effects = world(case).effects("replay", WHOLE)
    theirs = circuit_tracer.prune(effects, nodes, edges)
    ours = prune(effects, nodes, edges)
    assert kept(ours) == kept_by(theirs, effects)
    assert ours.replacement_score == pytest.approx(theirs.replacement, abs=1e-5)
    assert ours.completeness_score == pytest.approx(theirs.completeness, abs=1e-5)
    n_kept = len(ours.influence)
    places = theirs.nodes[: -len(effects.logits)].nonzero().squeeze(1)
    assert len(places) == n_kept
    torch.testing.assert_close(torch.from_numpy(ours.influence), theirs.cumulative[places], atol=1e-5, rtol=0)
