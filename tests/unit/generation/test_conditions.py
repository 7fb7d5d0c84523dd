"""Steering that acts only where a feature fires."""

import asyncio
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.deadline import Deadline
from core.errors import InvalidRequest
from core.generation.requests import Continuation, Growth, Sampling
from core.saes.encoder import LoadedSae
from core.saes.loading import load_sae
from core.steering.specification import Condition, HookPlace, Push, Steering, VectorDirection
from tests.unit.engine.families import D_MODEL, FAMILIES, VOCAB_SIZE, hf_model
from tests.unit.generation.world import engine_of
from tests.unit.saes.kinds import HOOK, saved

N_TOKENS = 10
INDEX = 3
VECTOR = np.random.default_rng(0).standard_normal(D_MODEL).astype(np.float32) * 4


def truth(sae: LoadedSae, above: float, prompt: list[int]) -> tuple[list[int], list[int]]:
    """Greedy tokens of the plain model, bent after block 1 where the feature is active there; steered positions."""
    model: Any = copy.deepcopy(hf_model("llama", "eager")).double()
    block = model.get_submodule(FAMILIES["llama"].blocks)[1]
    steered: list[int] = []

    def bend(_: Any, __: Any, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        active = sae.sae.encode(h[0].float())[:, INDEX] > above
        steered[:] = active.nonzero().flatten().tolist()
        bent = torch.where(active[:, None], h[0] + torch.from_numpy(VECTOR).double(), h[0])[None]
        return (bent, *output[1:]) if isinstance(output, tuple) else bent

    handle = block.register_forward_hook(bend)
    ids = list(prompt)
    try:
        with torch.no_grad():
            for _ in range(N_TOKENS):
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    finally:
        handle.remove()
    return ids[len(prompt) :], steered


def asked(source: str, above: float, prompt: list[int], at: HookPlace | None = None) -> Continuation:
    push = Push(VectorDirection(at or HookPlace(1, "resid_post"), VECTOR), 1.0)
    return Continuation(
        tuple(prompt), Sampling(N_TOKENS, 0.0), Steering((push,), condition=Condition(source, INDEX, above))
    )


def run(sae: LoadedSae, requests: list[Continuation]) -> list[Growth]:
    async def main() -> list[Growth]:
        async with engine_of("llama", saes={sae.source: sae}) as engine:
            return await engine.generate(requests, Deadline.after(60))

    return asyncio.run(main())


@pytest.mark.parametrize("kind", ["jumprelu", "topk"])
def test_only_positions_where_the_feature_fires_are_steered(kind: str, tmp_path: Path) -> None:
    assert HOOK == "blocks.1.hook_resid_post"
    sae = load_sae(saved(kind, tmp_path), dtype="float32")
    prompt = np.random.default_rng(1).integers(1, VOCAB_SIZE, 12).tolist()
    with torch.no_grad():
        hidden: Any = hf_model("llama")(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states[2][0]
    levels = sae.sae.encode(hidden)[:, INDEX]
    middle = float(levels.sort().values[-4:].mean())
    thresholds = [-1.0, middle, 1e9]
    found = run(sae, [asked(sae.source, above, prompt) for above in thresholds])
    seen: set[int] = set()
    for above, growth in zip(thresholds, found, strict=True):
        tokens, steered = truth(sae, above, prompt)
        assert list(growth.tokens) == tokens
        seen.add(len(steered))
    assert 0 in seen
    assert len(prompt) + N_TOKENS - 1 in seen
    assert len(seen) == 3


def test_a_condition_that_is_read_too_late_is_refused(tmp_path: Path) -> None:
    sae = load_sae(saved("jumprelu", tmp_path), dtype="float32")
    with pytest.raises(InvalidRequest, match="comes after"):
        run(sae, [asked(sae.source, 0.0, [1, 2], HookPlace(1, "resid_pre"))])


def test_a_condition_on_a_temporal_sae_is_refused(tmp_path: Path) -> None:
    sae = load_sae(saved("temporal", tmp_path), dtype="float32")
    with pytest.raises(InvalidRequest, match="temporal"):
        run(sae, [asked(sae.source, 0.0, [1, 2])])
