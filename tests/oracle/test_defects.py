"""Where circuit-tracer is wrong: that it is, so that the comparison is known to see it, and that we are right.

Right means here: by an account that owes nothing to either side.
"""

from collections import Counter

import orjson
import pytest
import torch
from torch import Tensor

from core.graph.circuit_tracer.engine import CircuitTracer, Settings
from core.graph.document import Generator, GraphInfo, GraphTitle, graph_document
from core.graph.effects import Effects
from core.graph.prompt import prompt_tokens
from core.graph.pruning import prune
from core.graph.requests import AttributionOptions
from core.prompts import PromptTokenizer
from tests.unit.engine.families import D_MODEL, N_LAYERS
from tests.unit.graph.folders import read

from .worlds import BOS, CONTRIBUTION, K_OF_TOPK, MLP, PROMPT, Case, MakeWorld, World

ENGINES = ("replay", "autograd")
TOKENS = slice(-len(PROMPT), None)
WHOLE = Settings()


def agree(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= 1e-5 * theirs.abs().max())


@pytest.mark.parametrize("engine", ENGINES)
def test_embeddings_of_gemma_3_have_their_scale(engine: str, circuit_tracer: CircuitTracer, world: MakeWorld):
    gemma = world(Case("gemma3", "relu", "nnsight", *CONTRIBUTION))
    gemma.load_into(circuit_tracer)
    theirs, _ = circuit_tracer.attribute(PROMPT, WHOLE)
    ours = gemma.effects(engine, WHOLE)
    assert agree(ours.weights[:, : TOKENS.start], theirs.weights[:, : TOKENS.start])
    assert agree(ours.weights[:, TOKENS], theirs.weights[:, TOKENS] * D_MODEL**0.5)


@pytest.mark.parametrize("engine", ENGINES)
def test_tokens_of_gpt_2_have_their_positions(engine: str, circuit_tracer: CircuitTracer, world: MakeWorld):
    """circuit-tracer counts a token's embedding without its position; the sum below shows that it is needed."""
    gpt2 = world(Case("gpt2", "relu", "transformerlens", *MLP))
    gpt2.load_into(circuit_tracer)
    theirs, _ = circuit_tracer.attribute(PROMPT, WHOLE)
    ours = gpt2.effects(engine, WHOLE)
    assert agree(ours.weights[:, : TOKENS.start], theirs.weights[:, : TOKENS.start])
    assert not agree(ours.weights[:, TOKENS], theirs.weights[:, TOKENS])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt2_unbiased"])
def test_what_reaches_a_logit_adds_up_to_it(family: str, engine: str, world: MakeWorld):
    """In a model without biases every logit, less the mean, is the sum of all effects on it."""
    tiny = world(Case(family, "unbiased", "nnsight", *CONTRIBUTION))
    ours = tiny.effects(engine, WHOLE, zeroed=0)
    with torch.no_grad():
        logits = tiny.model.module(torch.tensor([PROMPT])).logits[0, -1].double()
    expected = (logits - logits.mean())[list(ours.logits.token_ids)]
    torch.testing.assert_close(ours.weights[-len(ours.logits) :].double().sum(1), expected, atol=1e-4, rtol=1e-4)


def test_a_local_topk_set_is_topk(circuit_tracer: CircuitTracer, world: MakeWorld):
    tiny = world(Case("llama", "topk", "nnsight", *MLP))
    tiny.load_into(circuit_tracer)
    theirs, _ = circuit_tracer.attribute(PROMPT, WHOLE)
    ours = tiny.effects("replay", WHOLE)
    assert theirs.n_active > 2 * K_OF_TOPK * N_LAYERS * len(PROMPT)  # as if it were ReLU
    found = zip(*(getattr(ours.features, name).tolist() for name in ("layer", "position", "index")), strict=True)
    assert set(found) == top_features(tiny)


def top_features(tiny: World) -> set[tuple[int, int, int]]:
    """Layer, position and index of the features with the largest pre-activations that are above 0, BOS left out."""
    found: set[tuple[int, int, int]] = set()
    for layer, block in enumerate(tiny.model.module.model.layers):
        weights = read(tiny.transcoder_folder, layer)

        def look(_: object, __: object, x: Tensor, layer: int = layer, weights: dict[str, Tensor] = weights) -> None:
            before = x[0].double() @ weights["W_enc"].T + weights["b_enc"]
            for position in range(1, len(PROMPT)):
                best = before[position].topk(K_OF_TOPK)
                found.update(
                    (layer, position, i) for i, v in zip(best.indices.tolist(), best.values, strict=True) if v > 0
                )

        block.post_attention_layernorm.register_forward_hook(look)
    with torch.no_grad():
        tiny.model.module(torch.tensor([PROMPT]))
    return found


def test_every_node_has_an_id_of_its_own(circuit_tracer: CircuitTracer, world: MakeWorld):
    tiny = world(Case("llama", "relu", "nnsight", *MLP))
    tiny.load_into(circuit_tracer)
    effects = tiny.effects("replay", WHOLE)
    content, _ = circuit_tracer.document(effects, 1.0, 1.0)
    theirs = Counter(node["node_id"] for node in orjson.loads(content)["nodes"])
    assert max(theirs.values()) > 1
    ours = Counter(node["node_id"] for node in graph_document(prune(effects, 1.0, 1.0), title(effects)).nodes)
    assert len(ours) > len(theirs) / 2
    assert max(ours.values()) == 1


def title(effects: Effects) -> GraphTitle:
    return GraphTitle(
        slug="a-graph",
        scan="tiny",
        prompt="",
        prompt_tokens=tuple(map(str, effects.token_ids)),
        info=GraphInfo("", "", (), "tiny", Generator("", "", ""), 0),
        generation=AttributionOptions(),
    )


def test_a_beginning_with_id_0_is_a_beginning(circuit_tracer: CircuitTracer, world: MakeWorld):
    tiny = world(Case("llama", "relu", "nnsight", *MLP))
    tiny.load_into(circuit_tracer)
    assert circuit_tracer.tokenize("w5 w9") == (1, 5, 9)  # padding, because 0 looks like nothing
    tokenizer = PromptTokenizer.load(str(tiny.model_folder))
    assert prompt_tokens(tokenizer, "w5 w9").ids == (BOS, 5, 9)


def test_a_prompt_of_one_token_has_a_graph(circuit_tracer: CircuitTracer, world: MakeWorld):
    tiny = world(Case("llama", "relu", "nnsight", *MLP))
    tiny.load_into(circuit_tracer)
    with pytest.raises(Exception, match="circuit-tracer failed to attribute"):
        circuit_tracer.attribute((BOS,), WHOLE)
    for engine in ENGINES:
        ours = tiny.effects(engine, WHOLE, ids=(BOS,))
        assert len(ours.features) == 0
        assert ours.weights.shape == (len(ours.logits), N_LAYERS + 1)
