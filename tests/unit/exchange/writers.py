"""A served model that has a tokenizer and sources but no weights, and an engine's reports made up of texts."""

from collections.abc import Iterator
from typing import Any

from core.catalogue.catalogue import find_model
from core.catalogue.description import Limits, ModelDescription, RunnerDescription
from core.catalogue.sources import Folder, Source
from core.engine.shape import ModelShape
from core.exchange.served import ServedModel
from core.generation.requests import Continuation, Finish, Growth, TokenScore
from core.prompts import PromptTokenizer
from core.wire.steering import GREEDY

TOKEN_LIMIT, GENERATION_LIMIT = 64, 80
N_LAYERS, N_HEADS, HEAD_DIM, D_MODEL, D_SAE = 4, 2, 12, 32, 96
DEMO = "rayscope-demo"


def _source(layer: int, source_set: str, hook: str, width: int = D_MODEL, out: str | None = None) -> Source:
    return Source(
        f"{layer}-{source_set}", source_set, layer, Folder("nowhere"), hook, width, D_SAE, "standard", hook_name_out=out
    )


SOURCES = (
    *(_source(layer, "res-demo", f"blocks.{layer}.hook_resid_post") for layer in range(N_LAYERS)),
    _source(1, "att-demo", "blocks.1.attn.hook_z", N_HEADS * HEAD_DIM),
    _source(2, "plt-demo", "blocks.2.hook_resid_pre", out="blocks.2.hook_mlp_out"),
    _source(2, "mid-demo", "blocks.2.hook_resid_mid"),
)


def served(hf_tokenizer: Any) -> ServedModel:
    """A model of these sources with any tokenizer."""
    sizes = {"n_layers": N_LAYERS, "n_heads": N_HEADS, "head_dim": HEAD_DIM, "d_model": D_MODEL}
    rest = {"n_kv_heads": N_HEADS, "vocab_size": 4000, "max_positions": 512}
    description = ModelDescription(
        names=find_model(DEMO),
        weights=DEMO,
        revision=None,
        dtype="float32",
        device="cpu",
        shape=ModelShape(**sizes, **rest),
        limits=Limits(token_limit=TOKEN_LIMIT, generation_limit=GENERATION_LIMIT, batch_limit=4, max_num_results=100),
        runners=(RunnerDescription("Runner", SOURCES, 16),),
    )
    return ServedModel(description, PromptTokenizer(hf_tokenizer))


def asked(**changes: Any) -> dict[str, Any]:
    """What both steering bodies share: feature 2 of 1-res-demo, greedy, steered and not."""
    return GREEDY | changes


def vector(**changes: Any) -> dict[str, Any]:
    """Half a body: a vector in place of the feature."""
    one = {"steeringVector": [1.0] * D_MODEL, "strength": 1.0, "hook": "blocks.1.hook_resid_post"}
    return {"features": None, "vectors": [one | changes]}


def growths(
    model: ServedModel, texts: list[str], finish: Finish = "length", *, scored: int = 0
) -> Iterator[list[Growth]]:
    """What an engine reports that writes these texts, one token of each at a time; special tokens are recognised."""
    rows = [model.tokenizer.encode_rendered(text).ids for text in texts]
    for at in range(max(map(len, rows))):
        yield [
            Growth(
                index,
                (row[at],),
                (TokenScore(-0.5, tuple((id_, -0.5 - id_) for id_ in range(10, 10 + scored))),) if scored else (),
                finish if at == len(row) - 1 else None,
            )
            for index, row in enumerate(rows)
            if at < len(row)
        ]


def prompts(continuations: list[Continuation]) -> set[tuple[int, ...]]:
    """The prompts that are to be continued."""
    return {one.prompt for one in continuations}
