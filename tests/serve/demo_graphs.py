"""Requests for graphs of the demo, and their truth: made in this process, by gradients of the unmodified model."""

from functools import cache
from typing import Any

import orjson

from core.demo import ARTEFACTS
from core.engine.model import EagerModel
from core.graph.attribution import Choice, attribute
from core.graph.autograd import Autograd
from core.graph.document import Generator, GraphInfo, GraphTitle, graph_document
from core.graph.effects import Effects
from core.graph.prompt import prompt_tokens
from core.graph.pruning import prune
from core.graph.requests import AttributionOptions
from core.graph.targets import Place, Targets, Unembedding, custom_targets, salient_targets
from core.graph.transcoders.opening import open_transcoders
from core.prompts import PromptTokenizer
from tests.serve.conftest import DEMO

COUNT = {
    "prompt": "1 2 ",
    "model_id": DEMO,
    "batch_size": 48,
    "max_n_logits": 10,
    "desired_logit_prob": 0.95,
    "node_threshold": 0.8,
    "edge_threshold": 0.85,
    "slug_identifier": "count-1-2",
    "max_feature_nodes": 5000,
}
"""The seed's own request."""
LONG = "Le chat dort sur le tapis. The capital of France is Paris. El gato duerme en la casa. 1 2 3 4 5 6 7 8 9"
"""Its graph has some thousand features: partial graphs can be had of it."""
LONGEST = " ".join(["Le chat dort sur le tapis et mange."] * 5)
"""Its graph takes seconds."""
STEER = {
    "model_id": DEMO,
    "prompt": "Le chat dort sur",
    "features": [
        {"layer": 1, "index": 17, "token_active_position": 2, "steer_position": 2, "ablate": True},
        {"layer": 1, "index": 42, "token_active_position": 4, "steer_position": 4, "delta": 5},
        {"layer": 1, "index": 42, "token_active_position": 4, "steer_generated_tokens": True, "delta": 5},
    ],
    "n_tokens": 10,
    "top_k": 3,
    "temperature": 0,
    "freq_penalty": 0,
    "freeze_attention": False,
}


def graph_request(prompt: str, **wishes: Any) -> dict[str, Any]:
    """A request for a graph of the demo."""
    return {"prompt": prompt, "model_id": DEMO, "slug_identifier": "a-graph"} | wishes


@cache
def demo() -> tuple[EagerModel, PromptTokenizer, Any]:
    """The demo in this process: model, tokenizer, transcoders."""
    folder = str(ARTEFACTS / "model")
    model = EagerModel.load(folder, device="cpu")
    transcoders = open_transcoders(
        "plt-demo", n_layers=4, d_model=128, device=model.device, dtype=model.dtype, lazy_encoder=False, budget_bytes=0
    )
    return model, PromptTokenizer.load(folder), transcoders


def expected(request: dict[str, Any], targets: tuple[int, ...] | None = None) -> dict[str, Any]:
    """The document of a request's graph, by gradients of the unmodified model."""
    _, tokenizer, _ = demo()
    effects = demo_effects(request, targets)
    pruned = prune(effects, request.get("node_threshold", 0.8), request.get("edge_threshold", 0.98))
    texts = tuple(tokenizer.str_tokens(effects.token_ids))
    info = GraphInfo("", "", (), "", Generator("", "", ""), 0)
    title = GraphTitle("a-graph", DEMO, "".join(texts), texts, info, AttributionOptions())
    return orjson.loads(b"".join(graph_document(pruned, title).chunks()))


def demo_effects(request: dict[str, Any], targets: tuple[int, ...] | None = None) -> Effects:
    """All direct effects in a request's graph."""
    model, tokenizer, transcoders = demo()
    prompt = prompt_tokens(tokenizer, request["prompt"])
    traced = Autograd.trace(model, transcoders, prompt.ids)
    chosen = _targets(traced, len(prompt.ids), request, targets)
    return attribute(traced, chosen.nodes, chosen.rows, Choice(request.get("max_feature_nodes", 10_000)), 32)


def _targets(traced: Autograd, n_tokens: int, request: dict[str, Any], targets: tuple[int, ...] | None) -> Targets:
    model, tokenizer, _ = demo()
    unembedding = Unembedding.of(model.module.get_output_embeddings().weight)
    place = Place(traced.n_layers, n_tokens - 1)

    def text(token: int) -> str:
        return tokenizer.str_tokens([token])[0]

    if targets is not None:
        return custom_targets(targets, traced.logits, unembedding, place, text)
    return salient_targets(
        traced.logits,
        unembedding,
        place,
        text,
        max_n_logits=request.get("max_n_logits", 10),
        desired_logit_prob=request.get("desired_logit_prob", 0.95),
    )
